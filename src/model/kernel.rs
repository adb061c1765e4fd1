//! The arithmetic of an encoder on CPUs: products, attention and normalisation of packed rows.
//!
//! A [`Kernel`] is one way to compute them: an instruction set and an element type. All share the same steps
//! (`ops`), layouts (`matrix`) and tests; what sets them apart is an [`arithmetic::Arithmetic`]. This is the only
//! place with `unsafe` in it.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_tiles;
mod arithmetic;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod buffer;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod ops;
mod scalar;
mod simd;
mod table;
mod team;

use std::{ops::Range, time::Instant};

use parking_lot::Mutex;

use arithmetic::{Element, PANEL};
use matrix::padded;
use ops::{AttendPart, Epilogue, NormalisePart, ProductPart};

pub(super) use matrix::{Linear, LinearSource, Operand, RowBlock, StateMatrix};
pub(super) use ops::Scratch;
pub use table::{Precision, all};
pub use team::{Invitation, Team};

/// One way to compute: an instruction set and an element type.
#[derive(Debug)]
pub struct Kernel {
    /// Instruction set and element type, such as `avx512-fp16`.
    pub name: &'static str,
    pub precision: Precision,
    element: Element,
    /// Element of attention, and of rows before they are sealed.
    stage: Element,
    is_supported: fn() -> bool,
    ops: KernelOps,
}

/// The steps of one kernel.
#[derive(Debug)]
struct KernelOps {
    product: unsafe fn(&ProductPart<'_>, &Scratch),
    seal: unsafe fn(&Operand, Range<usize>),
    normalise: unsafe fn(&NormalisePart<'_>),
    attend: unsafe fn(&AttendPart<'_>, &Scratch),
}

/// The learned scale and shift of a layer normalisation. Source: Layer Normalization, arXiv:1607.06450.
pub(super) struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

/// What becomes of a product.
pub(super) enum ProductOutput<'a, 'm> {
    Store(&'a mut RowBlock<'m, Operand>),
    Gelu(&'a mut RowBlock<'m, Operand>),
    /// `states += product`
    Add(&'a mut RowBlock<'m, StateMatrix>),
}

/// The heads of an attention layer.
#[derive(Clone, Copy)]
pub(super) struct AttentionHeads {
    pub count: usize,
    /// Numbers of one head, with padding.
    pub width: usize,
}

/// A thread of the team for each part of a step.
pub(super) struct KernelExecutor<'a> {
    kernel: &'static Kernel,
    team: &'a Team,
    /// One for each member.
    scratch: &'a [Scratch],
}

impl LayerNorm {
    /// `weight` and `bias` are `[dim]`.
    pub fn new(mut weight: Vec<f32>, mut bias: Vec<f32>, epsilon: f32) -> LayerNorm {
        let width = padded(weight.len());
        weight.resize(width, 0.0);
        bias.resize(width, 0.0);
        LayerNorm { weight, bias, epsilon }
    }
}

impl AttentionHeads {
    pub fn new(count: usize, head_dim: usize) -> AttentionHeads {
        AttentionHeads { count, width: head_dim.next_multiple_of(PANEL) }
    }

    /// Which part (queries, keys, values), head and number of it a padded column is.
    pub fn find(self, column: usize) -> (usize, usize, usize) {
        let size = self.count * self.width;
        (column / size, column % size / self.width, column % self.width)
    }
}

impl Kernel {
    /// Whether this CPU, and the system, can run it.
    pub fn is_supported(&self) -> bool {
        (self.is_supported)()
    }

    pub(super) fn pack(&self, source: &LinearSource<'_>) -> Linear {
        Linear::pack(source, self.element)
    }

    /// An operand of products.
    pub(super) fn operand(&self, rows: usize, width: usize) -> Operand {
        Operand::new(rows, width, self.element, self.stage)
    }

    /// An operand of attention.
    pub(super) fn attention_operand(&self, rows: usize, width: usize) -> Operand {
        Operand::new(rows, width, self.stage, self.stage)
    }

    /// What each member of a team needs for sequences of at most `tokens`.
    pub(super) fn scratch(&self, tokens: usize, heads: AttentionHeads) -> Scratch {
        Scratch::new(tokens, heads.width)
    }

    pub(super) fn executor<'a>(&'static self, team: &'a Team, scratch: &'a [Scratch]) -> KernelExecutor<'a> {
        assert!(self.is_supported(), "the CPU lacks the instructions of {}", self.name);
        assert!(scratch.len() >= team.size(), "every member has scratch of its own");
        KernelExecutor { kernel: self, team, scratch }
    }
}

/// The most rows of a block: what a layer keeps of them between its products stays in the cache of one core.
const MAX_BLOCK_ROWS: usize = 256;

/// The fewest rows of a block that is worth reading all weights for.
const MIN_BLOCK_ROWS: usize = 48;

/// Rows of a tile.
const TILE_ROWS: usize = 16;

/// Where the `i`th of `count` blocks of rows begins.
fn bound(rows: usize, i: usize, count: usize) -> usize {
    (rows * i / count).next_multiple_of(TILE_ROWS).min(rows)
}

impl KernelExecutor<'_> {
    /// Bounds of the blocks that rows are best computed in: one for each member who came, unless they would be too
    /// small.
    pub fn bounds(&self, rows: usize) -> Vec<usize> {
        let count = self.blocks(rows);
        (0..=count).map(|i| bound(rows, i, count)).collect()
    }

    fn blocks(&self, rows: usize) -> usize {
        let present = self.team.present();
        let members = if rows >= MIN_BLOCK_ROWS * present { present } else { 1 };
        rows.div_ceil(MAX_BLOCK_ROWS).next_multiple_of(members)
    }

    /// Moves the bounds between blocks of one member each to where all would have ended at once in the layer before;
    /// new ones where somebody came meanwhile.
    pub fn balance(&self, bounds: &mut Vec<usize>) {
        let (count, rows) = (bounds.len() - 1, bounds[bounds.len() - 1]);
        if self.blocks(rows) != count {
            *bounds = self.bounds(rows);
        } else if count == self.team.present() {
            self.team.rebalance(TILE_ROWS, bounds);
        }
    }

    /// Works on blocks between these bounds: each member on blocks of its own if there are enough of them, else all on
    /// one after the other.
    pub fn each<T: Send>(
        &self,
        bounds: &[usize],
        blocks: impl ExactSizeIterator<Item = T>,
        work: impl Fn(&KernelExecutor<'_>, T) + Sync,
    ) {
        let present = self.team.present();
        if present == 1 || blocks.len() < present {
            blocks.for_each(|block| work(self, block));
            return;
        }
        let blocks: Vec<Mutex<Option<T>>> = blocks.map(|block| Mutex::new(Some(block))).collect();
        let take = |i: usize| Some((i, blocks[i].lock().take()?));
        self.team.each(blocks.len(), &|member, _| {
            let team = Team::alone();
            let alone =
                KernelExecutor { kernel: self.kernel, team: &team, scratch: &self.scratch[member..=member] };
            // A member's own block, or that of one who comes late.
            let block = take(member).or_else(|| (0..blocks.len()).find_map(take));
            let (i, block) = block.expect("there is one for each call");
            let begun = Instant::now();
            work(&alone, block);
            self.team.observe(member, bounds[i + 1] - bounds[i], begun.elapsed());
        });
    }

    /// `x * weights^T + bias` for a block of rows.
    pub fn project(&self, x: &RowBlock<'_, Operand>, weights: &Linear, into: ProductOutput<'_, '_>) {
        let (rows, x) = (x.rows(), x.matrix());
        assert!(rows.end <= x.rows());
        assert!(x.width() >= weights.lanes() * self.kernel.element.per_lane());
        let width = weights.panels() * PANEL;
        let epilogue = match &into {
            ProductOutput::Store(to) | ProductOutput::Gelu(to) => {
                assert!(to.rows() == rows && rows.end <= to.matrix().rows() && width <= to.matrix().width());
                let is_gelu = matches!(into, ProductOutput::Gelu(_));
                if is_gelu { Epilogue::Gelu(to.matrix()) } else { Epilogue::Store(to.matrix()) }
            }
            ProductOutput::Add(states) => {
                let matrix = states.matrix();
                assert!(states.rows() == rows && rows.end <= matrix.rows() && width <= matrix.padded());
                Epilogue::Add(matrix)
            }
        };
        let (panels, parts) = (weights.panels(), self.parts(weights.panels()));
        let count = rows.len().div_ceil(MAX_BLOCK_ROWS);
        let bound = |i| rows.start + bound(rows.len(), i, count);
        for rows in (0..count).map(|i| bound(i)..bound(i + 1)) {
            self.team.each(parts, &|member, i| {
                let panels = panels * i / parts..panels * (i + 1) / parts;
                let part = ProductPart { x, weights, rows: rows.clone(), panels, epilogue };
                // SAFETY: supported, as `executor` checked; the shapes fit, as checked above; parts differ in columns,
                // and the rows that are written are this block's alone.
                unsafe { (self.kernel.ops.product)(&part, &self.scratch[member]) }
            });
        }
        if let ProductOutput::Store(to) | ProductOutput::Gelu(to) = into {
            self.seal(to);
        }
    }

    /// Attention of each sequence over itself alone; `qkv` is `[tokens, 3 * heads * width]`, queries scaled by
    /// log2(e) / sqrt(head_dim), and `context` `[tokens, heads * width]`.
    pub fn attend(&self, qkv: &Operand, offsets: &[usize], heads: AttentionHeads, context: &mut Operand) {
        let tokens = offsets.last().copied().unwrap_or_default();
        assert!(tokens <= qkv.rows() && tokens <= context.rows());
        assert!(offsets.is_sorted(), "the ends of sequences ascend");
        let longest = offsets.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or_default();
        let fits = |scratch: &Scratch| scratch.fits(longest, heads.width);
        assert!(self.scratch.iter().all(fits), "a sequence of {longest} tokens does not fit the scratch");
        assert!(qkv.width() >= 3 * heads.count * heads.width && context.width() >= heads.count * heads.width);
        let out: &Operand = context;
        let items = offsets.len().saturating_sub(1) * heads.count;
        let parts = self.parts(items);
        self.team.each(parts, &|member, i| {
            let items = items * i / parts..items * (i + 1) / parts;
            let AttentionHeads { count, width } = heads;
            let part = AttendPart { qkv, context: out, offsets, items, heads: count, head_width: width };
            // SAFETY: as of `project`; parts differ in rows or in columns.
            unsafe { (self.kernel.ops.attend)(&part, &self.scratch[member]) }
        });
        self.seal(&mut RowBlock::new(context, 0..tokens));
    }

    /// `states = norm(states)` and the same as an operand, for a block of rows.
    pub fn normalise(
        &self,
        norm: &LayerNorm,
        states: &mut RowBlock<'_, StateMatrix>,
        operand: &mut RowBlock<'_, Operand>,
    ) {
        let rows = states.rows();
        assert_eq!(rows, operand.rows());
        let (states, operand) = (states.matrix(), operand.matrix());
        assert!(rows.end <= states.rows() && rows.end <= operand.rows());
        assert!(states.padded() == norm.weight.len() && operand.width() == states.padded());
        self.each_of(rows, &|rows| {
            let (weight, bias, epsilon) = (&norm.weight, &norm.bias, norm.epsilon);
            // SAFETY: as of `project`; parts differ in rows.
            unsafe {
                (self.kernel.ops.normalise)(&NormalisePart { states, weight, bias, epsilon, operand, rows });
            }
        });
    }

    fn seal(&self, block: &mut RowBlock<'_, Operand>) {
        let operand = block.matrix();
        if operand.is_staged() {
            // SAFETY: as of `project`; parts differ in rows.
            self.each_of(block.rows(), &|rows| unsafe { (self.kernel.ops.seal)(operand, rows) });
        }
    }

    /// Some of the rows at a time.
    fn each_of(&self, rows: Range<usize>, work: &(dyn Fn(Range<usize>) + Sync)) {
        let parts = self.parts(rows.len().div_ceil(16));
        self.team.each(parts, &|_, i| {
            work(rows.start + rows.len() * i / parts..rows.start + rows.len() * (i + 1) / parts);
        });
    }

    /// Into how many parts a step of `units` is cut: a few for each member, so that nobody waits long for the last.
    fn parts(&self, units: usize) -> usize {
        match self.team.present() {
            1 => 1,
            members => units.min(3 * members).max(1),
        }
    }
}

#[cfg(test)]
mod tests;
