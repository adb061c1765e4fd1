//! Scalar reference kernels in plain Rust.

use std::marker::PhantomData;

use half::{bf16, f16};

use super::{
    arithmetic::{Arithmetic, Element, PANEL, Tile},
    simd::{Accuracy, Simd},
};

/// Vectors of one number.
pub(super) struct Scalar;

impl Simd for Scalar {
    type Vector = f32;
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> f32 {
        // SAFETY: the caller gives one number.
        unsafe { from.read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: f32) {
        // SAFETY: as above.
        unsafe { to.write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn add(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    unsafe fn sub(a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    unsafe fn mul(a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    unsafe fn div(a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    unsafe fn min(a: f32, b: f32) -> f32 {
        a.min(b)
    }
    #[inline(always)]
    unsafe fn max(a: f32, b: f32) -> f32 {
        a.max(b)
    }
    #[inline(always)]
    unsafe fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    unsafe fn round(x: f32) -> f32 {
        x.round_ties_even()
    }
    #[inline(always)]
    unsafe fn scale(x: f32, n: f32) -> f32 {
        x * f32::from_bits(((n as i32 + 127) as u32) << 23)
    }
    #[inline(always)]
    unsafe fn sum(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn highest(x: f32) -> f32 {
        x
    }
}

/// Element type that the scalar kernels read and write.
pub(super) trait ScalarElement: 'static {
    const ELEMENT: Element;
    fn get(bytes: [u8; 4]) -> f32;
    fn put(x: f32) -> [u8; 4];
}

pub(super) struct ScalarF32;
pub(super) struct ScalarF16;
pub(super) struct ScalarBf16;

impl ScalarElement for ScalarF32 {
    const ELEMENT: Element = Element::F32;
    fn get(bytes: [u8; 4]) -> f32 {
        f32::from_ne_bytes(bytes)
    }
    fn put(x: f32) -> [u8; 4] {
        x.to_ne_bytes()
    }
}

impl ScalarElement for ScalarF16 {
    const ELEMENT: Element = Element::F16;
    fn get([a, b, ..]: [u8; 4]) -> f32 {
        f16::from_ne_bytes([a, b]).to_f32()
    }
    fn put(x: f32) -> [u8; 4] {
        let [a, b] = f16::from_f32(x).to_ne_bytes();
        [a, b, 0, 0]
    }
}

impl ScalarElement for ScalarBf16 {
    const ELEMENT: Element = Element::Bf16;
    fn get([a, b, ..]: [u8; 4]) -> f32 {
        bf16::from_ne_bytes([a, b]).to_f32()
    }
    fn put(x: f32) -> [u8; 4] {
        let [a, b] = bf16::from_f32(x).to_ne_bytes();
        [a, b, 0, 0]
    }
}

/// Products of floats with sums in f32.
pub(super) struct ScalarFloats<T>(PhantomData<T>);

impl<T: ScalarElement> Arithmetic for ScalarFloats<T> {
    type Simd = Scalar;
    type Attention = Self;
    const ELEMENT: Element = T::ELEMENT;
    const ACCURACY: Accuracy = Accuracy::Full;
    const ROWS: usize = 8;

    unsafe fn tile(tile: &Tile) {
        let bytes = T::ELEMENT.bytes();
        // SAFETY: `bytes` of them are an element, which the caller gives.
        let element = |at: *const u8| unsafe {
            let mut copy = [0; 4];
            at.copy_to_nonoverlapping(copy.as_mut_ptr(), bytes);
            T::get(copy)
        };
        for row in 0..tile.rows {
            for column in 0..PANEL {
                let mut sum = 0.0;
                for i in 0..tile.lanes * T::ELEMENT.per_lane() {
                    // SAFETY: within the row and the panel that the caller gives.
                    let (a, b) = unsafe {
                        (tile.a.add(row * tile.a_stride + i * bytes), lane(tile, column, i, bytes))
                    };
                    sum += element(a) * element(b);
                }
                // SAFETY: within the block that the caller gives.
                unsafe { tile.out.add(row * tile.out_stride + column).write_unaligned(sum) };
            }
        }
    }

    unsafe fn put(to: *mut u8, x: f32) {
        // SAFETY: the caller gives room for one element.
        unsafe { to.copy_from_nonoverlapping(T::put(x).as_ptr(), T::ELEMENT.bytes()) };
    }
}

/// Products of integers, with attention in f32.
pub(super) struct ScalarInt8;

impl Arithmetic for ScalarInt8 {
    type Simd = Scalar;
    type Attention = ScalarFloats<ScalarF32>;
    const ELEMENT: Element = Element::Int8;
    const ACCURACY: Accuracy = Accuracy::Full;
    const ROWS: usize = 8;

    unsafe fn tile(tile: &Tile) {
        for row in 0..tile.rows {
            for column in 0..PANEL {
                let mut sum = 0_i32;
                for i in 0..tile.lanes * 4 {
                    // SAFETY: within the row and the panel that the caller gives.
                    let (a, b) = unsafe {
                        (*tile.a.add(row * tile.a_stride + i), lane(tile, column, i, 1).cast::<i8>().read())
                    };
                    sum += i32::from(a) * i32::from(b);
                }
                // SAFETY: one pair for each row and column, and within the block that the caller gives.
                unsafe {
                    let ([scale, zero], [unit, total]) =
                        (*tile.a_scales.add(row), *tile.b_columns.add(column));
                    let x = (sum as f32 - zero * total) * (scale * unit);
                    tile.out.add(row * tile.out_stride + column).write_unaligned(x);
                }
            }
        }
    }

    unsafe fn put(to: *mut u8, x: f32) {
        // SAFETY: as for the caller.
        unsafe { ScalarFloats::<ScalarF32>::put(to, x) };
    }

    unsafe fn seal(stage: *const u8, width: usize, elements: *mut u8, scale: *mut [f32; 2]) {
        // SAFETY: `width` numbers on both sides.
        let x = |i: usize| unsafe { stage.cast::<f32>().add(i).read_unaligned() };
        let lowest = (0..width).map(x).fold(0.0, f32::min);
        let highest = (0..width).map(x).fold(0.0, f32::max);
        let (unit, zero) = unit_and_zero(lowest, highest);
        for i in 0..width {
            // SAFETY: as above.
            unsafe { elements.add(i).write((x(i) / unit + zero).round_ties_even().clamp(0.0, 255.0) as u8) };
        }
        // SAFETY: one pair.
        unsafe { scale.write([unit, zero]) };
    }
}

/// Pointer to element `i` of a column.
unsafe fn lane(tile: &Tile, column: usize, i: usize, bytes: usize) -> *const u8 {
    let per_lane = 4 / bytes;
    // SAFETY: within the panel that the caller gives.
    unsafe { tile.b.add((i / per_lane * PANEL + column) * 4 + i % per_lane * bytes) }
}

/// Scale and zero point for numbers in [`lowest`, `highest`], a range that includes 0.
#[inline(always)]
pub(super) fn unit_and_zero(lowest: f32, highest: f32) -> (f32, f32) {
    let unit = ((highest - lowest) / 255.0).max(f32::MIN_POSITIVE * 256.0);
    (unit, (-lowest / unit).round_ties_even())
}
