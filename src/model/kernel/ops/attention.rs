//! Attention of heads over sequences.

use std::{marker::PhantomData, ops::Range};

use super::{
    super::{
        arithmetic::{Arithmetic, Beside, Tile},
        matrix::{Operand, PANEL},
        simd::{GROUP, Simd},
    },
    MOST_ROWS, Scratch, TILE_BYTES, blocks,
};

/// Keys whose scores are in hand at one time: twice as many stay in the first cache.
const CHUNK: usize = 256;

/// Numbers between rows of scores: never a multiple of a page.
const SCORES_STRIDE: usize = CHUNK + 16;

/// Of the scores of a block of queries with a chunk of keys.
pub(super) const SCORES_BYTES: usize = MOST_ROWS * SCORES_STRIDE * 4;

/// Queries that become shares in one step.
const QUERIES_OF_STEP: usize = 4;

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

/// A block of queries of one head of one sequence with a chunk of its keys.
#[derive(Clone)]
struct Unit {
    /// The first row of the sequence.
    first: usize,
    tokens: usize,
    head: usize,
    /// Rows of the matrix.
    queries: Range<usize>,
    /// Places in the sequence.
    keys: Range<usize>,
}

impl Unit {
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

fn units<A: Arithmetic>(part: &Attend<'_>) -> impl Iterator<Item = Unit> {
    part.items.clone().flat_map(|item| {
        let (sequence, head) = (item / part.heads, item % part.heads);
        let (first, end) = (part.offsets[sequence], part.offsets[sequence + 1]);
        let tokens = end - first;
        blocks::<A>(first..end).flat_map(move |queries| {
            (0..tokens).step_by(CHUNK).map(move |key| Unit {
                first,
                tokens,
                head,
                queries: queries.clone(),
                keys: key..tokens.min(key + CHUNK),
            })
        })
    })
}

/// Attention by blocks of queries and chunks of keys: scores, softmax with a running maximum, weighted values.
/// Source: Attention Is All You Need, arXiv:1706.03762; the running maximum: FlashAttention, arXiv:2205.14135.
///
/// The softmax of a unit is computed beside the products of its neighbours: the one before weighs its values, the
/// one after gets its scores.
///
/// # Safety
/// As of [`product`](super::product); `A` is an arithmetic of floats.
#[inline(always)]
pub(in super::super) unsafe fn attend<A: Arithmetic>(part: &Attend<'_>, scratch: &Scratch) {
    let mut units = units::<A>(part);
    let Some(first) = units.next() else { return };
    let pass = Pass::<A> { part, scratch, arithmetic: PhantomData };
    // SAFETY: the scratch is made for sequences this long, rows are within their matrices.
    unsafe {
        A::begin();
        pass.pack_keys(&first);
        pass.score(&first, 0, &mut ());
        let (mut current, mut side) = (Some(first), 0);
        let mut weights = Weights::new();
        let mut before: Option<(Unit, Weights)> = None;
        while let Some(unit) = current {
            let next = units.next();
            if unit.begins_block() {
                weights = Weights::new();
            }
            let mut softmax = Softmax::<A>::new(&mut weights, scratch, side, &unit);
            let steps = before.as_ref().map_or(0, |(unit, _)| pass.steps_of_weighing(unit))
                + next.as_ref().map_or(0, |unit| pass.steps_of_scoring(unit));
            softmax.spread(steps);
            if let Some((unit, weights)) = &before {
                pass.weigh(unit, 1 - side, &mut softmax);
                pass.collect(unit, weights);
            }
            if let Some(unit) = &next {
                if unit.begins_head() {
                    pass.pack_keys(unit);
                }
                pass.score(unit, 1 - side, &mut softmax);
            }
            softmax.end();
            if unit.begins_head() {
                pass.pack_values(&unit);
            }
            (before, current, side) = (Some((unit, weights.clone())), next, 1 - side);
        }
        if let Some((unit, weights)) = &before {
            pass.weigh(unit, 1 - side, &mut ());
            pass.collect(unit, weights);
        }
        A::end();
    }
}

/// The products of attention; sides are those of the scores in the scratch.
struct Pass<'a, A> {
    part: &'a Attend<'a>,
    scratch: &'a Scratch,
    arithmetic: PhantomData<A>,
}

impl<A: Arithmetic> Pass<'_, A> {
    /// The start of a row's queries, keys or values.
    #[inline(always)]
    fn at(&self, row: usize, part: usize, head: usize) -> *mut u8 {
        let Attend { qkv, heads, head_width, .. } = self.part;
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

    /// The keys of the unit's head become the right side of a product: panels of 32 keys, lanes along the head.
    #[inline(always)]
    unsafe fn pack_keys(&self, unit: &Unit) {
        let bytes = self.part.head_width * A::ELEMENT.bytes();
        for first in (0..unit.tokens).step_by(16) {
            for word in (0..bytes).step_by(64) {
                // SAFETY: operands have slack rows past the last sequence; what is read there is never used.
                unsafe {
                    let from = self.at(unit.first + first, KEYS, unit.head).add(word);
                    let panel = first / PANEL * PANEL * bytes;
                    let to = self.scratch.keys.at(panel + word / 4 * PANEL * 4 + first % PANEL * 4);
                    A::Simd::transpose(from, self.part.qkv.stride(), to, PANEL * 4);
                }
            }
        }
    }

    /// The values of the unit's head become the right side of a product: panels of 32 columns of the head, lanes
    /// along the keys.
    #[inline(always)]
    unsafe fn pack_values(&self, unit: &Unit) {
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
                        // Values past the sequence must be numbers, since 0 times NaN is NaN.
                        self.scratch.zeros.at(0).cast_const()
                    }
                };
                // SAFETY: 32 elements of each row.
                unsafe { A::interleave([at(0), at(1), at(2), at(3)], self.values(unit, panel, lane)) };
            }
        }
    }

    #[inline(always)]
    fn values(&self, unit: &Unit, panel: usize, lane: usize) -> *mut u8 {
        let lanes = unit.tokens.next_multiple_of(PANEL) / A::ELEMENT.per_lane();
        self.scratch.values.at((panel * lanes + lane) * PANEL * 4)
    }

    #[inline(always)]
    fn steps_of_scoring(&self, unit: &Unit) -> usize {
        unit.keys.len().div_ceil(PANEL) * A::steps_beside(self.lanes_of_head())
    }

    #[inline(always)]
    unsafe fn score(&self, unit: &Unit, side: usize, other: &mut impl Beside) {
        let bytes = self.part.head_width * A::ELEMENT.bytes();
        // SAFETY: as of `attend`.
        unsafe {
            let tile = Tile {
                a: self.at(unit.queries.start, QUERIES, unit.head),
                a_stride: self.part.qkv.stride(),
                rows: unit.queries.len(),
                a_scales: std::ptr::null(),
                b: self.scratch.keys.at(unit.keys.start * bytes),
                b_columns: std::ptr::null(),
                lanes: self.lanes_of_head(),
                out: scores_of(self.scratch, side, 0),
                out_stride: SCORES_STRIDE,
            };
            A::strip_beside(&tile, unit.keys.len().div_ceil(PANEL), other);
        }
    }

    #[inline(always)]
    fn steps_of_weighing(&self, unit: &Unit) -> usize {
        self.panels_of_head() * A::steps_beside(lanes_of::<A>(unit.keys.len()))
    }

    #[inline(always)]
    unsafe fn weigh(&self, unit: &Unit, side: usize, other: &mut impl Beside) {
        for panel in 0..self.panels_of_head() {
            // SAFETY: as of `attend`.
            unsafe {
                let tile = Tile {
                    a: scores_of(self.scratch, side, 0).cast(),
                    a_stride: SCORES_STRIDE * 4,
                    rows: unit.queries.len(),
                    a_scales: std::ptr::null(),
                    b: self.values(unit, panel, unit.keys.start / A::ELEMENT.per_lane()),
                    b_columns: std::ptr::null(),
                    lanes: lanes_of::<A>(unit.keys.len()),
                    out: self.weighed(panel),
                    out_stride: PANEL,
                };
                A::tile_beside(&tile, other);
            }
        }
    }

    /// `[rows of a tile, 32]`: the weighted values of one chunk.
    #[inline(always)]
    fn weighed(&self, panel: usize) -> *mut f32 {
        self.scratch.weighed.at(panel * TILE_BYTES).cast()
    }

    /// Adds the weighted values of a chunk to those of the chunks before; after the last one, divides by the totals
    /// and takes them where they belong.
    #[inline(always)]
    unsafe fn collect(&self, unit: &Unit, weights: &Weights) {
        let (context, stride) = self.part.context.stage();
        let head = unit.head * self.part.head_width;
        for (i, row) in unit.queries.clone().enumerate() {
            // SAFETY: as of `attend`.
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

/// Parts of a row.
const QUERIES: usize = 0;
const KEYS: usize = 1;
const VALUES: usize = 2;

/// Lanes along some keys.
fn lanes_of<A: Arithmetic>(keys: usize) -> usize {
    keys.div_ceil(A::ELEMENT.per_lane()).next_multiple_of(A::LANE_UNIT)
}

/// Of one query with the keys of a chunk; shares take their place.
#[inline(always)]
fn scores_of(scratch: &Scratch, side: usize, query: usize) -> *mut f32 {
    scratch.scores.at(side * SCORES_BYTES + query * SCORES_STRIDE * 4).cast()
}

/// What the softmax knows of each query of a block.
#[derive(Clone)]
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

    /// The highest scores of a group may be those of a new chunk.
    #[inline(always)]
    unsafe fn rise<A: Arithmetic>(&mut self, first: usize, of_chunk: &[f32; GROUP]) {
        for lane in (0..GROUP).step_by(A::Simd::LANES) {
            // SAFETY: a group has as many numbers in each array.
            unsafe {
                let at = first + lane;
                let old = A::Simd::load(self.highest.as_ptr().add(at));
                let new = A::Simd::max(A::Simd::load(of_chunk.as_ptr().add(lane)), old);
                let shrink = A::Simd::exp2(A::Simd::sub(old, new), A::ACCURACY);
                let total = A::Simd::mul(A::Simd::load(self.totals.as_ptr().add(at)), shrink);
                A::Simd::store(self.highest.as_mut_ptr().add(at), new);
                A::Simd::store(self.shrink.as_mut_ptr().add(at), shrink);
                A::Simd::store(self.totals.as_mut_ptr().add(at), total);
            }
        }
    }
}

/// The scores of a unit become shares, in steps: a step finds the highest scores of a group of queries, or turns a
/// few queries of it into shares.
struct Softmax<'a, A: Arithmetic> {
    weights: &'a mut Weights,
    scratch: &'a Scratch,
    side: usize,
    queries: usize,
    keys: usize,
    /// The first query of the group in hand.
    first: usize,
    /// Queries of the group that are done; none where the highest scores are not known.
    done: Option<usize>,
    of_queries: [<A::Simd as Simd>::Vector; GROUP],
    steps_at_once: usize,
}

impl<'a, A: Arithmetic> Softmax<'a, A> {
    #[inline(always)]
    unsafe fn new(
        weights: &'a mut Weights,
        scratch: &'a Scratch,
        side: usize,
        unit: &Unit,
    ) -> Softmax<'a, A> {
        // SAFETY: as of `attend`.
        let of_queries = [unsafe { A::Simd::splat(0.0) }; GROUP];
        let (queries, keys) = (unit.queries.len(), unit.keys.len());
        Softmax { weights, scratch, side, queries, keys, first: 0, done: None, of_queries, steps_at_once: 0 }
    }

    /// Makes all steps fit beside as many of another work.
    #[inline(always)]
    fn spread(&mut self, others: usize) {
        let steps = self.queries.div_ceil(GROUP) + self.queries.div_ceil(QUERIES_OF_STEP);
        self.steps_at_once = steps.div_ceil(others.max(1));
    }

    #[inline(always)]
    unsafe fn end(&mut self) {
        while self.first < self.queries {
            // SAFETY: as of `attend`.
            unsafe { self.advance() };
        }
    }

    #[inline(always)]
    unsafe fn advance(&mut self) {
        let queries = GROUP.min(self.queries - self.first);
        // SAFETY: as of `attend`.
        unsafe {
            let Some(done) = self.done else {
                self.find_highest(queries);
                self.done = Some(0);
                return;
            };
            let end = queries.min(done + QUERIES_OF_STEP);
            for query in done..end {
                self.of_queries[query] = self.share(self.first + query);
            }
            self.done = Some(end);
            if end == queries {
                let mut sums = [0.0; GROUP];
                A::Simd::sum_of_each(&self.of_queries, &mut sums);
                let totals = &mut self.weights.totals[self.first..][..queries];
                totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
                (self.first, self.done) = (self.first + GROUP, None);
            }
        }
    }

    #[inline(always)]
    unsafe fn find_highest(&mut self, queries: usize) {
        let whole = self.keys / A::Simd::LANES * A::Simd::LANES;
        // SAFETY: as of `attend`.
        unsafe {
            for query in 0..queries {
                let scores = scores_of(self.scratch, self.side, self.first + query);
                let mut highest = A::Simd::splat(f32::NEG_INFINITY);
                for i in (0..whole).step_by(A::Simd::LANES) {
                    highest = A::Simd::max(highest, A::Simd::load(scores.add(i)));
                }
                if whole < self.keys {
                    let last = A::Simd::load_first(scores.add(whole), self.keys - whole, f32::NEG_INFINITY);
                    highest = A::Simd::max(highest, last);
                }
                self.of_queries[query] = highest;
            }
            let mut of_group = [0.0; GROUP];
            A::Simd::highest_of_each(&self.of_queries, &mut of_group);
            self.weights.rise::<A>(self.first, &of_group);
        }
    }

    /// `2^(score - highest)` of each key as elements, 0 or next to it past the last; their sum, lane by lane.
    #[inline(always)]
    unsafe fn share(&self, query: usize) -> <A::Simd as Simd>::Vector {
        let scores = scores_of(self.scratch, self.side, query);
        let pair = 2 * A::Simd::LANES;
        let whole = self.keys / pair * pair;
        let used = lanes_of::<A>(self.keys) * A::ELEMENT.per_lane();
        // SAFETY: as of `attend`; no element is wider than a score, so none is written before it was read.
        unsafe {
            let shares = scores.cast::<u8>();
            let highest = A::Simd::splat(self.weights.highest[query]);
            let (mut low_total, mut high_total) = (A::Simd::splat(0.0), A::Simd::splat(0.0));
            for i in (0..whole).step_by(pair) {
                let (low, high) =
                    (A::Simd::load(scores.add(i)), A::Simd::load(scores.add(i + A::Simd::LANES)));
                let low = A::Simd::exp2(A::Simd::sub(low, highest), A::ACCURACY);
                let high = A::Simd::exp2(A::Simd::sub(high, highest), A::ACCURACY);
                low_total = A::Simd::add(low_total, low);
                high_total = A::Simd::add(high_total, high);
                A::put_two(shares.add(i * A::ELEMENT.bytes()), low, high);
            }
            for i in (whole..used).step_by(A::Simd::LANES) {
                let known = A::Simd::LANES.min(self.keys.saturating_sub(i));
                let mut share = A::Simd::splat(0.0);
                if known > 0 {
                    let scores = A::Simd::load_first(scores.add(i), known, f32::NEG_INFINITY);
                    share = A::Simd::exp2(A::Simd::sub(scores, highest), A::ACCURACY);
                    low_total = A::Simd::add(low_total, share);
                }
                A::put(shares.add(i * A::ELEMENT.bytes()), share);
            }
            A::Simd::add(low_total, high_total)
        }
    }
}

impl<A: Arithmetic> Beside for Softmax<'_, A> {
    #[inline(always)]
    unsafe fn step(&mut self) {
        for _ in 0..self.steps_at_once {
            if self.first < self.queries {
                // SAFETY: as of `attend`.
                unsafe { self.advance() };
            }
        }
    }
}
