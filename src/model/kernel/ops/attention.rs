//! Multi-head attention over packed sequences.

use std::{marker::PhantomData, ops::Range};

use super::{
    super::{
        arithmetic::{Arithmetic, Interleaved, PANEL, Tile},
        matrix::Operand,
        simd::Simd,
    },
    MAX_TILE_ROWS, Scratch, TILE_BYTES, blocks,
    softmax::{Softmax, SoftmaxState},
};

/// Keys per chunk. The scores of two chunks fit the L1 cache.
const CHUNK: usize = 256;

/// Numbers between rows of scores; not a multiple of the page size.
const SCORES_STRIDE: usize = CHUNK + 16;

/// Size of the scores of a block of queries with a chunk of keys, in bytes.
pub(super) const SCORES_BYTES: usize = MAX_TILE_ROWS * SCORES_STRIDE * 4;

/// Part of attention: some heads of some sequences.
pub(in super::super) struct AttendPart<'a> {
    /// `[tokens, 3 * heads * head_width]`: queries (scaled by log2 e / sqrt(head_dim)), keys, values.
    pub qkv: &'a Operand,
    pub context: &'a Operand,
    /// `[sequences + 1]`
    pub offsets: &'a [usize],
    /// Each item is one head of one sequence: `sequence * heads + head`.
    pub items: Range<usize>,
    pub heads: usize,
    /// A multiple of 32.
    pub head_width: usize,
}

/// A block of queries of one head of one sequence, with a chunk of its keys.
#[derive(Clone)]
pub(super) struct AttentionUnit {
    /// First row of the sequence.
    first: usize,
    tokens: usize,
    head: usize,
    /// Rows of the matrix.
    pub(super) queries: Range<usize>,
    /// Positions in the sequence.
    pub(super) keys: Range<usize>,
}

impl AttentionUnit {
    fn begins_head(&self) -> bool {
        self.queries.start == self.first && self.begins_block()
    }

    fn begins_block(&self) -> bool {
        self.keys.start == 0
    }

    fn ends_block(&self) -> bool {
        self.keys.end == self.tokens
    }
}

fn units<A: Arithmetic>(part: &AttendPart<'_>) -> impl Iterator<Item = AttentionUnit> {
    part.items.clone().flat_map(|item| {
        let (sequence, head) = (item / part.heads, item % part.heads);
        let (first, end) = (part.offsets[sequence], part.offsets[sequence + 1]);
        let tokens = end - first;
        blocks::<A>(first..end).flat_map(move |queries| {
            (0..tokens).step_by(CHUNK).map(move |key| AttentionUnit {
                first,
                tokens,
                head,
                queries: queries.clone(),
                keys: key..tokens.min(key + CHUNK),
            })
        })
    })
}

/// Computes attention by blocks of queries and chunks of keys: scores, softmax with a running maximum, weighted values.
///
/// The softmax of a unit is interleaved with the products of its neighbours: the weighted values of the previous unit and
/// the scores of the next one. Source: Attention Is All You Need, arXiv:1706.03762; running maximum: FlashAttention,
/// arXiv:2205.14135.
///
/// # Safety
/// The requirements of [`product`](super::product); the elements of `A` are floats.
#[inline(always)]
pub(in super::super) unsafe fn attend<A: Arithmetic>(part: &AttendPart<'_>, scratch: &Scratch) {
    let mut units = units::<A>(part);
    let Some(first) = units.next() else { return };
    let products = AttentionProducts::<A> { part, scratch, arithmetic: PhantomData };
    // SAFETY: the scratch is made for sequences this long, rows are within their matrices.
    unsafe {
        A::begin();
        products.pack_keys(&first);
        products.score(&first, 0, &mut ());
        let (mut current, mut side) = (Some(first), 0);
        let mut weights = SoftmaxState::new();
        let mut before: Option<(AttentionUnit, SoftmaxState)> = None;
        while let Some(unit) = current {
            let next = units.next();
            if unit.begins_block() {
                weights = SoftmaxState::new();
            }
            let mut softmax = Softmax::<A>::new(&mut weights, scratch, side, &unit);
            let steps = before.as_ref().map_or(0, |(unit, _)| products.steps_of_weighing(unit))
                + next.as_ref().map_or(0, |unit| products.steps_of_scoring(unit));
            softmax.spread(steps);
            if let Some((unit, weights)) = &before {
                products.weigh(unit, 1 - side, &mut softmax);
                products.collect(unit, weights);
            }
            if let Some(unit) = &next {
                if unit.begins_head() {
                    products.pack_keys(unit);
                }
                products.score(unit, 1 - side, &mut softmax);
            }
            softmax.end();
            if unit.begins_head() {
                products.pack_values(&unit);
            }
            (before, current, side) = (Some((unit, weights.clone())), next, 1 - side);
        }
        if let Some((unit, weights)) = &before {
            products.weigh(unit, 1 - side, &mut ());
            products.collect(unit, weights);
        }
        A::end();
    }
}

/// Products of attention. A `side` is one of the two score matrices in the scratch.
struct AttentionProducts<'a, A> {
    part: &'a AttendPart<'a>,
    scratch: &'a Scratch,
    arithmetic: PhantomData<A>,
}

impl<A: Arithmetic> AttentionProducts<'_, A> {
    /// Start of the queries, keys or values of a row.
    #[inline(always)]
    fn at(&self, row: usize, part: usize, head: usize) -> *mut u8 {
        let AttendPart { qkv, heads, head_width, .. } = self.part;
        qkv.at(row).wrapping_add((part * heads + head) * head_width * A::ELEMENT.bytes())
    }

    #[inline(always)]
    fn lanes_of_head(&self) -> usize {
        self.part.head_width / A::ELEMENT.per_lane()
    }

    #[inline(always)]
    fn panels_of_head(&self) -> usize {
        self.part.head_width / PANEL
    }

    /// Packs the keys of the head as the right operand of a product: panels of 32 keys, lanes along the head.
    #[inline(always)]
    unsafe fn pack_keys(&self, unit: &AttentionUnit) {
        let bytes = self.part.head_width * A::ELEMENT.bytes();
        for first in (0..unit.tokens).step_by(16) {
            for word in (0..bytes).step_by(64) {
                // SAFETY: operands have slack rows behind the last sequence, whose content is not used.
                unsafe {
                    let from = self.at(unit.first + first, KEYS, unit.head).add(word);
                    let panel = first / PANEL * PANEL * bytes;
                    let to = self.scratch.keys.at(panel + word / 4 * PANEL * 4 + first % PANEL * 4);
                    A::Simd::transpose(from, self.part.qkv.stride(), to, PANEL * 4);
                }
            }
        }
    }

    /// Packs the values of the head as the right operand of a product: panels of 32 columns of the head, lanes along the
    /// keys.
    #[inline(always)]
    unsafe fn pack_values(&self, unit: &AttentionUnit) {
        let (bytes, per_lane) = (A::ELEMENT.bytes(), A::ELEMENT.per_lane());
        for lane in 0..lanes_of::<A>(unit.tokens) {
            for panel in 0..self.panels_of_head() {
                let at = |i: usize| {
                    let token = lane * per_lane + i;
                    if token < unit.tokens {
                        let row = self.at(unit.first + token, VALUES, unit.head);
                        // SAFETY: within the row.
                        unsafe { row.add(panel * PANEL * bytes).cast_const() }
                    } else {
                        // Values behind the sequence must be finite, since 0 times NaN is NaN.
                        self.scratch.zeros.at(0).cast_const()
                    }
                };
                // SAFETY: 32 elements of each row.
                unsafe { A::interleave([at(0), at(1), at(2), at(3)], self.values(unit, panel, lane)) };
            }
        }
    }

    #[inline(always)]
    fn values(&self, unit: &AttentionUnit, panel: usize, lane: usize) -> *mut u8 {
        let lanes = unit.tokens.next_multiple_of(PANEL) / A::ELEMENT.per_lane();
        self.scratch.values.at((panel * lanes + lane) * PANEL * 4)
    }

    #[inline(always)]
    fn steps_of_scoring(&self, unit: &AttentionUnit) -> usize {
        unit.keys.len().div_ceil(PANEL) * A::interleaved_steps(self.lanes_of_head())
    }

    #[inline(always)]
    unsafe fn score(&self, unit: &AttentionUnit, side: usize, other: &mut impl Interleaved) {
        let bytes = self.part.head_width * A::ELEMENT.bytes();
        // SAFETY: as for `attend`.
        unsafe {
            let tile = Tile {
                a: self.at(unit.queries.start, QUERIES, unit.head),
                a_stride: self.part.qkv.stride(),
                rows: unit.queries.len(),
                a_scales: std::ptr::null(),
                b: self.scratch.keys.at(unit.keys.start * bytes),
                b_columns: std::ptr::null(),
                is_far: false,
                lanes: self.lanes_of_head(),
                out: scores_of(self.scratch, side, 0),
                out_stride: SCORES_STRIDE,
            };
            A::strip_interleaved(&tile, unit.keys.len().div_ceil(PANEL), other);
        }
    }

    #[inline(always)]
    fn steps_of_weighing(&self, unit: &AttentionUnit) -> usize {
        self.panels_of_head() * A::interleaved_steps(lanes_of::<A>(unit.keys.len()))
    }

    #[inline(always)]
    unsafe fn weigh(&self, unit: &AttentionUnit, side: usize, other: &mut impl Interleaved) {
        for panel in 0..self.panels_of_head() {
            // SAFETY: as for `attend`.
            unsafe {
                let tile = Tile {
                    a: scores_of(self.scratch, side, 0).cast(),
                    a_stride: SCORES_STRIDE * 4,
                    rows: unit.queries.len(),
                    a_scales: std::ptr::null(),
                    b: self.values(unit, panel, unit.keys.start / A::ELEMENT.per_lane()),
                    b_columns: std::ptr::null(),
                    is_far: false,
                    lanes: lanes_of::<A>(unit.keys.len()),
                    out: self.weighed(panel),
                    out_stride: PANEL,
                };
                A::tile_interleaved(&tile, other);
            }
        }
    }

    /// Weighted values of one chunk, `[rows of a tile, 32]`.
    #[inline(always)]
    fn weighed(&self, panel: usize) -> *mut f32 {
        self.scratch.weighed.at(panel * TILE_BYTES).cast()
    }

    /// Adds the weighted values of a chunk to those of the previous chunks. After the last chunk, divides by the totals and
    /// stores the context.
    #[inline(always)]
    unsafe fn collect(&self, unit: &AttentionUnit, weights: &SoftmaxState) {
        let (context, stride) = self.part.context.stage();
        let head = unit.head * self.part.head_width;
        for (i, row) in unit.queries.clone().enumerate() {
            // SAFETY: as for `attend`.
            unsafe {
                let shrink = A::Simd::splat(weights.shrink[i]);
                let share = A::Simd::splat(1.0 / weights.totals[i]);
                for column in (0..self.part.head_width).step_by(A::Simd::LANES) {
                    let at = column / PANEL * TILE_BYTES / 4 + i * PANEL + column % PANEL;
                    let sum = self.scratch.sums.at(0).cast::<f32>().add(at);
                    let mut x = A::Simd::load(self.weighed(0).add(at));
                    if !unit.begins_block() {
                        x = A::Simd::mul_add(A::Simd::load(sum), shrink, x);
                    }
                    if unit.ends_block() {
                        let to = context.add(row * stride + (head + column) * A::ELEMENT.bytes());
                        A::put(to, A::Simd::mul(x, share));
                    } else {
                        A::Simd::store(sum, x);
                    }
                }
            }
        }
    }
}

/// Index of the queries, keys and values in a row.
const QUERIES: usize = 0;
const KEYS: usize = 1;
const VALUES: usize = 2;

/// Number of lanes along `keys` keys.
pub(super) fn lanes_of<A: Arithmetic>(keys: usize) -> usize {
    keys.div_ceil(A::ELEMENT.per_lane()).next_multiple_of(A::LANE_UNIT)
}

/// Scores of one query with the keys of a chunk. The softmax overwrites them with shares.
#[inline(always)]
pub(super) fn scores_of(scratch: &Scratch, side: usize, query: usize) -> *mut f32 {
    scratch.scores.at(side * SCORES_BYTES + query * SCORES_STRIDE * 4).cast()
}
