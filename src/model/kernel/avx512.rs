//! AVX-512 kernels: products of f32, f16 (AVX512-FP16), bf16 (AVX512-BF16) and 8-bit integers (AVX512-VNNI).

mod half;
mod int8;

use std::arch::x86_64::*;

use super::{
    arithmetic::{Arithmetic, Element, PANEL, Tile},
    simd::{Accuracy, GROUP, Simd, exp2, gelu, intrinsics, polynomial},
};

pub(super) use half::{Avx512Bf16, Avx512F16, interleave_halves, put_bf16, put_f16, put_two_bf16};
pub(super) use int8::{Avx512Vnni, StagedFloat, real_numbers, seal};

/// Returns true if the CPU supports the features that all kernels in this file need.
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

/// Vectors of 16 numbers.
pub(super) struct Avx512;

/// Reduces 16 vectors to one number each, by repeatedly combining halves.
macro_rules! of_each {
    ($rows:expr, $two:ident) => {{
        let rows: &[__m512; GROUP] = $rows;
        let (mut pairs, mut quads) = ([_mm512_setzero_ps(); 8], [_mm512_setzero_ps(); 4]);
        for i in 0..8 {
            let (a, b) = (rows[2 * i], rows[2 * i + 1]);
            pairs[i] = $two(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        }
        for i in 0..4 {
            let (a, b) = (_mm512_castps_pd(pairs[2 * i]), _mm512_castps_pd(pairs[2 * i + 1]));
            let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
            quads[i] = $two(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
        }
        let [a, b, c, d] = quads;
        let low = $two(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let high = $two(_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
        $two(_mm512_shuffle_f32x4::<0x88>(low, high), _mm512_shuffle_f32x4::<0xdd>(low, high))
    }};
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
        fn load_first(from: *const f32, count: usize, fill: f32) -> __m512 {
            _mm512_mask_loadu_ps(_mm512_set1_ps(fill), ((1_u32 << count) - 1) as u16, from)
        }
        fn sum_of_each(rows: &[__m512; GROUP], sums: &mut [f32; GROUP]) -> () {
            _mm512_storeu_ps(sums.as_mut_ptr(), of_each!(rows, _mm512_add_ps));
        }
        fn highest_of_each(rows: &[__m512; GROUP], highest: &mut [f32; GROUP]) -> () {
            _mm512_storeu_ps(highest.as_mut_ptr(), of_each!(rows, _mm512_max_ps));
        }
        fn exp2(x: __m512, accuracy: Accuracy) -> __m512 {
            match accuracy {
                Accuracy::Full => exp2::<Avx512>(x, accuracy),
                Accuracy::Half => exp2_by_reduction(x),
            }
        }
        fn gelu(x: __m512, accuracy: Accuracy) -> __m512 {
            match accuracy {
                Accuracy::Full => gelu::<Avx512>(x, accuracy),
                Accuracy::Half => gelu_by_table(x),
            }
        }
        fn transpose(from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) -> () {
            transpose(from, from_stride, to, to_stride)
        }
    }
}

/// [`exp2`] with `x = n + f` and 0 <= f < 1, split by two instructions. It takes three quarters of the time. Minimax fit of
/// degree 3, relative error 8e-5.
#[inline(always)]
unsafe fn exp2_by_reduction(x: __m512) -> __m512 {
    const DOWN: i32 = 1;
    // SAFETY: the caller's CPU has AVX-512DQ.
    unsafe {
        let x = _mm512_max_ps(x, _mm512_set1_ps(-100.0));
        let fraction = _mm512_reduce_ps::<DOWN>(x);
        _mm512_scalef_ps(
            polynomial::<Avx512, 4>(fraction, &[0.999_925_2, 0.695_833_56, 0.226_067_16, 0.078_024_52]),
            x,
        )
    }
}

/// GELU as the sum of `max(x, 0)` and an even function that vanishes beyond 4.15. The even function is a quadratic on each of
/// 16 segments, whose coefficients are looked up by a permutation. Absolute error 8e-5; it takes two thirds of the time of
/// the polynomial.
#[inline(always)]
unsafe fn gelu_by_table(x: __m512) -> __m512 {
    const END: f32 = 4.15;
    const SEGMENTS_PER_UNIT: f32 = 3.73;
    /// Adding it to a number below 2^22 leaves the nearest integer in the lowest bits.
    const TO_INTEGER: f32 = 8_388_608.0;
    /// Coefficients by ascending power, which interpolate `-a erfc(a / sqrt 2) / 2` at the Chebyshev nodes of its segment.
    #[rustfmt::skip]
    const COEFFICIENTS: [[f32; 16]; 3] = [
        [
            -1.0032383e-6, -0.000_805_069_05, -0.013_569_435, -0.058_988_936, -0.146_400_03, -0.259_942_7, -0.364_171_1, -0.423_888_2,
            -0.422_688_48, -0.368_267_45, -0.284_121_63, -0.195_970_49, -0.121_697_31, -0.068_406_28, -0.034_949_27, -0.016_409_334,
        ],
        [
            -0.499_870_27, -0.490_578_56, -0.429_026, -0.294_379_83, -0.107_933_71, 0.081_106_05, 0.223_505_14, 0.292_917_82,
            0.292_273_88, 0.244_738_24, 0.178_667_87, 0.115_941_52, 0.067_645_03, 0.035_747_826, 0.017_199_112, 0.007_625_118_4,
        ],
        [
            0.396_931_5, 0.370_273_23, 0.295_454_08, 0.195_337_41, 0.095_747_61, 0.016_984_16, -0.031_684_063, -0.051_861_517,
            -0.051_838_096, -0.041_455_057, -0.028_482_66, -0.017_321_922, -0.009_469_468, -0.004_695_875_6, -0.002_124_733_3, -0.000_888_629_3,
        ],
    ];
    // SAFETY: the caller's CPU has AVX-512F.
    unsafe {
        let size = _mm512_min_ps(_mm512_abs_ps(x), _mm512_set1_ps(END));
        let place = _mm512_fmadd_ps(size, _mm512_set1_ps(SEGMENTS_PER_UNIT), _mm512_set1_ps(TO_INTEGER));
        let segment = _mm512_castps_si512(place);
        let [c, b, a] = COEFFICIENTS.map(|row| _mm512_permutexvar_ps(segment, _mm512_loadu_ps(row.as_ptr())));
        let even = _mm512_fmadd_ps(_mm512_fmadd_ps(a, size, b), size, c);
        // This order of operands preserves NaN.
        _mm512_add_ps(_mm512_max_ps(_mm512_setzero_ps(), x), even)
    }
}

/// Transposes 16 x 16 words by interleaving pairs of words, then pairs of pairs and so on.
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

/// Products of vectors of 16 lanes of four bytes.
///
/// # Safety
/// The CPU must support the instruction set.
pub(super) trait Lanes: 'static {
    type Sum: Copy;
    /// Maximum lanes that are summed before a sum is converted to f32.
    const CHUNK: usize = usize::MAX;
    unsafe fn zero() -> Self::Sum;
    unsafe fn step(sum: Self::Sum, a: __m512i, b: __m512i) -> Self::Sum;
    /// Converts the sums of 32 columns to f32, in the order of the columns.
    unsafe fn finish(low: Self::Sum, high: Self::Sum, tile: &Tile, row: usize) -> [__m512; 2];
}

/// Prefetch distance in a panel, in bytes.
const AHEAD: usize = 2048;

/// Rows of a tile: with two vectors of columns, 24 of 32 registers are sums.
const ROWS: usize = 12;

/// Multiplies `M` rows with 32 columns, with sums in registers.
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

/// Calls [`block`] for the number of rows of a tile, as a separate function that can use all registers. `$features` are
/// those of the kernel.
macro_rules! any_block {
    ($tile:expr, $lanes:ty, $features:literal) => {{
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn rows<const M: usize>(tile: &Tile) {
            // SAFETY: as for the caller.
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
use any_block;

/// Products of f32.
pub(super) struct Avx512F32;

impl Lanes for Avx512F32 {
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

impl Arithmetic for Avx512F32 {
    type Simd = Avx512;
    type Attention = Avx512F32;
    const ELEMENT: Element = Element::F32;
    const ACCURACY: Accuracy = Accuracy::Full;
    const ROWS: usize = ROWS;

    intrinsics! {
        fn tile(tile: &Tile) -> () { any_block!(tile, Avx512F32, "avx512f") }
        fn put(to: *mut u8, x: __m512) -> () { _mm512_storeu_ps(to.cast(), x) }
    }
}
