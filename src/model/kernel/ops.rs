//! The steps of an encoder layer over blocks of rows, generic over the arithmetic of a kernel.

mod attention;
mod softmax;

use std::{marker::PhantomData, ops::Range};

use super::{
    arithmetic::{Arithmetic, Interleaved, PANEL, Tile},
    buffer::Buffer,
    matrix::{Linear, Operand, StateMatrix},
    simd::Simd,
};

use attention::SCORES_BYTES;

pub(super) use attention::{AttendPart, attend};

/// Destination of a product `x * weights^T + bias`.
#[derive(Clone, Copy)]
pub(super) enum Epilogue<'a> {
    /// Stored as an operand.
    Store(&'a Operand),
    /// Stored as an operand after GELU.
    Gelu(&'a Operand),
    /// Added to the states.
    Add(&'a StateMatrix),
}

/// Part of a product: some rows and some panels of columns.
#[derive(Clone)]
pub(super) struct ProductPart<'a> {
    pub x: &'a Operand,
    pub weights: &'a Linear,
    pub rows: Range<usize>,
    pub panels: Range<usize>,
    pub epilogue: Epilogue<'a>,
}

/// Part of a normalisation: some rows.
pub(super) struct NormalisePart<'a> {
    /// Normalised in place; the padding of the rows is overwritten too.
    pub states: &'a StateMatrix,
    /// `[padded width]`, 0 in the padding, like `bias`.
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub epsilon: f32,
    /// Receives the same values.
    pub operand: &'a Operand,
    pub rows: Range<usize>,
}

/// Scratch memory of one thread.
pub(in crate::model) struct Scratch {
    tokens: usize,
    head_width: usize,
    /// Two tiles `[rows of a tile, 32]` in f32.
    tiles: Buffer,
    keys: Buffer,
    values: Buffer,
    /// Two matrices `[rows of a tile, keys of a chunk]` in f32.
    scores: Buffer,
    /// `[panels of a head, rows of a tile, 32]` in f32: weighted values of one chunk of keys.
    weighed: Buffer,
    /// `[panels of a head, rows of a tile, 32]` in f32: weighted values of all chunks so far.
    sums: Buffer,
    zeros: Buffer,
}

/// Maximum rows of a tile over all kernels.
const MAX_TILE_ROWS: usize = 32;

/// Size of one tile in bytes.
const TILE_BYTES: usize = MAX_TILE_ROWS * PANEL * 4;

impl Scratch {
    /// Allocates memory for sequences of at most `tokens` tokens.
    pub fn new(tokens: usize, head_width: usize) -> Scratch {
        let keys = tokens.next_multiple_of(PANEL);
        Scratch {
            tokens,
            head_width,
            tiles: Buffer::new(2 * TILE_BYTES),
            keys: Buffer::new(keys * head_width * 4),
            values: Buffer::new(keys * head_width * 4),
            scores: Buffer::new(2 * SCORES_BYTES),
            weighed: Buffer::new(head_width / PANEL * TILE_BYTES),
            sums: Buffer::new(head_width / PANEL * TILE_BYTES),
            zeros: Buffer::new(head_width * 4),
        }
    }

    /// Returns true if it is large enough for sequences of `tokens` tokens and heads of `head_width` columns.
    pub(super) fn fits(&self, tokens: usize, head_width: usize) -> bool {
        tokens <= self.tokens && head_width <= self.head_width
    }
}

/// Divides rows into blocks of similar size, or of whole tiles.
fn blocks<A: Arithmetic>(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let count = rows.len().div_ceil(A::ROWS).max(1);
    let Range { start, end } = rows;
    let bound = move |i: usize| {
        if A::TILE_ROWS > 1 { end.min(start + i * A::ROWS) } else { start + (end - start) * i / count }
    };
    (0..count).map(move |i| bound(i)..bound(i + 1))
}

/// Computes part of a product.
///
/// # Safety
/// The CPU must support the instruction set, and no other thread may access what this part writes.
#[inline(always)]
pub(super) unsafe fn product<A: Arithmetic>(part: &ProductPart<'_>, scratch: &Scratch) {
    // SAFETY: as for the caller; rows and columns are within the matrices that are written.
    unsafe {
        match part.epilogue {
            Epilogue::Store(to) => blocks_of_product::<A>(part, scratch, &StoreSink::<false>::to(to)),
            Epilogue::Gelu(to) => blocks_of_product::<A>(part, scratch, &StoreSink::<true>::to(to)),
            Epilogue::Add(states) => {
                let add = AddSink { states: states.at(0), stride: states.padded() };
                blocks_of_product::<A>(part, scratch, &add);
            }
        }
    }
}

/// Computes the tiles of a product. Each tile is finished interleaved with the computation of the next one.
///
/// # Safety
/// The requirements of [`product`].
#[inline(always)]
unsafe fn blocks_of_product<A: Arithmetic>(
    part: &ProductPart<'_>,
    scratch: &Scratch,
    finish: &impl TileSink<A>,
) {
    let ProductPart { x, weights, .. } = part;
    let lanes = weights.lanes();
    let (steps, blocks_of_panel) = (A::interleaved_steps(lanes), part.rows.len().div_ceil(A::ROWS).max(1));
    let lines_of_panel = lanes * PANEL * 4 / CACHE_LINE;
    let mut work = TileFinisher {
        finish,
        arithmetic: PhantomData::<A>,
        sums: std::ptr::null(),
        bias: std::ptr::null(),
        column: 0,
        rows: 0..0,
        rows_of_step: A::ROWS.div_ceil(steps),
        ahead: std::ptr::null(),
        lines_of_step: 0,
    };
    let fetches = !A::FETCHES && blocks_of_panel > 1;
    let mut sums = [0, TILE_BYTES].map(|at| scratch.tiles.at(at).cast::<f32>());
    // SAFETY: operands have slack rows for a whole tile; panels and rows are within their matrices.
    unsafe {
        A::begin();
        for panel in part.panels.clone() {
            if fetches && panel + 1 < weights.panels() {
                work.ahead = weights.panel(panel + 1);
                work.lines_of_step = lines_of_panel.div_ceil(blocks_of_panel * steps);
            } else {
                work.lines_of_step = 0;
            }
            for rows in blocks::<A>(part.rows.clone()) {
                let tile = Tile {
                    a: x.at(rows.start),
                    a_stride: x.stride(),
                    rows: rows.len(),
                    a_scales: x.scale_at(rows.start),
                    b: weights.panel(panel),
                    b_columns: weights.columns(panel),
                    is_far: lines_of_panel > LINES_KEPT || rows.start == part.rows.start,
                    lanes,
                    out: sums[0],
                    out_stride: PANEL,
                };
                A::tile_interleaved(&tile, &mut work);
                work.finish_rows(A::ROWS);
                (work.sums, work.bias) = (sums[0], weights.bias(panel));
                (work.column, work.rows) = (panel * PANEL, rows);
                sums.swap(0, 1);
            }
        }
        work.finish_rows(A::ROWS);
        A::end();
    }
}

type SimdVector<A> = <<A as Arithmetic>::Simd as Simd>::Vector;

/// Destination of the sums of tiles.
trait TileSink<A: Arithmetic> {
    /// Stores two vectors of sums with bias, starting at a row and column.
    ///
    /// # Safety
    /// The requirements of [`product`].
    unsafe fn put(&self, row: usize, column: usize, low: SimdVector<A>, high: SimdVector<A>);
}

/// Stores sums as an operand, optionally after GELU.
struct StoreSink<const GELU: bool> {
    start: *mut u8,
    stride: usize,
}

impl<const GELU: bool> StoreSink<GELU> {
    #[inline(always)]
    fn to(operand: &Operand) -> StoreSink<GELU> {
        let (start, stride) = operand.stage();
        StoreSink { start, stride }
    }
}

impl<A: Arithmetic, const GELU: bool> TileSink<A> for StoreSink<GELU> {
    #[inline(always)]
    unsafe fn put(&self, row: usize, column: usize, mut low: SimdVector<A>, mut high: SimdVector<A>) {
        // SAFETY: within the row, as for the caller.
        unsafe {
            if GELU {
                (low, high) = (A::Simd::gelu(low, A::ACCURACY), A::Simd::gelu(high, A::ACCURACY));
            }
            let to = self.start.add(row * self.stride + column * A::Attention::ELEMENT.bytes());
            A::put_two(to, low, high);
        }
    }
}

/// Adds sums to the states.
struct AddSink {
    states: *mut f32,
    stride: usize,
}

impl<A: Arithmetic> TileSink<A> for AddSink {
    #[inline(always)]
    unsafe fn put(&self, row: usize, column: usize, low: SimdVector<A>, high: SimdVector<A>) {
        // SAFETY: within the row, as for the caller.
        unsafe {
            let state = self.states.add(row * self.stride + column);
            let next = state.add(A::Simd::LANES);
            A::Simd::store(state, A::Simd::add(low, A::Simd::load(state)));
            A::Simd::store(next, A::Simd::add(high, A::Simd::load(next)));
        }
    }
}

/// Work interleaved with the computation of a tile: it stores the previous tile and prefetches the next panel.
struct TileFinisher<'a, A, F> {
    finish: &'a F,
    arithmetic: PhantomData<A>,
    /// Sums of the next row.
    sums: *const f32,
    bias: *const f32,
    column: usize,
    rows: Range<usize>,
    rows_of_step: usize,
    ahead: *const u8,
    lines_of_step: usize,
}

impl<A: Arithmetic, F: TileSink<A>> TileFinisher<'_, A, F> {
    /// Stores at most `count` rows.
    ///
    /// # Safety
    /// The requirements of [`product`].
    #[inline(always)]
    unsafe fn finish_rows(&mut self, count: usize) {
        for _ in 0..count {
            if self.rows.is_empty() {
                break;
            }
            for low in (0..PANEL).step_by(2 * A::Simd::LANES) {
                let high = low + A::Simd::LANES;
                // SAFETY: 32 sums and biases.
                unsafe {
                    let (sums, biases) = (self.sums, self.bias);
                    let column = self.column + low;
                    let low = A::Simd::add(A::Simd::load(sums.add(low)), A::Simd::load(biases.add(low)));
                    let high = A::Simd::add(A::Simd::load(sums.add(high)), A::Simd::load(biases.add(high)));
                    self.finish.put(self.rows.start, column, low, high);
                }
            }
            self.sums = self.sums.wrapping_add(PANEL);
            self.rows.start += 1;
        }
    }
}

impl<A: Arithmetic, F: TileSink<A>> Interleaved for TileFinisher<'_, A, F> {
    #[inline(always)]
    unsafe fn step(&mut self) {
        for _ in 0..self.lines_of_step {
            prefetch(self.ahead);
            self.ahead = self.ahead.wrapping_add(CACHE_LINE);
        }
        // SAFETY: as for the caller.
        unsafe { self.finish_rows(self.rows_of_step) };
    }
}

const CACHE_LINE: usize = 64;

/// Cache lines of a panel that stay in the L1 cache from one block of rows to the next, with room for the rows.
const LINES_KEPT: usize = 512;

/// Prefetches a cache line into the L2 cache. The address may be invalid.
#[inline(always)]
fn prefetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Quantizes staged rows to integers. Does nothing for floats.
///
/// # Safety
/// The requirements of [`product`].
#[inline(always)]
pub(super) unsafe fn seal<A: Arithmetic>(operand: &Operand, rows: Range<usize>) {
    if operand.is_staged() {
        for row in rows {
            // SAFETY: the row is within the operand.
            unsafe {
                A::seal(operand.stage_at(row), operand.width(), operand.at(row), operand.scale_at(row))
            };
        }
    }
}

/// Normalises rows.
///
/// # Safety
/// The requirements of [`product`].
#[inline(always)]
pub(super) unsafe fn normalise<A: Arithmetic>(part: &NormalisePart<'_>) {
    let (width, padded) = (part.states.width(), part.states.padded());
    let bytes = A::Attention::ELEMENT.bytes();
    let (weight, bias) = (part.weight.as_ptr(), part.bias.as_ptr());
    for row in part.rows.clone() {
        // SAFETY: states, weight and bias have the same padded width, the operand at least that.
        unsafe {
            let (x, operand) = (part.states.at(row), part.operand.stage_at(row));
            let (mean, variance) = moments::<A::Simd>(x, width, padded);
            let scale = 1.0 / (variance + part.epsilon).sqrt();
            let (scale, shift) = (A::Simd::splat(scale), A::Simd::splat(-mean * scale));
            for i in (0..padded).step_by(2 * A::Simd::LANES) {
                let mut pair = [A::Simd::splat(0.0); 2];
                for (y, i) in pair.iter_mut().zip([i, i + A::Simd::LANES]) {
                    let unit = A::Simd::mul_add(A::Simd::load(x.add(i)), scale, shift);
                    *y = A::Simd::mul_add(unit, A::Simd::load(weight.add(i)), A::Simd::load(bias.add(i)));
                    A::Simd::store(x.add(i), *y);
                }
                A::put_two(operand.add(i * bytes), pair[0], pair[1]);
            }
        }
    }
    // SAFETY: as above.
    unsafe { seal::<A>(part.operand, part.rows.clone()) };
}

/// Mean and variance of `width` numbers.
///
/// The padding, which may contain NaN of an earlier row, is overwritten with values that do not change the result.
#[inline(always)]
unsafe fn moments<S: Simd>(x: *mut f32, width: usize, padded: usize) -> (f32, f32) {
    // SAFETY: `padded` numbers are readable and writable.
    unsafe {
        let pad = |value: f32| (width..padded).for_each(|i| x.add(i).write(value));
        pad(0.0);
        let (mut low, mut high) = (S::splat(0.0), S::splat(0.0));
        for i in (0..padded).step_by(2 * S::LANES) {
            low = S::add(low, S::load(x.add(i)));
            high = S::add(high, S::load(x.add(i + S::LANES)));
        }
        let mean = S::sum(S::add(low, high)) / width as f32;
        pad(mean);
        let (mut low, mut high, center) = (S::splat(0.0), S::splat(0.0), S::splat(mean));
        for i in (0..padded).step_by(2 * S::LANES) {
            let (a, b) = (S::sub(S::load(x.add(i)), center), S::sub(S::load(x.add(i + S::LANES)), center));
            low = S::mul_add(a, a, low);
            high = S::mul_add(b, b, high);
        }
        (mean, S::sum(S::add(low, high)) / width as f32)
    }
}
