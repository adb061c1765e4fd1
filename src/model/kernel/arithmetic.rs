//! How the operands of a product are stored and multiplied: what sets one kernel apart from another.

use half::{bf16, f16};

use super::simd::{Accuracy, Simd};

/// Columns of a packed panel of weights: two vectors of 16.
pub(super) const PANEL: usize = 32;

/// The type of an operand's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
    /// Weights are signed with a scale for each column; states unsigned with a scale and a zero point for each row.
    Int8,
}

impl Element {
    pub const fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::Int8 => 1,
        }
    }

    /// Elements in a lane of four bytes.
    pub const fn per_lane(self) -> usize {
        4 / self.bytes()
    }

    /// What an integer 1 of these weights stands for.
    pub fn scale_of(self, weights: &[f32]) -> f32 {
        let highest = weights.iter().fold(0.0_f32, |highest, x| highest.max(x.abs()));
        // Below the least normal number, a scale has too few digits to divide by.
        if self == Element::Int8 && highest > 0.0 { (highest / 127.0).max(f32::MIN_POSITIVE) } else { 1.0 }
    }

    /// Lays weights out in a lane; the sum of the integers, or 0.
    pub fn encode(self, weights: &[f32], scale: f32, lane: &mut [u8; 4]) -> f32 {
        let mut sum = 0.0;
        for (bytes, &x) in lane.chunks_exact_mut(self.bytes()).zip(weights) {
            match self {
                Element::F32 => bytes.copy_from_slice(&x.to_ne_bytes()),
                Element::F16 => bytes.copy_from_slice(&f16::from_f32(x).to_ne_bytes()),
                Element::Bf16 => bytes.copy_from_slice(&bf16::from_f32(x).to_ne_bytes()),
                Element::Int8 => {
                    let integer = (x / scale).round();
                    bytes.copy_from_slice(&(integer as i8).to_ne_bytes());
                    sum += integer;
                }
            }
        }
        sum
    }
}

/// One block of a product: `rows` rows times one panel of 32 columns.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// The first row's elements; rows up to [`Arithmetic::ROWS`] are readable.
    pub a: *const u8,
    /// Bytes between rows.
    pub a_stride: usize,
    pub rows: usize,
    /// Scale and zero point of each row, of integers.
    pub a_scales: *const [f32; 2],
    pub b: *const u8,
    /// Scale and sum of each column, of integers.
    pub b_columns: *const [f32; 2],
    /// Whether `b` has yet to come to the first cache.
    pub is_far: bool,
    /// Along the inputs; a multiple of [`Arithmetic::LANE_UNIT`].
    pub lanes: usize,
    /// `[rows, 32]` with `out_stride` numbers between rows; rows up to [`Arithmetic::ROWS`] are writable.
    pub out: *mut f32,
    pub out_stride: usize,
}

impl Tile {
    /// The block of a later panel, beside the first.
    #[inline(always)]
    pub fn at_panel(&self, panel: usize) -> Tile {
        let b = self.b.wrapping_add(panel * self.lanes * PANEL * 4);
        Tile { b, out: self.out.wrapping_add(panel * PANEL), ..*self }
    }
}

/// Work that is done beside a block, step by step.
pub(super) trait Interleaved {
    /// # Safety
    /// As of [`Arithmetic`].
    unsafe fn step(&mut self);
}

/// Nothing.
impl Interleaved for () {
    #[inline(always)]
    unsafe fn step(&mut self) {}
}

/// The arithmetic of one kernel.
///
/// # Safety
/// All functions: the CPU has the instruction set, and pointers are valid for what is said of them.
pub(super) trait Arithmetic: 'static {
    type Simd: Simd;
    /// Floats in which attention is computed, and in which rows are staged where elements are integers.
    type Attention: Arithmetic<Simd = Self::Simd>;
    const ELEMENT: Element;
    const ACCURACY: Accuracy;
    /// The most rows of a tile.
    const ROWS: usize;
    /// Rows are cheapest in multiples of this; 1 where blocks should rather be alike.
    const TILE_ROWS: usize = 1;
    const LANE_UNIT: usize = 1;
    /// Whether tiles fetch themselves what follows them in the panels.
    const FETCHES: bool = false;

    /// Before tiles are computed on this thread, and after.
    #[inline(always)]
    unsafe fn begin() {}
    #[inline(always)]
    unsafe fn end() {}

    /// Computes one block in f32.
    unsafe fn tile(tile: &Tile);

    /// How many steps of other work [`Arithmetic::tile_interleaved`] does.
    #[inline(always)]
    fn interleaved_steps(_lanes: usize) -> usize {
        1
    }

    /// The same, with steps of other work where the CPU has units to spare.
    #[inline(always)]
    unsafe fn tile_interleaved(tile: &Tile, other: &mut impl Interleaved) {
        // SAFETY: as of the caller.
        unsafe {
            other.step();
            Self::tile(tile);
        }
    }

    /// The blocks of panels that stand one after the other, of which `tile` is the first.
    #[inline(always)]
    unsafe fn strip_interleaved(tile: &Tile, panels: usize, other: &mut impl Interleaved)
    where
        Self: Sized,
    {
        // SAFETY: as of the caller.
        unsafe { panel_by_panel::<Self>(tile, panels, other) };
    }

    /// Stores [`Simd::LANES`] numbers as elements, rounded to nearest; staged as those of `Attention`.
    unsafe fn put(to: *mut u8, x: <Self::Simd as Simd>::Vector);

    /// The same of two vectors side by side.
    #[inline(always)]
    unsafe fn put_two(to: *mut u8, low: <Self::Simd as Simd>::Vector, high: <Self::Simd as Simd>::Vector) {
        // SAFETY: as of the caller.
        unsafe {
            Self::put(to, low);
            Self::put(to.add(Self::Simd::LANES * Self::Attention::ELEMENT.bytes()), high);
        }
    }

    /// Turns a staged row of `width` numbers into integers with a scale and a zero point.
    #[inline(always)]
    unsafe fn seal(_stage: *const u8, _width: usize, _elements: *mut u8, _scale: *mut [f32; 2]) {}

    /// Lays one lane of 32 columns out from `rows[i]`, which are as many as a lane has elements.
    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], to: *mut u8) {
        match Self::ELEMENT {
            Element::F32 => {
                // SAFETY: 32 numbers on both sides.
                unsafe { to.copy_from_nonoverlapping(rows[0], PANEL * 4) };
            }
            Element::F16 | Element::Bf16 => {
                for column in 0..PANEL {
                    // SAFETY: 32 elements in each row, 32 words to write.
                    unsafe {
                        let [low, high] =
                            [rows[0], rows[1]].map(|row| row.cast::<u16>().add(column).read_unaligned());
                        let word = u32::from(low) | u32::from(high) << 16;
                        to.cast::<u32>().add(column).write_unaligned(word);
                    }
                }
            }
            Element::Int8 => unreachable!("attention is computed in floats"),
        }
    }
}

/// [`Arithmetic::strip_interleaved`] where nothing is gained by knowing the next panel.
///
/// # Safety
/// As of [`Arithmetic`].
#[inline(always)]
pub(super) unsafe fn panel_by_panel<A: Arithmetic>(tile: &Tile, panels: usize, other: &mut impl Interleaved) {
    for panel in 0..panels {
        // SAFETY: as of the caller.
        unsafe { A::tile_interleaved(&tile.at_panel(panel), other) };
    }
}
