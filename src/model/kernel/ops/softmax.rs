//! The softmax of a block of queries with a chunk of keys.

use super::{
    super::{
        arithmetic::{Arithmetic, Interleaved},
        simd::{GROUP, Simd},
    },
    MAX_TILE_ROWS, Scratch,
    attention::{AttentionUnit, lanes_of, scores_of},
};

/// Queries whose scores are converted to shares in one step.
const QUERIES_OF_STEP: usize = 4;

/// Running state of the softmax for each query of a block.
#[derive(Clone)]
pub(super) struct SoftmaxState {
    /// Highest score so far.
    highest: [f32; MAX_TILE_ROWS],
    /// Sums of `2^(score - highest)`.
    pub totals: [f32; MAX_TILE_ROWS],
    /// Factor for the sums of the previous chunks, after the last chunk changed the highest score.
    pub shrink: [f32; MAX_TILE_ROWS],
}

impl SoftmaxState {
    pub fn new() -> SoftmaxState {
        let none = [f32::NEG_INFINITY; MAX_TILE_ROWS];
        SoftmaxState { highest: none, totals: [0.0; MAX_TILE_ROWS], shrink: [0.0; MAX_TILE_ROWS] }
    }

    /// Updates the highest scores of a group of queries with those of a new chunk.
    #[inline(always)]
    unsafe fn rise<A: Arithmetic>(&mut self, first: usize, chunk_highest: &[f32; GROUP]) {
        for lane in (0..GROUP).step_by(A::Simd::LANES) {
            // SAFETY: a group has as many numbers in each array.
            unsafe {
                let at = first + lane;
                let old = A::Simd::load(self.highest.as_ptr().add(at));
                let new = A::Simd::max(A::Simd::load(chunk_highest.as_ptr().add(lane)), old);
                let shrink = A::Simd::exp2(A::Simd::sub(old, new), A::ACCURACY);
                let total = A::Simd::mul(A::Simd::load(self.totals.as_ptr().add(at)), shrink);
                A::Simd::store(self.highest.as_mut_ptr().add(at), new);
                A::Simd::store(self.shrink.as_mut_ptr().add(at), shrink);
                A::Simd::store(self.totals.as_mut_ptr().add(at), total);
            }
        }
    }
}

/// Converts the scores of a unit to shares, in steps. A step finds the highest scores of a group of queries, or converts a
/// few queries of the group.
pub(super) struct Softmax<'a, A: Arithmetic> {
    weights: &'a mut SoftmaxState,
    scratch: &'a Scratch,
    side: usize,
    queries: usize,
    keys: usize,
    /// First query of the current group.
    first: usize,
    /// Finished queries of the group; `None` until the highest scores are known.
    done: Option<usize>,
    per_query: [<A::Simd as Simd>::Vector; GROUP],
    steps_at_once: usize,
}

impl<'a, A: Arithmetic> Softmax<'a, A> {
    #[inline(always)]
    pub unsafe fn new(
        weights: &'a mut SoftmaxState,
        scratch: &'a Scratch,
        side: usize,
        unit: &AttentionUnit,
    ) -> Softmax<'a, A> {
        // SAFETY: as for `attend`.
        let per_query = [unsafe { A::Simd::splat(0.0) }; GROUP];
        let (queries, keys) = (unit.queries.len(), unit.keys.len());
        Softmax { weights, scratch, side, queries, keys, first: 0, done: None, per_query, steps_at_once: 0 }
    }

    /// Distributes all steps over `others` steps of other work.
    #[inline(always)]
    pub fn spread(&mut self, others: usize) {
        let steps = self.queries.div_ceil(GROUP) + self.queries.div_ceil(QUERIES_OF_STEP);
        self.steps_at_once = steps.div_ceil(others.max(1));
    }

    #[inline(always)]
    pub unsafe fn end(&mut self) {
        while self.first < self.queries {
            // SAFETY: as for `attend`.
            unsafe { self.advance() };
        }
    }

    #[inline(always)]
    unsafe fn advance(&mut self) {
        let queries = GROUP.min(self.queries - self.first);
        // SAFETY: as for `attend`.
        unsafe {
            let Some(done) = self.done else {
                self.find_highest(queries);
                self.done = Some(0);
                return;
            };
            let end = queries.min(done + QUERIES_OF_STEP);
            for query in done..end {
                self.per_query[query] = self.share(self.first + query);
            }
            self.done = Some(end);
            if end == queries {
                let mut sums = [0.0; GROUP];
                A::Simd::sum_of_each(&self.per_query, &mut sums);
                let totals = &mut self.weights.totals[self.first..][..queries];
                totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
                (self.first, self.done) = (self.first + GROUP, None);
            }
        }
    }

    #[inline(always)]
    unsafe fn find_highest(&mut self, queries: usize) {
        let whole = self.keys / A::Simd::LANES * A::Simd::LANES;
        // SAFETY: as for `attend`.
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
                self.per_query[query] = highest;
            }
            let mut group_highest = [0.0; GROUP];
            A::Simd::highest_of_each(&self.per_query, &mut group_highest);
            self.weights.rise::<A>(self.first, &group_highest);
        }
    }

    /// Stores `2^(score - highest)` of each key as elements, and 0 or nearly 0 behind the last key. Returns their sums per
    /// lane.
    #[inline(always)]
    unsafe fn share(&self, query: usize) -> <A::Simd as Simd>::Vector {
        let scores = scores_of(self.scratch, self.side, query);
        let pair = 2 * A::Simd::LANES;
        let whole = self.keys / pair * pair;
        let used = lanes_of::<A>(self.keys) * A::ELEMENT.per_lane();
        // SAFETY: as for `attend`; no element is wider than a score, so no score is overwritten before it is read.
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

impl<A: Arithmetic> Interleaved for Softmax<'_, A> {
    #[inline(always)]
    unsafe fn step(&mut self) {
        for _ in 0..self.steps_at_once {
            if self.first < self.queries {
                // SAFETY: as for `attend`.
                unsafe { self.advance() };
            }
        }
    }
}
