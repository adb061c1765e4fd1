//! The steps of an encoder layer over blocks of rows, written once for all kernels.

mod attention;

use std::ops::Range;

use super::{
    arithmetic::{Arithmetic, Tile},
    buffer::Buffer,
    matrix::{Linear, Operand, PANEL, Rows},
    simd::{Simd, gelu},
};

use attention::{scores_stride, shares_stride};

pub(super) use attention::{Attend, attend};

/// What becomes of a product `x * weights^T + bias`.
#[derive(Clone, Copy)]
pub(super) enum Epilogue<'a> {
    /// Stored as an operand.
    Store(&'a Operand),
    /// GELU, and stored as an operand.
    Gelu(&'a Operand),
    /// Added to the states, stored as sums.
    Add { states: &'a Rows, sums: &'a Rows },
}

/// A part of a product: some rows, some panels of columns.
#[derive(Clone)]
pub(super) struct Product<'a> {
    pub x: &'a Operand,
    pub weights: &'a Linear,
    pub rows: Range<usize>,
    pub panels: Range<usize>,
    pub epilogue: Epilogue<'a>,
}

/// A part of a normalisation: some rows.
pub(super) struct Normalise<'a> {
    /// The padding of these rows is written.
    pub sums: &'a Rows,
    /// `[padded width]` each; 0 in the padding.
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub epsilon: f32,
    pub states: &'a Rows,
    pub operand: &'a Operand,
    pub rows: Range<usize>,
}

/// What one thread needs beside its operands.
pub(in crate::model) struct Scratch {
    tokens: usize,
    head_width: usize,
    /// `[rows of a tile, 32]` in f32
    tile: Buffer,
    keys: Buffer,
    values: Buffer,
    /// `[rows of a tile, keys]` in f32
    scores: Buffer,
    /// `[rows of a tile, keys]` in elements
    shares: Buffer,
    zeros: Buffer,
}

/// The most rows of any kernel's tile.
const MOST_ROWS: usize = 32;

impl Scratch {
    /// For sequences of at most `tokens`.
    pub fn new(tokens: usize, head_width: usize) -> Scratch {
        let keys = tokens.next_multiple_of(PANEL);
        Scratch {
            tokens,
            head_width,
            tile: Buffer::new(MOST_ROWS * PANEL * 4),
            keys: Buffer::new(keys * head_width * 4),
            values: Buffer::new(keys * head_width * 4),
            scores: Buffer::new(MOST_ROWS * scores_stride(keys) * 4),
            shares: Buffer::new(MOST_ROWS * shares_stride(keys)),
            zeros: Buffer::new(head_width * 4),
        }
    }

    /// Whether it is made for sequences this long and heads this wide.
    pub(super) fn fits(&self, tokens: usize, head_width: usize) -> bool {
        tokens <= self.tokens && head_width <= self.head_width
    }
}

/// Rows in equal blocks of at most `most`.
fn blocks(rows: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.len().div_ceil(most).max(1);
    let (start, len) = (rows.start, rows.len());
    (0..count).map(move |i| start + len * i / count..start + len * (i + 1) / count)
}

/// # Safety
/// The CPU has the instruction set, and no other thread writes or reads what this part writes.
#[inline(always)]
pub(super) unsafe fn product<A: Arithmetic>(part: &Product<'_>, scratch: &Scratch) {
    let out = scratch.tile.at(0).cast::<f32>();
    // SAFETY: operands have slack rows for a whole tile; panels and rows are within their matrices.
    unsafe {
        A::begin();
        for panel in part.panels.clone() {
            let tiles = part.rows.len().div_ceil(A::ROWS);
            for (i, rows) in blocks(part.rows.clone(), A::ROWS).enumerate() {
                if tiles > 1 && panel + 1 < part.weights.panels() {
                    prefetch(part.weights.panel(panel + 1), part.weights.lanes() * PANEL * 4, i, tiles);
                }
                A::tile(&Tile {
                    a: part.x.at(rows.start),
                    a_stride: part.x.stride(),
                    rows: rows.len(),
                    a_scales: part.x.scale_at(rows.start),
                    b: part.weights.panel(panel),
                    b_columns: part.weights.columns(panel),
                    lanes: part.weights.lanes(),
                    out,
                    out_stride: PANEL,
                });
                finish::<A>(part, panel, rows, out);
            }
        }
        A::end();
    }
}

/// Brings one of `parts` equal parts of what will be read soon near the core.
#[inline(always)]
unsafe fn prefetch(start: *const u8, bytes: usize, part: usize, parts: usize) {
    const LINE: usize = 64;
    let lines = bytes / LINE;
    for line in lines * part / parts..lines * (part + 1) / parts {
        // SAFETY: a hint; within what will be read.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(
                start.add(line * LINE).cast(),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, line);
    }
}

/// Adds the bias to a tile and takes it where it belongs.
#[inline(always)]
unsafe fn finish<A: Arithmetic>(part: &Product<'_>, panel: usize, rows: Range<usize>, tile: *const f32) {
    let column = panel * PANEL;
    let bytes = A::Attention::ELEMENT.bytes();
    // SAFETY: as of `product`.
    unsafe {
        let bias = part.weights.bias(panel);
        for (i, row) in rows.enumerate() {
            for lane in (0..PANEL).step_by(A::Simd::LANES) {
                let sum = A::Simd::load(tile.add(i * PANEL + lane));
                let x = A::Simd::add(sum, A::Simd::load(bias.add(lane)));
                match part.epilogue {
                    Epilogue::Store(to) => A::put(to.stage_at(row).add((column + lane) * bytes), x),
                    Epilogue::Gelu(to) => {
                        let x = gelu::<A::Simd>(x, A::ACCURACY);
                        A::put(to.stage_at(row).add((column + lane) * bytes), x);
                    }
                    Epilogue::Add { states, sums } => {
                        let x = A::Simd::add(x, A::Simd::load(states.at(row).add(column + lane)));
                        A::Simd::store(sums.at(row).add(column + lane), x);
                    }
                }
            }
        }
    }
}

/// Turns staged rows into integers; nothing to do for floats.
///
/// # Safety
/// As of [`product`].
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

/// # Safety
/// As of [`product`].
#[inline(always)]
pub(super) unsafe fn normalise<A: Arithmetic>(part: &Normalise<'_>) {
    let (width, padded) = (part.sums.width(), part.sums.padded());
    let bytes = A::Attention::ELEMENT.bytes();
    let (weight, bias) = (part.weight.as_ptr(), part.bias.as_ptr());
    for row in part.rows.clone() {
        // SAFETY: sums, states, weight and bias have the same padded width, the operand at least that.
        unsafe {
            let x = part.sums.at(row);
            let (mean, variance) = moments::<A::Simd>(x, width, padded);
            let scale = 1.0 / (variance + part.epsilon).sqrt();
            let (scale, shift) = (A::Simd::splat(scale), A::Simd::splat(-mean * scale));
            let (states, operand) = (part.states.at(row), part.operand.stage_at(row));
            for i in (0..padded).step_by(A::Simd::LANES) {
                let unit = A::Simd::mul_add(A::Simd::load(x.add(i)), scale, shift);
                let y = A::Simd::mul_add(unit, A::Simd::load(weight.add(i)), A::Simd::load(bias.add(i)));
                A::Simd::store(states.add(i), y);
                A::put(operand.add(i * bytes), y);
            }
        }
    }
    // SAFETY: as above.
    unsafe { seal::<A>(part.operand, part.rows.clone()) };
}

/// Mean and variance of `width` numbers.
///
/// What stands in the padding, such as NaN that an earlier row left, is replaced: by what counts for nothing.
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
