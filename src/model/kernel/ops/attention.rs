//! Attention of one head over one sequence.

use std::ops::Range;

use super::{
    super::{
        arithmetic::{Arithmetic, Tile},
        matrix::{Operand, PANEL},
        simd::{Simd, exp2},
    },
    MOST_ROWS, Scratch, blocks,
};

/// Attention of one head over one sequence.
pub(in super::super) struct Attend<'a> {
    /// `[tokens, 3 * heads * head_width]`: queries (scaled by log2 e / sqrt(head_dim)), keys, values.
    pub qkv: &'a Operand,
    pub context: &'a Operand,
    pub sequence: Range<usize>,
    pub head: usize,
    pub heads: usize,
    /// A multiple of 32.
    pub head_width: usize,
}

/// Attention by blocks of queries: scores of a block against all keys, softmax, and the weighted values.
/// Source: Attention Is All You Need, arXiv:1706.03762.
///
/// # Safety
/// As of [`product`](super::product); `A` is an arithmetic of floats.
#[inline(always)]
pub(in super::super) unsafe fn attend<A: Arithmetic>(part: &Attend<'_>, scratch: &Scratch) {
    let tokens = part.sequence.len();
    if tokens == 0 {
        return;
    }
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

/// Numbers between rows of scores, and bytes between rows of shares: never a multiple of a page.
pub(super) fn scores_stride(keys: usize) -> usize {
    keys + 16
}

pub(super) fn shares_stride(keys: usize) -> usize {
    keys * 4 + 64
}
