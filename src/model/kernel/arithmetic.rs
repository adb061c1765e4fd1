//! Storage and multiplication of operands: the part in which kernels differ.

use half::{bf16, f16};

use super::simd::{Accuracy, Simd};

/// Columns of a packed panel of weights: two vectors of 16.
pub(super) const PANEL: usize = 32;

/// Element type of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
    /// Weights are signed, with one scale per column. States are unsigned, with a scale and a zero point per row.
    Int8,
}

impl Element {
    /// Size of an element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::Int8 => 1,
        }
    }

    /// Elements per lane of four bytes.
    pub const fn per_lane(self) -> usize {
        4 / self.bytes()
    }

    /// Scale of a column of weights: the value of the integer 1. It is 1 for floats.
    pub fn scale_of(self, weights: &[f32]) -> f32 {
        let highest = weights.iter().fold(0.0_f32, |highest, x| highest.max(x.abs()));
        // Subnormal scales have too few significant bits to divide by.
        if self == Element::Int8 && highest > 0.0 { (highest / 127.0).max(f32::MIN_POSITIVE) } else { 1.0 }
    }

    /// Encodes weights into a lane. Returns the sum of the integers, 0 for floats.
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

/// One tile of a product: `rows` rows times one panel of 32 columns.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Elements of the first row. Rows up to [`Arithmetic::ROWS`] are readable.
    pub a: *const u8,
    /// Bytes between rows.
    pub a_stride: usize,
    pub rows: usize,
    /// Scale and zero point of each row, for integers.
    pub a_scales: *const [f32; 2],
    /// Elements of the panel.
    pub b: *const u8,
    /// Scale and sum of each column, for integers.
    pub b_columns: *const [f32; 2],
    /// True if `b` is probably not in the L1 cache.
    pub is_far: bool,
    /// Number of lanes along the inputs, a multiple of [`Arithmetic::LANE_UNIT`].
    pub lanes: usize,
    /// `[rows, 32]` with `out_stride` numbers between rows; rows up to [`Arithmetic::ROWS`] are writable.
    pub out: *mut f32,
    pub out_stride: usize,
}

impl Tile {
    /// The tile of a later panel, for the same rows.
    #[inline(always)]
    pub fn at_panel(&self, panel: usize) -> Tile {
        let b = self.b.wrapping_add(panel * self.lanes * PANEL * 4);
        Tile { b, out: self.out.wrapping_add(panel * PANEL), ..*self }
    }
}

/// Other work that is interleaved with the computation of a tile, step by step.
pub(super) trait Interleaved {
    /// Does one step.
    ///
    /// # Safety
    /// The requirements of [`Arithmetic`].
    unsafe fn step(&mut self);
}

/// No other work.
impl Interleaved for () {
    #[inline(always)]
    unsafe fn step(&mut self) {}
}

/// Arithmetic of one kernel.
///
/// # Safety
/// For all functions, the CPU must support the instruction set, and pointers must be valid for the documented accesses.
pub(super) trait Arithmetic: 'static {
    /// Vectors of f32.
    type Simd: Simd;
    /// Arithmetic of attention, whose elements are floats. Rows are staged in its elements if those of this one are
    /// integers.
    type Attention: Arithmetic<Simd = Self::Simd>;
    const ELEMENT: Element;
    const ACCURACY: Accuracy;
    /// Maximum rows of a tile.
    const ROWS: usize;
    /// Preferred multiple of the rows of a tile; 1 if tiles should have similar sizes instead.
    const TILE_ROWS: usize = 1;
    /// Multiple of the lanes of a tile.
    const LANE_UNIT: usize = 1;
    /// True if tiles prefetch the following panels themselves.
    const FETCHES: bool = false;

    /// Prepares this thread for tiles.
    #[inline(always)]
    unsafe fn begin() {}
    #[inline(always)]
    unsafe fn end() {}

    /// Computes one tile, with the result in f32.
    unsafe fn tile(tile: &Tile);

    /// Steps of other work that [`Arithmetic::tile_interleaved`] does.
    #[inline(always)]
    fn interleaved_steps(_lanes: usize) -> usize {
        1
    }

    /// Computes one tile, interleaved with steps of other work that use idle execution units.
    #[inline(always)]
    unsafe fn tile_interleaved(tile: &Tile, other: &mut impl Interleaved) {
        // SAFETY: as for the caller.
        unsafe {
            other.step();
            Self::tile(tile);
        }
    }

    /// Computes the tiles of `panels` consecutive panels, of which `tile` is the first.
    #[inline(always)]
    unsafe fn strip_interleaved(tile: &Tile, panels: usize, other: &mut impl Interleaved)
    where
        Self: Sized,
    {
        // SAFETY: as for the caller.
        unsafe { panel_by_panel::<Self>(tile, panels, other) };
    }

    /// Stores [`Simd::LANES`] numbers as elements of `Attention`, rounded to nearest.
    unsafe fn put(to: *mut u8, x: <Self::Simd as Simd>::Vector);

    /// Stores two consecutive vectors.
    #[inline(always)]
    unsafe fn put_two(to: *mut u8, low: <Self::Simd as Simd>::Vector, high: <Self::Simd as Simd>::Vector) {
        // SAFETY: as for the caller.
        unsafe {
            Self::put(to, low);
            Self::put(to.add(Self::Simd::LANES * Self::Attention::ELEMENT.bytes()), high);
        }
    }

    /// Quantizes a staged row of `width` numbers to integers with a scale and a zero point.
    #[inline(always)]
    unsafe fn seal(_stage: *const u8, _width: usize, _elements: *mut u8, _scale: *mut [f32; 2]) {}

    /// Writes one lane of 32 columns from the first rows of `rows`, one per element of the lane.
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

/// Default implementation of [`Arithmetic::strip_interleaved`], panel by panel.
///
/// # Safety
/// The requirements of [`Arithmetic`].
#[inline(always)]
pub(super) unsafe fn panel_by_panel<A: Arithmetic>(tile: &Tile, panels: usize, other: &mut impl Interleaved) {
    for panel in 0..panels {
        // SAFETY: as for the caller.
        unsafe { A::tile_interleaved(&tile.at_panel(panel), other) };
    }
}
