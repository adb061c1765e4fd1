//! Attention of heads over sequences.

use std::ops::Range;

use super::{
    super::{
        arithmetic::{Arithmetic, Tile},
        matrix::{Operand, PANEL},
        simd::{GROUP, Simd, exp2},
    },
    MOST_ROWS, Scratch, TILE_BYTES, blocks,
};

/// Keys whose scores are in hand at one time: with the shares that they become, they stay in the first cache.
const CHUNK: usize = 128;

/// Numbers between rows of scores, and bytes between rows of shares: never a multiple of a page.
pub(super) const SCORES_STRIDE: usize = CHUNK + 16;
pub(super) const SHARES_STRIDE: usize = CHUNK * 4 + 64;

/// Some heads of some sequences.
pub(in super::super) struct Attend<'a> {
    /// `[tokens, 3 * heads * head_width]`: queries (scaled by log2 e / sqrt(head_dim)), keys, values.
    pub qkv: &'a Operand,
    pub context: &'a Operand,
    /// `[sequences + 1]`
    pub offsets: &'a [usize],
    /// Each stands for a sequence and one of its heads.
    pub items: Range<usize>,
    pub heads: usize,
    /// A multiple of 32.
    pub head_width: usize,
}

/// One head of one sequence.
struct Head<'a> {
    qkv: &'a Operand,
    context: &'a Operand,
    sequence: Range<usize>,
    /// Bytes from the start of a row to the head's queries, keys and values.
    queries: usize,
    keys: usize,
    values: usize,
    width: usize,
    /// Keys with their padding.
    padded: usize,
}

/// Attention by blocks of queries and chunks of keys: scores, softmax with a running maximum, weighted values.
/// Source: Attention Is All You Need, arXiv:1706.03762; the running maximum: FlashAttention, arXiv:2205.14135.
///
/// # Safety
/// As of [`product`](super::product); `A` is an arithmetic of floats.
#[inline(always)]
pub(in super::super) unsafe fn attend<A: Arithmetic>(part: &Attend<'_>, scratch: &Scratch) {
    // SAFETY: the scratch is made for sequences this long, rows are within their matrices.
    unsafe {
        A::begin();
        for item in part.items.clone() {
            let (sequence, head) = (item / part.heads, item % part.heads);
            let sequence = part.offsets[sequence]..part.offsets[sequence + 1];
            let bytes = part.head_width * A::ELEMENT.bytes();
            attend_head::<A>(
                &Head {
                    qkv: part.qkv,
                    context: part.context,
                    padded: sequence.len().next_multiple_of(PANEL),
                    sequence,
                    queries: head * bytes,
                    keys: (part.heads + head) * bytes,
                    values: (2 * part.heads + head) * bytes,
                    width: part.head_width,
                },
                scratch,
            );
        }
        A::end();
    }
}

#[inline(always)]
unsafe fn attend_head<A: Arithmetic>(head: &Head<'_>, scratch: &Scratch) {
    let tokens = head.sequence.len();
    // SAFETY: as of `attend`.
    unsafe {
        pack_keys::<A>(head, scratch);
        pack_values::<A>(head, scratch);
        for rows in blocks::<A>(head.sequence.clone()) {
            let mut weights = Weights::new();
            for start in (0..tokens).step_by(CHUNK) {
                let chunk = start..tokens.min(start + CHUNK);
                scores::<A>(head, scratch, rows.clone(), chunk.clone());
                for group in 0..rows.len().div_ceil(GROUP) {
                    weights.add::<A>(scratch, group, rows.len(), chunk.len());
                }
                weigh_values::<A>(head, scratch, rows.len(), chunk, &weights);
            }
            finish::<A>(head, scratch, rows, &weights);
        }
    }
}

/// Keys become the right side of a product: panels of 32 keys, lanes along the head.
#[inline(always)]
unsafe fn pack_keys<A: Arithmetic>(head: &Head<'_>, scratch: &Scratch) {
    let bytes = head.width * A::ELEMENT.bytes();
    for first in (0..head.sequence.len()).step_by(16) {
        for word in (0..bytes).step_by(64) {
            // SAFETY: operands have slack rows past the last sequence; what is read there is never used.
            unsafe {
                let from = head.qkv.at(head.sequence.start + first).add(head.keys + word);
                let to =
                    scratch.keys.at(first / PANEL * PANEL * bytes + word / 4 * PANEL * 4 + first % PANEL * 4);
                A::Simd::transpose(from, head.qkv.stride(), to, PANEL * 4);
            }
        }
    }
}

/// Values become the right side of a product: panels of 32 columns of the head, lanes along the keys.
#[inline(always)]
unsafe fn pack_values<A: Arithmetic>(head: &Head<'_>, scratch: &Scratch) {
    let (bytes, per_lane, tokens) = (A::ELEMENT.bytes(), A::ELEMENT.per_lane(), head.sequence.len());
    for lane in 0..lanes_of::<A>(tokens) {
        for panel in 0..head.width / PANEL {
            let at = |i: usize| {
                let token = lane * per_lane + i;
                if token < tokens {
                    let row = head.qkv.at(head.sequence.start + token);
                    // SAFETY: within the row.
                    unsafe { row.add(head.values + panel * PANEL * bytes).cast_const() }
                } else {
                    // Values past the sequence must be numbers, since 0 times NaN is NaN.
                    scratch.zeros.at(0).cast_const()
                }
            };
            let to = scratch.values.at((panel * head.padded / per_lane + lane) * PANEL * 4);
            // SAFETY: 32 elements of each row.
            unsafe { A::interleave([at(0), at(1), at(2), at(3)], to) };
        }
    }
}

/// Lanes along some keys.
fn lanes_of<A: Arithmetic>(keys: usize) -> usize {
    keys.div_ceil(A::ELEMENT.per_lane()).next_multiple_of(A::LANE_UNIT)
}

/// Of a block of queries with a chunk of keys.
#[inline(always)]
unsafe fn scores<A: Arithmetic>(head: &Head<'_>, scratch: &Scratch, rows: Range<usize>, chunk: Range<usize>) {
    let bytes = head.width * A::ELEMENT.bytes();
    for panel in 0..chunk.len().div_ceil(PANEL) {
        // SAFETY: as of `attend`.
        unsafe {
            A::tile(&Tile {
                a: head.qkv.at(rows.start).add(head.queries),
                a_stride: head.qkv.stride(),
                rows: rows.len(),
                a_scales: std::ptr::null(),
                b: scratch.keys.at((chunk.start + panel * PANEL) * bytes),
                b_columns: std::ptr::null(),
                lanes: bytes / 4,
                out: scratch.scores.at(panel * PANEL * 4).cast(),
                out_stride: SCORES_STRIDE,
            });
        }
    }
}

/// What the softmax knows of each query of a block.
struct Weights {
    /// The highest score until now.
    highest: [f32; MOST_ROWS],
    /// Of `2^(score - highest)`.
    totals: [f32; MOST_ROWS],
    /// By which what was summed before the last chunk shrinks.
    shrink: [f32; MOST_ROWS],
}

impl Weights {
    fn new() -> Weights {
        let none = [f32::NEG_INFINITY; MOST_ROWS];
        Weights { highest: none, totals: [0.0; MOST_ROWS], shrink: [0.0; MOST_ROWS] }
    }

    /// The scores of a chunk of keys become shares, for a group of queries out of `rows`.
    #[inline(always)]
    unsafe fn add<A: Arithmetic>(&mut self, scratch: &Scratch, group: usize, rows: usize, keys: usize) {
        let first = group * GROUP;
        let count = GROUP.min(rows - first);
        let whole = keys / A::Simd::LANES * A::Simd::LANES;
        // SAFETY: scores and shares have rows of a chunk; a chunk is as many vectors.
        unsafe {
            let mut of_rows = [A::Simd::splat(f32::NEG_INFINITY); GROUP];
            for (row, highest) in of_rows.iter_mut().enumerate().take(count) {
                let scores = scores_of(scratch, first + row);
                for i in (0..whole).step_by(A::Simd::LANES) {
                    *highest = A::Simd::max(*highest, A::Simd::load(scores.add(i)));
                }
                if whole < keys {
                    let last = A::Simd::load_first(scores.add(whole), keys - whole, f32::NEG_INFINITY);
                    *highest = A::Simd::max(*highest, last);
                }
            }
            let mut of_group = [0.0; GROUP];
            A::Simd::highest_of_each(&of_rows, &mut of_group);
            self.rise::<A>(first, &of_group);
            for (row, total) in of_rows.iter_mut().enumerate().take(count) {
                *total = self.share::<A>(scratch, first + row, keys);
            }
            A::Simd::sum_of_each(&of_rows, &mut of_group);
            for (total, sum) in self.totals[first..first + count].iter_mut().zip(of_group) {
                *total += sum;
            }
        }
    }

    /// The highest scores of a group may be those of a new chunk.
    #[inline(always)]
    unsafe fn rise<A: Arithmetic>(&mut self, first: usize, of_chunk: &[f32; GROUP]) {
        for lane in (0..GROUP).step_by(A::Simd::LANES) {
            // SAFETY: a group has as many numbers in each array.
            unsafe {
                let at = first + lane;
                let old = A::Simd::load(self.highest.as_ptr().add(at));
                let new = A::Simd::max(A::Simd::load(of_chunk.as_ptr().add(lane)), old);
                let shrink = exp2::<A::Simd>(A::Simd::sub(old, new), A::ACCURACY);
                let total = A::Simd::mul(A::Simd::load(self.totals.as_ptr().add(at)), shrink);
                A::Simd::store(self.highest.as_mut_ptr().add(at), new);
                A::Simd::store(self.shrink.as_mut_ptr().add(at), shrink);
                A::Simd::store(self.totals.as_mut_ptr().add(at), total);
            }
        }
    }

    /// `2^(score - highest)` of each key as elements, 0 or next to it past the last; their sum, lane by lane.
    #[inline(always)]
    unsafe fn share<A: Arithmetic>(
        &self,
        scratch: &Scratch,
        row: usize,
        keys: usize,
    ) -> <A::Simd as Simd>::Vector {
        let bytes = A::ELEMENT.bytes();
        let whole = keys / A::Simd::LANES * A::Simd::LANES;
        let used = lanes_of::<A>(keys) * A::ELEMENT.per_lane();
        let shares = scratch.shares.at(row * SHARES_STRIDE);
        // SAFETY: as of `add`.
        unsafe {
            let scores = scores_of(scratch, row);
            let highest = A::Simd::splat(self.highest[row]);
            let mut total = A::Simd::splat(0.0);
            for i in (0..whole).step_by(A::Simd::LANES) {
                let share = exp2::<A::Simd>(A::Simd::sub(A::Simd::load(scores.add(i)), highest), A::ACCURACY);
                total = A::Simd::add(total, share);
                A::put(shares.add(i * bytes), share);
            }
            let mut done = whole;
            if whole < keys {
                let last = A::Simd::load_first(scores.add(whole), keys - whole, f32::NEG_INFINITY);
                let share = exp2::<A::Simd>(A::Simd::sub(last, highest), A::ACCURACY);
                total = A::Simd::add(total, share);
                A::put(shares.add(whole * bytes), share);
                done += A::Simd::LANES;
            }
            for i in (done..used).step_by(A::Simd::LANES) {
                A::put(shares.add(i * bytes), A::Simd::splat(0.0));
            }
            total
        }
    }
}

#[inline(always)]
fn scores_of(scratch: &Scratch, row: usize) -> *const f32 {
    scratch.scores.at(row * SCORES_STRIDE * 4).cast()
}

/// Adds the values of a chunk of keys, weighted, to what was summed before.
#[inline(always)]
unsafe fn weigh_values<A: Arithmetic>(
    head: &Head<'_>,
    scratch: &Scratch,
    rows: usize,
    chunk: Range<usize>,
    weights: &Weights,
) {
    let per_lane = A::ELEMENT.per_lane();
    for panel in 0..head.width / PANEL {
        let sums = scratch.sums.at(panel * TILE_BYTES).cast::<f32>();
        let is_first = chunk.start == 0;
        let out = if is_first { sums } else { scratch.tiles.at(0).cast() };
        // SAFETY: as of `attend`.
        unsafe {
            A::tile(&Tile {
                a: scratch.shares.at(0),
                a_stride: SHARES_STRIDE,
                rows,
                a_scales: std::ptr::null(),
                b: scratch.values.at((panel * head.padded + chunk.start) / per_lane * PANEL * 4),
                b_columns: std::ptr::null(),
                lanes: lanes_of::<A>(chunk.len()),
                out,
                out_stride: PANEL,
            });
            if is_first {
                continue;
            }
            for row in 0..rows {
                let shrink = A::Simd::splat(weights.shrink[row]);
                for lane in (0..PANEL).step_by(A::Simd::LANES) {
                    let (sum, new) = (sums.add(row * PANEL + lane), out.add(row * PANEL + lane));
                    let x = A::Simd::mul_add(A::Simd::load(sum), shrink, A::Simd::load(new));
                    A::Simd::store(sum, x);
                }
            }
        }
    }
}

/// Divides by the totals, and takes the sums where they belong.
#[inline(always)]
unsafe fn finish<A: Arithmetic>(head: &Head<'_>, scratch: &Scratch, rows: Range<usize>, weights: &Weights) {
    let (start, stride) = head.context.stage();
    for panel in 0..head.width / PANEL {
        let sums = scratch.sums.at(panel * TILE_BYTES).cast::<f32>();
        for (i, row) in rows.clone().enumerate() {
            // SAFETY: as of `attend`.
            unsafe {
                let share = A::Simd::splat(1.0 / weights.totals[i]);
                let to = start.add(row * stride + head.queries + panel * PANEL * A::ELEMENT.bytes());
                for lane in (0..PANEL).step_by(A::Simd::LANES) {
                    let x = A::Simd::mul(A::Simd::load(sums.add(i * PANEL + lane)), share);
                    A::put(to.add(lane * A::ELEMENT.bytes()), x);
                }
            }
        }
    }
}
