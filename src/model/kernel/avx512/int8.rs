//! Products of 8-bit integers (AVX512-VNNI).

use std::{arch::x86_64::*, marker::PhantomData};

use super::{Avx512, Avx512F16, Avx512F32, Lanes, ROWS, any_block, block};
use crate::model::kernel::{
    arithmetic::{Arithmetic, Element, Tile},
    scalar::unit_and_zero,
    simd::{Accuracy, intrinsics},
};

/// Products of integers in groups of four, exact in i32.
struct VnniLanes;

impl Lanes for VnniLanes {
    type Sum = __m512i;

    intrinsics! {
        fn zero() -> __m512i { _mm512_setzero_si512() }
        fn step(sum: __m512i, a: __m512i, b: __m512i) -> __m512i { _mm512_dpbusd_epi32(sum, a, b) }
        fn finish(low: __m512i, high: __m512i, tile: &Tile, row: usize) -> [__m512; 2] {
            real_numbers([_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high)], tile, row)
        }
    }
}

/// Converts sums of integers to real numbers.
#[inline(always)]
pub(in crate::model::kernel) unsafe fn real_numbers(
    sums: [__m512; 2],
    tile: &Tile,
    row: usize,
) -> [__m512; 2] {
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

/// The indices 0, 2, … 30.
#[inline(always)]
unsafe fn even_words() -> __m512i {
    // SAFETY: the caller's CPU has AVX-512F.
    unsafe { _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) }
}

/// Products of integers, with attention in the floats of `A`.
pub(in crate::model::kernel) struct Avx512Vnni<A>(PhantomData<A>);

impl<A: Arithmetic<Simd = Avx512> + StagedFloat> Arithmetic for Avx512Vnni<A> {
    type Simd = Avx512;
    type Attention = A;
    const ELEMENT: Element = Element::Int8;
    const ACCURACY: Accuracy = Accuracy::Half;
    const ROWS: usize = ROWS;

    intrinsics! {
        fn tile(tile: &Tile) -> () { any_block!(tile, VnniLanes, "avx512f,avx512vnni") }
        fn put(to: *mut u8, x: __m512) -> () { A::put(to, x) }
        fn put_two(to: *mut u8, low: __m512, high: __m512) -> () { A::put_two(to, low, high) }
        fn seal(stage: *const u8, width: usize, elements: *mut u8, scale: *mut [f32; 2]) -> () {
            seal::<A>(stage, width, elements, scale)
        }
    }
}

/// Float type in which rows are staged.
///
/// # Safety
/// The CPU must support the instruction set.
pub(in crate::model::kernel) trait StagedFloat: Arithmetic {
    /// Loads 16 numbers.
    unsafe fn get(from: *const u8) -> __m512;
}

impl StagedFloat for Avx512F32 {
    intrinsics! { fn get(from: *const u8) -> __m512 { _mm512_loadu_ps(from.cast()) } }
}

impl StagedFloat for Avx512F16 {
    intrinsics! { fn get(from: *const u8) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) } }
}

#[inline(always)]
pub(in crate::model::kernel) unsafe fn seal<A: StagedFloat>(
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
