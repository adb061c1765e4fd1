//! AVX-512: products of f32, of f16 (AVX512-FP16), of bf16 (AVX512-BF16) and of integers (AVX512-VNNI).

use std::{arch::x86_64::*, marker::PhantomData};

use super::{
    arithmetic::{Arithmetic, Element, Tile},
    matrix::PANEL,
    scalar::unit_and_zero,
    simd::{Accuracy, Simd},
};

pub(super) struct Avx512;

/// Functions of the trait that are one expression of intrinsics.
macro_rules! intrinsics {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty { $($body:tt)* })*) => {
        $(
            #[inline(always)]
            unsafe fn $name($($argument: $type),*) -> $result {
                // SAFETY: the caller's CPU has AVX-512F, and gives what its pointers promise.
                unsafe { $($body)* }
            }
        )*
    };
}

impl Simd for Avx512 {
    type Vector = __m512;
    const LANES: usize = 16;

    intrinsics! {
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(from: *const f32) -> __m512 { _mm512_loadu_ps(from) }
        fn store(to: *mut f32, x: __m512) -> () { _mm512_storeu_ps(to, x) }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn round(x: __m512) -> __m512 { _mm512_roundscale_ps::<0>(x) }
        fn scale(x: __m512, n: __m512) -> __m512 { _mm512_scalef_ps(x, n) }
        fn sum(x: __m512) -> f32 { _mm512_reduce_add_ps(x) }
        fn highest(x: __m512) -> f32 { _mm512_reduce_max_ps(x) }
        fn transpose(from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) -> () {
            transpose(from, from_stride, to, to_stride)
        }
    }
}

/// By halves: pairs of words, of pairs, of quadruples, of eights.
#[inline(always)]
unsafe fn transpose(from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) {
    // SAFETY: the caller gives 16 rows of 64 bytes on both sides, on a CPU with AVX-512F.
    unsafe {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm512_loadu_si512(from.add(i * from_stride).cast());
        }
        let mut pairs = rows;
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        let mut quads = rows;
        for i in 0..4 {
            let group: &[__m512i] = &pairs[4 * i..];
            quads[4 * i] = _mm512_unpacklo_epi64(group[0], group[2]);
            quads[4 * i + 1] = _mm512_unpackhi_epi64(group[0], group[2]);
            quads[4 * i + 2] = _mm512_unpacklo_epi64(group[1], group[3]);
            quads[4 * i + 3] = _mm512_unpackhi_epi64(group[1], group[3]);
        }
        for i in 0..4 {
            let low = _mm512_shuffle_i32x4::<0x88>(quads[i], quads[i + 4]);
            let high = _mm512_shuffle_i32x4::<0xdd>(quads[i], quads[i + 4]);
            let low_next = _mm512_shuffle_i32x4::<0x88>(quads[i + 8], quads[i + 12]);
            let high_next = _mm512_shuffle_i32x4::<0xdd>(quads[i + 8], quads[i + 12]);
            let columns = [
                _mm512_shuffle_i32x4::<0x88>(low, low_next),
                _mm512_shuffle_i32x4::<0x88>(high, high_next),
                _mm512_shuffle_i32x4::<0xdd>(low, low_next),
                _mm512_shuffle_i32x4::<0xdd>(high, high_next),
            ];
            for (j, column) in columns.into_iter().enumerate() {
                _mm512_storeu_si512(to.add((i + 4 * j) * to_stride).cast(), column);
            }
        }
    }
}

/// Products of vectors of 16 lanes, each of four bytes.
///
/// # Safety
/// The CPU has the instruction set.
pub(super) trait Lanes: 'static {
    type Sum: Copy;
    /// The most lanes that are summed before a sum goes to f32.
    const CHUNK: usize = usize::MAX;
    unsafe fn zero() -> Self::Sum;
    unsafe fn step(sum: Self::Sum, a: __m512i, b: __m512i) -> Self::Sum;
    /// 32 columns in f32, in their order.
    unsafe fn finish(low: Self::Sum, high: Self::Sum, tile: &Tile, row: usize) -> [__m512; 2];
}

/// Bytes of a panel that are fetched ahead.
const AHEAD: usize = 2048;

/// Rows of a tile: with two vectors of columns, 24 of 32 registers are sums.
const ROWS: usize = 12;

/// One block with its sums in registers: `M` rows times 32 columns.
#[inline(always)]
unsafe fn block<L: Lanes, const M: usize>(tile: &Tile) {
    let chunks = tile.lanes.div_ceil(L::CHUNK);
    for chunk in 0..chunks {
        let lanes = tile.lanes * chunk / chunks..tile.lanes * (chunk + 1) / chunks;
        // SAFETY: `M` rows and one panel of as many lanes, as the caller gives.
        unsafe {
            let mut sums = [[L::zero(); 2]; M];
            for lane in lanes {
                let b = tile.b.add(lane * PANEL * 4);
                _mm_prefetch::<_MM_HINT_T0>(b.add(AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(b.add(AHEAD + 64).cast());
                let b = [_mm512_loadu_si512(b.cast()), _mm512_loadu_si512(b.add(64).cast())];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = tile.a.add(row * tile.a_stride + lane * 4).cast::<i32>().read_unaligned();
                    let a = _mm512_set1_epi32(a);
                    sums[0] = L::step(sums[0], a, b[0]);
                    sums[1] = L::step(sums[1], a, b[1]);
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                let out = tile.out.add(row * tile.out_stride);
                let [mut low, mut high] = L::finish(sums[0], sums[1], tile, row);
                if chunk > 0 {
                    low = _mm512_add_ps(low, _mm512_loadu_ps(out));
                    high = _mm512_add_ps(high, _mm512_loadu_ps(out.add(16)));
                }
                _mm512_storeu_ps(out, low);
                _mm512_storeu_ps(out.add(16), high);
            }
        }
    }
}

/// Each number of rows as a function of its own, so that all registers are the block's; `$features` are those of
/// the kernel.
macro_rules! any_block {
    ($tile:expr, $lanes:ty, $features:literal) => {{
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn rows<const M: usize>(tile: &Tile) {
            // SAFETY: as of the caller.
            unsafe { block::<$lanes, M>(tile) }
        }
        match $tile.rows {
            1 => rows::<1>($tile),
            2 => rows::<2>($tile),
            3 => rows::<3>($tile),
            4 => rows::<4>($tile),
            5 => rows::<5>($tile),
            6 => rows::<6>($tile),
            7 => rows::<7>($tile),
            8 => rows::<8>($tile),
            9 => rows::<9>($tile),
            10 => rows::<10>($tile),
            11 => rows::<11>($tile),
            _ => rows::<12>($tile),
        }
    }};
}

pub(super) struct F32;

impl Lanes for F32 {
    type Sum = __m512;

    intrinsics! {
        fn zero() -> __m512 { _mm512_setzero_ps() }
        fn step(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
            _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
        }
    }

    #[inline(always)]
    unsafe fn finish(low: __m512, high: __m512, _tile: &Tile, _row: usize) -> [__m512; 2] {
        [low, high]
    }
}

impl Arithmetic for F32 {
    type Simd = Avx512;
    type Attention = F32;
    const ELEMENT: Element = Element::F32;
    const ACCURACY: Accuracy = Accuracy::Full;
    const ROWS: usize = ROWS;

    intrinsics! {
        fn tile(tile: &Tile) -> () { any_block!(tile, F32, "avx512f") }
        fn put(to: *mut u8, x: __m512) -> () { _mm512_storeu_ps(to.cast(), x) }
    }
}

/// Sums of f16 in f16, two for each column, which go to f32 before they grow inexact.
pub(super) struct Fp16;

impl Lanes for Fp16 {
    type Sum = __m512h;
    const CHUNK: usize = 192;

    intrinsics! {
        fn zero() -> __m512h { _mm512_setzero_ph() }
        fn step(sum: __m512h, a: __m512i, b: __m512i) -> __m512h {
            _mm512_fmadd_ph(_mm512_castsi512_ph(a), _mm512_castsi512_ph(b), sum)
        }
    }

    /// Even and odd places hold sums over even and odd elements of the same column.
    #[inline(always)]
    unsafe fn finish(low: __m512h, high: __m512h, _tile: &Tile, _row: usize) -> [__m512; 2] {
        // SAFETY: the caller's CPU has AVX512-FP16, which has AVX512-BW in it.
        unsafe {
            let (low, high) = (_mm512_castph_si512(low), _mm512_castph_si512(high));
            let even = _mm512_permutex2var_epi16(low, even_places(), high);
            let odd =
                _mm512_permutex2var_epi16(low, _mm512_or_si512(even_places(), _mm512_set1_epi16(1)), high);
            let wide = |x: __m512i| {
                [
                    _mm512_cvtph_ps(_mm512_castsi512_si256(x)),
                    _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(x)),
                ]
            };
            let ([a, b], [c, d]) = (wide(even), wide(odd));
            [_mm512_add_ps(a, c), _mm512_add_ps(b, d)]
        }
    }
}

/// 0, 2, … 62
#[inline(always)]
unsafe fn even_places() -> __m512i {
    const PLACES: [u16; 32] = {
        let mut places = [0; 32];
        let mut i = 0;
        while i < 32 {
            places[i] = 2 * i as u16;
            i += 1;
        }
        places
    };
    // SAFETY: 64 bytes, on a CPU with AVX-512F.
    unsafe { _mm512_loadu_si512(PLACES.as_ptr().cast()) }
}

impl Arithmetic for Fp16 {
    type Simd = Avx512;
    type Attention = Fp16;
    const ELEMENT: Element = Element::F16;
    const ACCURACY: Accuracy = Accuracy::Half;
    const ROWS: usize = ROWS;

    intrinsics! {
        fn tile(tile: &Tile) -> () { any_block!(tile, Fp16, "avx512f,avx512bw,avx512vl,avx512fp16") }
        fn put(to: *mut u8, x: __m512) -> () { put_f16(to, x) }
    }
}

/// By the instruction of AVX512-FP16: the older one takes a detour of a hundred cycles for each vector with a
/// subnormal result, and small shares of a softmax and small GELUs are many.
#[inline(always)]
pub(super) unsafe fn put_f16(to: *mut u8, x: __m512) {
    // SAFETY: 32 bytes, on a CPU with AVX512-FP16.
    unsafe { _mm256_storeu_si256(to.cast(), _mm256_castph_si256(_mm512_cvtxps_ph(x))) }
}

/// Products of pairs of bf16, summed in f32.
pub(super) struct Bf16;

impl Lanes for Bf16 {
    type Sum = __m512;

    intrinsics! {
        fn zero() -> __m512 { _mm512_setzero_ps() }
        fn step(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
            _mm512_dpbf16_ps(sum, std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b))
        }
    }

    #[inline(always)]
    unsafe fn finish(low: __m512, high: __m512, _tile: &Tile, _row: usize) -> [__m512; 2] {
        [low, high]
    }
}

impl Arithmetic for Bf16 {
    type Simd = Avx512;
    type Attention = Bf16;
    const ELEMENT: Element = Element::Bf16;
    const ACCURACY: Accuracy = Accuracy::Half;
    const ROWS: usize = ROWS;

    intrinsics! {
        fn tile(tile: &Tile) -> () { any_block!(tile, Bf16, "avx512f,avx512bw,avx512vl,avx512bf16") }
        fn put(to: *mut u8, x: __m512) -> () { put_bf16(to, x) }
    }
}

#[inline(always)]
pub(super) unsafe fn put_bf16(to: *mut u8, x: __m512) {
    // SAFETY: 32 bytes, on a CPU with AVX512-BF16.
    unsafe { to.cast::<__m256bh>().write_unaligned(_mm512_cvtneps_pbh(x)) }
}

/// Products of integers in fours, exact in i32.
struct Integers;

impl Lanes for Integers {
    type Sum = __m512i;

    intrinsics! {
        fn zero() -> __m512i { _mm512_setzero_si512() }
        fn step(sum: __m512i, a: __m512i, b: __m512i) -> __m512i { _mm512_dpbusd_epi32(sum, a, b) }
        fn finish(low: __m512i, high: __m512i, tile: &Tile, row: usize) -> [__m512; 2] {
            real_numbers([_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high)], tile, row)
        }
    }
}

/// What sums of integers stand for.
#[inline(always)]
pub(super) unsafe fn real_numbers(sums: [__m512; 2], tile: &Tile, row: usize) -> [__m512; 2] {
    // SAFETY: one pair for each row and column, on a CPU with AVX-512F.
    unsafe {
        let [scale, zero] = *tile.a_scales.add(row);
        let real = |sums: __m512, first: usize| {
            let pairs = tile.b_columns.add(first).cast::<f32>();
            let (a, b) = (_mm512_loadu_ps(pairs), _mm512_loadu_ps(pairs.add(16)));
            let even = even_words();
            let unit = _mm512_permutex2var_ps(a, even, b);
            let total = _mm512_permutex2var_ps(a, _mm512_or_si512(even, _mm512_set1_epi32(1)), b);
            let sums = _mm512_fnmadd_ps(_mm512_set1_ps(zero), total, sums);
            _mm512_mul_ps(sums, _mm512_mul_ps(unit, _mm512_set1_ps(scale)))
        };
        [real(sums[0], 0), real(sums[1], 16)]
    }
}

/// 0, 2, … 30
#[inline(always)]
unsafe fn even_words() -> __m512i {
    // SAFETY: the caller's CPU has AVX-512F.
    unsafe { _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) }
}

/// Integers, and attention in the floats of `A`.
pub(super) struct Vnni<A>(PhantomData<A>);

impl<A: Arithmetic<Simd = Avx512> + Staged> Arithmetic for Vnni<A> {
    type Simd = Avx512;
    type Attention = A;
    const ELEMENT: Element = Element::Int8;
    const ACCURACY: Accuracy = Accuracy::Half;
    const ROWS: usize = ROWS;

    intrinsics! {
        fn tile(tile: &Tile) -> () { any_block!(tile, Integers, "avx512f,avx512vnni") }
        fn put(to: *mut u8, x: __m512) -> () { A::put(to, x) }
        fn seal(stage: *const u8, width: usize, elements: *mut u8, scale: *mut [f32; 2]) -> () {
            seal::<A>(stage, width, elements, scale)
        }
    }
}

/// Floats that rows are staged in.
///
/// # Safety
/// The CPU has the instruction set.
pub(super) trait Staged: Arithmetic {
    /// Sixteen numbers.
    unsafe fn get(from: *const u8) -> __m512;
}

impl Staged for F32 {
    intrinsics! { fn get(from: *const u8) -> __m512 { _mm512_loadu_ps(from.cast()) } }
}

impl Staged for Fp16 {
    intrinsics! { fn get(from: *const u8) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) } }
}

#[inline(always)]
pub(super) unsafe fn seal<A: Staged>(
    stage: *const u8,
    width: usize,
    elements: *mut u8,
    scale: *mut [f32; 2],
) {
    let bytes = A::ELEMENT.bytes();
    // SAFETY: `width` numbers on both sides, a multiple of 16; one pair.
    unsafe {
        let (mut lowest, mut highest) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        for i in (0..width).step_by(16) {
            let x = A::get(stage.add(i * bytes));
            lowest = _mm512_min_ps(lowest, x);
            highest = _mm512_max_ps(highest, x);
        }
        let (unit, zero) = unit_and_zero(_mm512_reduce_min_ps(lowest), _mm512_reduce_max_ps(highest));
        let (per_unit, zeros) = (_mm512_set1_ps(1.0 / unit), _mm512_set1_ps(zero));
        for i in (0..width).step_by(16) {
            let x = _mm512_fmadd_ps(A::get(stage.add(i * bytes)), per_unit, zeros);
            let integers = _mm512_cvtps_epi32(_mm512_max_ps(x, _mm512_setzero_ps()));
            _mm_storeu_si128(elements.add(i).cast(), _mm512_cvtusepi32_epi8(integers));
        }
        scale.write([unit, zero]);
    }
}
