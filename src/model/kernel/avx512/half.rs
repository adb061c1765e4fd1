//! Products of f16 (AVX512-FP16) and of bf16 (AVX512-BF16).

use std::arch::x86_64::*;

use super::{Avx512, Lanes, ROWS, any_block, block};
use crate::model::kernel::{
    arithmetic::{Arithmetic, Element, Tile},
    simd::{Accuracy, intrinsics},
};

/// Products of f16 with sums in f16, two per column, which are converted to f32 before they become inaccurate.
pub(in crate::model::kernel) struct Avx512F16;

impl Lanes for Avx512F16 {
    type Sum = __m512h;
    const CHUNK: usize = 192;

    intrinsics! {
        fn zero() -> __m512h { _mm512_setzero_ph() }
        fn step(sum: __m512h, a: __m512i, b: __m512i) -> __m512h {
            _mm512_fmadd_ph(_mm512_castsi512_ph(a), _mm512_castsi512_ph(b), sum)
        }
    }

    /// Even and odd positions are sums over even and odd elements of the same column.
    #[inline(always)]
    unsafe fn finish(low: __m512h, high: __m512h, _tile: &Tile, _row: usize) -> [__m512; 2] {
        // SAFETY: the caller's CPU has AVX512-FP16, which has AVX512-BW in it.
        unsafe {
            let (low, high) = (_mm512_castph_si512(low), _mm512_castph_si512(high));
            let even = _mm512_permutex2var_epi16(low, even_positions(), high);
            let odd =
                _mm512_permutex2var_epi16(low, _mm512_or_si512(even_positions(), _mm512_set1_epi16(1)), high);
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

/// The indices 0, 2, … 62.
#[inline(always)]
unsafe fn even_positions() -> __m512i {
    const POSITIONS: [u16; 32] = {
        let mut positions = [0; 32];
        let mut i = 0;
        while i < 32 {
            positions[i] = 2 * i as u16;
            i += 1;
        }
        positions
    };
    // SAFETY: 64 bytes, on a CPU with AVX-512F.
    unsafe { _mm512_loadu_si512(POSITIONS.as_ptr().cast()) }
}

impl Arithmetic for Avx512F16 {
    type Simd = Avx512;
    type Attention = Avx512F16;
    const ELEMENT: Element = Element::F16;
    const ACCURACY: Accuracy = Accuracy::Half;
    const ROWS: usize = ROWS;

    intrinsics! {
        fn tile(tile: &Tile) -> () { any_block!(tile, Avx512F16, "avx512f,avx512bw,avx512vl,avx512fp16") }
        fn put(to: *mut u8, x: __m512) -> () { put_f16(to, x) }
        fn interleave(rows: [*const u8; 4], to: *mut u8) -> () { interleave_halves(rows[0], rows[1], to) }
    }
}

/// Interleaves two rows of 32 half-precision numbers into one lane of 32 columns.
#[inline(always)]
pub(in crate::model::kernel) unsafe fn interleave_halves(low: *const u8, high: *const u8, to: *mut u8) {
    const POSITIONS: [[u16; 32]; 2] = {
        let mut positions = [[0; 32]; 2];
        let mut i = 0;
        while i < 32 {
            positions[i / 16][i % 16 * 2] = i as u16;
            positions[i / 16][i % 16 * 2 + 1] = 32 + i as u16;
            i += 1;
        }
        positions
    };
    // SAFETY: 64 bytes in each row, 128 to write, on a CPU with AVX-512BW.
    unsafe {
        let (low, high) = (_mm512_loadu_si512(low.cast()), _mm512_loadu_si512(high.cast()));
        for (i, positions) in POSITIONS.iter().enumerate() {
            let positions = _mm512_loadu_si512(positions.as_ptr().cast());
            _mm512_storeu_si512(to.add(64 * i).cast(), _mm512_permutex2var_epi16(low, positions, high));
        }
    }
}

/// Stores 16 numbers in f16 with the instruction of AVX512-FP16. The older instruction takes a hundred more cycles for a
/// vector with a subnormal result, which is frequent for shares of a softmax and for GELU.
#[inline(always)]
pub(in crate::model::kernel) unsafe fn put_f16(to: *mut u8, x: __m512) {
    // SAFETY: 32 bytes, on a CPU with AVX512-FP16.
    unsafe { _mm256_storeu_si256(to.cast(), _mm256_castph_si256(_mm512_cvtxps_ph(x))) }
}

/// Products of pairs of bf16 with sums in f32.
pub(in crate::model::kernel) struct Avx512Bf16;

impl Lanes for Avx512Bf16 {
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

impl Arithmetic for Avx512Bf16 {
    type Simd = Avx512;
    type Attention = Avx512Bf16;
    const ELEMENT: Element = Element::Bf16;
    const ACCURACY: Accuracy = Accuracy::Half;
    const ROWS: usize = ROWS;

    intrinsics! {
        fn tile(tile: &Tile) -> () { any_block!(tile, Avx512Bf16, "avx512f,avx512bw,avx512vl,avx512bf16") }
        fn put(to: *mut u8, x: __m512) -> () { put_bf16(to, x) }
        fn put_two(to: *mut u8, low: __m512, high: __m512) -> () { put_two_bf16(to, low, high) }
        fn interleave(rows: [*const u8; 4], to: *mut u8) -> () { interleave_halves(rows[0], rows[1], to) }
    }
}

#[inline(always)]
pub(in crate::model::kernel) unsafe fn put_bf16(to: *mut u8, x: __m512) {
    // SAFETY: 32 bytes, on a CPU with AVX512-BF16.
    unsafe { to.cast::<__m256bh>().write_unaligned(_mm512_cvtneps_pbh(x)) }
}

/// Stores two consecutive vectors in bf16.
#[inline(always)]
pub(in crate::model::kernel) unsafe fn put_two_bf16(to: *mut u8, low: __m512, high: __m512) {
    // SAFETY: 64 bytes, on a CPU with AVX512-BF16.
    unsafe { to.cast::<__m512bh>().write_unaligned(_mm512_cvtne2ps_pbh(high, low)) }
}
