//! AVX2 and FMA kernel: products of f32.

use std::arch::x86_64::*;

use super::{
    arithmetic::{Arithmetic, Element, PANEL, Tile},
    simd::{Accuracy, Simd, intrinsics},
};

/// Vectors of 8 numbers.
pub(super) struct Avx2;

impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;

    intrinsics! {
        fn splat(x: f32) -> __m256 { _mm256_set1_ps(x) }
        fn load(from: *const f32) -> __m256 { _mm256_loadu_ps(from) }
        fn store(to: *mut f32, x: __m256) -> () { _mm256_storeu_ps(to, x) }
        fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn min(a: __m256, b: __m256) -> __m256 { _mm256_min_ps(a, b) }
        fn max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn round(x: __m256) -> __m256 { _mm256_round_ps::<0>(x) }
        fn scale(x: __m256, n: __m256) -> __m256 {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
        fn sum(x: __m256) -> f32 { folded(x, |a, b| _mm_add_ps(a, b)) }
        fn highest(x: __m256) -> f32 { folded(x, |a, b| _mm_max_ps(a, b)) }
        fn transpose(from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) -> () {
            for row in [0, 8] {
                for column in [0, 8] {
                    let from = from.add(row * from_stride + column * 4);
                    transpose_8(from, from_stride, to.add(column * to_stride + row * 4), to_stride);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn folded(x: __m256, fold: impl Fn(__m128, __m128) -> __m128) -> f32 {
    // SAFETY: the caller's CPU has AVX2.
    unsafe {
        let x = fold(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = fold(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(fold(x, _mm_shuffle_ps::<1>(x, x)))
    }
}

#[inline(always)]
unsafe fn transpose_8(from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) {
    // SAFETY: the caller gives 8 rows of 32 bytes on both sides, on a CPU with AVX2.
    unsafe {
        let mut rows = [_mm256_setzero_ps(); 8];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm256_loadu_ps(from.add(i * from_stride).cast());
        }
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        let mut quads = rows;
        for i in 0..2 {
            let group: &[__m256] = &pairs[4 * i..];
            quads[4 * i] = _mm256_shuffle_ps::<0x44>(group[0], group[2]);
            quads[4 * i + 1] = _mm256_shuffle_ps::<0xee>(group[0], group[2]);
            quads[4 * i + 2] = _mm256_shuffle_ps::<0x44>(group[1], group[3]);
            quads[4 * i + 3] = _mm256_shuffle_ps::<0xee>(group[1], group[3]);
        }
        for i in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(quads[i], quads[i + 4]);
            let high = _mm256_permute2f128_ps::<0x31>(quads[i], quads[i + 4]);
            _mm256_storeu_ps(to.add(i * to_stride).cast(), low);
            _mm256_storeu_ps(to.add((i + 4) * to_stride).cast(), high);
        }
    }
}

/// Rows of a tile, in two groups.
const ROWS: usize = 12;

/// Rows of a group: with two vectors of columns, 12 of 16 registers are sums.
const GROUP_ROWS: usize = 6;

/// Lanes per group of rows in one chunk. All rows are multiplied with a chunk of a panel before the next chunk, so that
/// both stay in the cache. A single group uses shorter chunks, since it would wait for memory if they left the L1 cache.
const CHUNK: usize = 96;

/// Lanes per iteration of the loop, which share the row addresses.
const UNROLLED: usize = 4;

/// Prefetch during a block: one address per lane.
struct Ahead {
    start: *const u8,
    stride: usize,
}

/// Functions by number of rows. They are called through a table because link-time optimisation inlines direct calls, and
/// the loop then recomputes constants in every iteration for lack of registers.
static BLOCKS: [unsafe fn(&Tile, bool, &Ahead); GROUP_ROWS + 1] =
    [block::<0>, block::<1>, block::<2>, block::<3>, block::<4>, block::<5>, block::<6>];

/// Computes a tile by chunks of lanes, each in passes over a group of rows and half of the columns. The following panels
/// are prefetched evenly, line by line, since a burst would delay the products.
#[inline(always)]
unsafe fn by_chunks(tile: &Tile) {
    let groups = tile.rows.div_ceil(GROUP_ROWS).max(1);
    let chunks = tile.lanes.div_ceil(CHUNK * groups);
    for chunk in 0..chunks {
        let lanes = tile.lanes * chunk / chunks..tile.lanes * (chunk + 1) / chunks;
        let start = tile.b.wrapping_add(lanes.end * PANEL * 4);
        let mut ahead = Ahead { start, stride: PANEL * 4 / (2 * groups) };
        for half in [0, 16] {
            for group in 0..groups {
                let rows = tile.rows * group / groups..tile.rows * (group + 1) / groups;
                // SAFETY: within the tile.
                unsafe {
                    let pass = Tile {
                        a: tile.a.add(rows.start * tile.a_stride + lanes.start * 4),
                        rows: rows.len(),
                        b: tile.b.add((lanes.start * PANEL + half) * 4),
                        lanes: lanes.len(),
                        out: tile.out.add(rows.start * tile.out_stride + half),
                        ..*tile
                    };
                    BLOCKS[pass.rows](&pass, chunk > 0, &ahead);
                }
                ahead.start = ahead.start.wrapping_add(lanes.len() * ahead.stride);
            }
        }
    }
}

/// Multiplies `M` rows with 16 columns, and adds to the sums of earlier lanes if `adds`. A separate function, so that it can
/// use all registers.
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
unsafe fn block<const M: usize>(tile: &Tile, adds: bool, ahead: &Ahead) {
    // SAFETY: `M` rows and half of a panel of as many lanes, as the caller gives; a prefetch may name any address.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        if adds {
            for (row, sums) in sums.iter_mut().enumerate() {
                let out = tile.out.add(row * tile.out_stride);
                *sums = [_mm256_loadu_ps(out), _mm256_loadu_ps(out.add(8))];
            }
        }
        let mut step = |lane: usize| {
            _mm_prefetch::<_MM_HINT_T0>(ahead.start.wrapping_add(lane * ahead.stride).cast());
            let b = tile.b.cast::<f32>().add(lane * PANEL);
            let b = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = tile.a.add(row * tile.a_stride).cast::<f32>().add(lane).read_unaligned();
                let a = _mm256_set1_ps(a);
                sums[0] = _mm256_fmadd_ps(a, b[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(a, b[1], sums[1]);
            }
        };
        let rounds = tile.lanes / UNROLLED;
        for round in 0..rounds {
            (0..UNROLLED).for_each(|i| step(round * UNROLLED + i));
        }
        (rounds * UNROLLED..tile.lanes).for_each(step);
        for (row, sums) in sums.into_iter().enumerate() {
            let out = tile.out.add(row * tile.out_stride);
            _mm256_storeu_ps(out, sums[0]);
            _mm256_storeu_ps(out.add(8), sums[1]);
        }
    }
}

/// Products of f32.
pub(super) struct Avx2F32;

impl Arithmetic for Avx2F32 {
    type Simd = Avx2;
    type Attention = Avx2F32;
    const ELEMENT: Element = Element::F32;
    const ACCURACY: Accuracy = Accuracy::Full;
    const ROWS: usize = ROWS;
    const FETCHES: bool = true;

    intrinsics! {
        fn tile(tile: &Tile) -> () { by_chunks(tile) }
        fn put(to: *mut u8, x: __m256) -> () { _mm256_storeu_ps(to.cast(), x) }
    }
}
