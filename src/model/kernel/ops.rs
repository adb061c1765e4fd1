//! The steps of an encoder layer over blocks of rows, written once for all kernels.

use std::ops::Range;

use super::{
    arithmetic::{Arithmetic, Tile},
    buffer::Buffer,
    matrix::{Linear, Operand, PANEL, Rows},
    simd::{Simd, exp2, gelu},
};

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

/// Attention of one head over one sequence.
pub(super) struct Attend<'a> {
    /// `[tokens, 3 * heads * head_width]`: queries (scaled by log2 e / sqrt(head_dim)), keys, values.
    pub qkv: &'a Operand,
    pub context: &'a Operand,
    pub sequence: Range<usize>,
    pub head: usize,
    pub heads: usize,
    /// A multiple of 32.
    pub head_width: usize,
}

/// A part of a normalisation: some rows.
pub(super) struct Normalise<'a> {
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
            tile: Buffer::new(MOST_ROWS * PANEL * 4),
            keys: Buffer::new(keys * head_width * 4),
            values: Buffer::new(keys * head_width * 4),
            scores: Buffer::new(MOST_ROWS * scores_stride(keys) * 4),
            shares: Buffer::new(MOST_ROWS * shares_stride(keys)),
            zeros: Buffer::new(head_width * 4),
        }
    }
}

/// Numbers between rows of scores, and bytes between rows of shares: never a multiple of a page.
fn scores_stride(keys: usize) -> usize {
    keys + 16
}

fn shares_stride(keys: usize) -> usize {
    keys * 4 + 64
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
            let (mean, deviation) = moments::<A::Simd>(x, width, padded);
            let scale = 1.0 / (deviation + part.epsilon).sqrt();
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

/// Mean and variance of `width` numbers, the padding of which is 0.
#[inline(always)]
unsafe fn moments<S: Simd>(x: *const f32, width: usize, padded: usize) -> (f32, f32) {
    // SAFETY: `padded` numbers are readable.
    unsafe {
        let (mut low, mut high) = (S::splat(0.0), S::splat(0.0));
        for i in (0..padded).step_by(2 * S::LANES) {
            low = S::add(low, S::load(x.add(i)));
            high = S::add(high, S::load(x.add(i + S::LANES)));
        }
        let mean = S::sum(S::add(low, high)) / width as f32;
        let (mut low, mut high, center) = (S::splat(0.0), S::splat(0.0), S::splat(mean));
        for i in (0..padded).step_by(2 * S::LANES) {
            let (a, b) = (S::sub(S::load(x.add(i)), center), S::sub(S::load(x.add(i + S::LANES)), center));
            low = S::mul_add(a, a, low);
            high = S::mul_add(b, b, high);
        }
        // Each number of the padding added the square of the mean.
        let squares = S::sum(S::add(low, high)) - (padded - width) as f32 * mean * mean;
        (mean, (squares / width as f32).max(0.0))
    }
}

/// Attention by blocks of queries: scores of a block against all keys, softmax, and the weighted values.
/// Source: Attention Is All You Need, arXiv:1706.03762.
///
/// # Safety
/// As of [`product`]; `A` is an arithmetic of floats.
#[inline(always)]
pub(super) unsafe fn attend<A: Arithmetic>(part: &Attend<'_>, scratch: &Scratch) {
    let tokens = part.sequence.len();
    let keys = tokens.next_multiple_of(PANEL);
    // SAFETY: the scratch is made for sequences this long, rows are within their matrices.
    unsafe {
        A::begin();
        pack_keys::<A>(part, scratch);
        pack_values::<A>(part, scratch, keys);
        for rows in blocks(part.sequence.clone(), A::ROWS) {
            scores::<A>(part, scratch, rows.clone(), keys);
            let mut totals = [0.0; MOST_ROWS];
            for (i, total) in totals.iter_mut().enumerate().take(rows.len()) {
                let row = scratch.scores.at(i * scores_stride(keys) * 4).cast();
                let shares = scratch.shares.at(i * shares_stride(keys));
                *total = softmax::<A>(row, tokens, keys, shares);
            }
            weigh_values::<A>(part, scratch, rows, &totals);
        }
        A::end();
    }
}

/// Keys become the right side of a product: panels of 32 keys, lanes along the head.
#[inline(always)]
unsafe fn pack_keys<A: Arithmetic>(part: &Attend<'_>, scratch: &Scratch) {
    let bytes = part.head_width * A::ELEMENT.bytes();
    let column = (part.heads + part.head) * bytes;
    for first in (0..part.sequence.len()).step_by(16) {
        for word in (0..bytes).step_by(64) {
            // SAFETY: operands have slack rows past the last sequence; what is read there is never used.
            unsafe {
                let from = part.qkv.at(part.sequence.start + first).add(column + word);
                let to =
                    scratch.keys.at(first / PANEL * PANEL * bytes + word / 4 * PANEL * 4 + first % PANEL * 4);
                A::Simd::transpose(from, part.qkv.stride(), to, PANEL * 4);
            }
        }
    }
}

/// Values become the right side of a product: panels of 32 columns of the head, lanes along the keys.
#[inline(always)]
unsafe fn pack_values<A: Arithmetic>(part: &Attend<'_>, scratch: &Scratch, keys: usize) {
    let (bytes, per_lane) = (A::ELEMENT.bytes(), A::ELEMENT.per_lane());
    let column = (2 * part.heads + part.head) * part.head_width * bytes;
    let lanes = value_lanes::<A>(part.sequence.len());
    for lane in 0..lanes {
        let row = |i: usize| {
            let token = lane * per_lane + i;
            // Values past the sequence must be numbers, since 0 times NaN is NaN.
            let exists = token < part.sequence.len();
            exists.then(|| part.qkv.at(part.sequence.start + token))
        };
        for panel in 0..part.head_width / PANEL {
            let at = |i: usize| match row(i) {
                // SAFETY: within the row.
                Some(start) => unsafe { start.add(column + panel * PANEL * bytes).cast_const() },
                None => scratch.zeros.at(0).cast_const(),
            };
            let to = scratch.values.at((panel * keys / per_lane + lane) * PANEL * 4);
            // SAFETY: 32 elements of each row.
            unsafe { A::interleave([at(0), at(1), at(2), at(3)], to) };
        }
    }
}

/// Lanes along the keys of the weighted values.
fn value_lanes<A: Arithmetic>(tokens: usize) -> usize {
    tokens.div_ceil(A::ELEMENT.per_lane()).next_multiple_of(A::LANE_UNIT)
}

#[inline(always)]
unsafe fn scores<A: Arithmetic>(part: &Attend<'_>, scratch: &Scratch, rows: Range<usize>, keys: usize) {
    let bytes = part.head_width * A::ELEMENT.bytes();
    for panel in 0..keys / PANEL {
        // SAFETY: as of `attend`.
        unsafe {
            A::tile(&Tile {
                a: part.qkv.at(rows.start).add(part.head * bytes),
                a_stride: part.qkv.stride(),
                rows: rows.len(),
                a_scales: std::ptr::null(),
                b: scratch.keys.at(panel * PANEL * bytes),
                b_columns: std::ptr::null(),
                lanes: bytes / 4,
                out: scratch.scores.at(panel * PANEL * 4).cast(),
                out_stride: scores_stride(keys),
            });
        }
    }
}

/// `2^(score - highest)` of each key as elements, 0 past the last; their sum.
#[inline(always)]
unsafe fn softmax<A: Arithmetic>(scores: *mut f32, tokens: usize, keys: usize, shares: *mut u8) -> f32 {
    let bytes = A::ELEMENT.bytes();
    // SAFETY: `keys` numbers on both sides.
    unsafe {
        for past in tokens..keys {
            scores.add(past).write(f32::NEG_INFINITY);
        }
        let mut highest = A::Simd::load(scores);
        for i in (A::Simd::LANES..keys).step_by(A::Simd::LANES) {
            highest = A::Simd::max(highest, A::Simd::load(scores.add(i)));
        }
        let highest = A::Simd::splat(A::Simd::highest(highest));
        let mut total = A::Simd::splat(0.0);
        for i in (0..keys).step_by(A::Simd::LANES) {
            let score = A::Simd::load(scores.add(i));
            let share = exp2::<A::Simd>(A::Simd::sub(score, highest), A::ACCURACY);
            total = A::Simd::add(total, share);
            A::put(shares.add(i * bytes), share);
        }
        A::Simd::sum(total)
    }
}

#[inline(always)]
unsafe fn weigh_values<A: Arithmetic>(
    part: &Attend<'_>,
    scratch: &Scratch,
    rows: Range<usize>,
    totals: &[f32; MOST_ROWS],
) {
    let tokens = part.sequence.len();
    let keys = tokens.next_multiple_of(PANEL);
    let bytes = A::ELEMENT.bytes();
    for panel in 0..part.head_width / PANEL {
        // SAFETY: as of `attend`.
        unsafe {
            let out = scratch.tile.at(0).cast::<f32>();
            A::tile(&Tile {
                a: scratch.shares.at(0),
                a_stride: shares_stride(keys),
                rows: rows.len(),
                a_scales: std::ptr::null(),
                b: scratch.values.at(panel * keys / A::ELEMENT.per_lane() * PANEL * 4),
                b_columns: std::ptr::null(),
                lanes: value_lanes::<A>(tokens),
                out,
                out_stride: PANEL,
            });
            let column = part.head * part.head_width + panel * PANEL;
            for (i, row) in rows.clone().enumerate() {
                let share = A::Simd::splat(1.0 / totals[i]);
                for lane in (0..PANEL).step_by(A::Simd::LANES) {
                    let x = A::Simd::mul(A::Simd::load(out.add(i * PANEL + lane)), share);
                    A::put(part.context.stage_at(row).add((column + lane) * bytes), x);
                }
            }
        }
    }
}
