//! NEON kernel: products of f32.

use std::arch::aarch64::*;

use super::{
    arithmetic::{Arithmetic, Element, PANEL, Tile},
    simd::{Accuracy, Simd, intrinsics},
};

/// Vectors of 4 numbers.
pub(super) struct Neon;

impl Simd for Neon {
    type Vector = float32x4_t;
    const LANES: usize = 4;

    intrinsics! {
        fn splat(x: f32) -> float32x4_t { vdupq_n_f32(x) }
        fn load(from: *const f32) -> float32x4_t { vld1q_f32(from) }
        fn store(to: *mut f32, x: float32x4_t) -> () { vst1q_f32(to, x) }
        fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
        fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
        fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
        fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t { vdivq_f32(a, b) }
        fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t { vminq_f32(a, b) }
        fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmaxq_f32(a, b) }
        fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t { vfmaq_f32(c, a, b) }
        fn round(x: float32x4_t) -> float32x4_t { vrndnq_f32(x) }
        fn scale(x: float32x4_t, n: float32x4_t) -> float32x4_t {
            let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
        fn sum(x: float32x4_t) -> f32 { vaddvq_f32(x) }
        fn highest(x: float32x4_t) -> f32 { vmaxvq_f32(x) }
    }
}

/// Rows of a tile: with four vectors of columns, 24 of 32 registers are sums.
const ROWS: usize = 6;

/// Multiplies `M` rows with 32 columns, in two passes of 16 columns. A separate function, so that it can use all registers.
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn block<const M: usize>(tile: &Tile) {
    for half in [0, 16] {
        // SAFETY: `M` rows and one panel of as many lanes, as the caller gives.
        unsafe {
            let mut sums = [[vdupq_n_f32(0.0); 4]; M];
            for lane in 0..tile.lanes {
                let b = tile.b.cast::<f32>().add(lane * PANEL + half);
                let b = [vld1q_f32(b), vld1q_f32(b.add(4)), vld1q_f32(b.add(8)), vld1q_f32(b.add(12))];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = tile.a.add(row * tile.a_stride).cast::<f32>().add(lane).read_unaligned();
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = vfmaq_n_f32(*sum, b, a);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                let out = tile.out.add(row * tile.out_stride + half);
                for (i, sum) in sums.into_iter().enumerate() {
                    vst1q_f32(out.add(4 * i), sum);
                }
            }
        }
    }
}

/// Products of f32.
pub(super) struct NeonF32;

impl Arithmetic for NeonF32 {
    type Simd = Neon;
    type Attention = NeonF32;
    const ELEMENT: Element = Element::F32;
    const ACCURACY: Accuracy = Accuracy::Full;
    const ROWS: usize = ROWS;

    intrinsics! {
        fn tile(tile: &Tile) -> () {
            match tile.rows {
                1 => block::<1>(tile),
                2 => block::<2>(tile),
                3 => block::<3>(tile),
                4 => block::<4>(tile),
                5 => block::<5>(tile),
                _ => block::<6>(tile),
            }
        }
        fn put(to: *mut u8, x: float32x4_t) -> () { vst1q_f32(to.cast(), x) }
    }
}
