//! CPU kernels of the encoder: matrix products, attention and layer normalisation over packed rows.
//!
//! A [`Kernel`] is an implementation for one instruction set and one element type. All kernels share the steps (`ops`),
//! the memory layouts (`matrix`) and the tests, and differ in their [`arithmetic::Arithmetic`]. This is the only module
//! with `unsafe` code.

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

/// Implementation of the encoder steps for one instruction set and one element type.
#[derive(Debug)]
pub struct Kernel {
    /// Instruction set and element type, such as `avx512-fp16`.
    pub name: &'static str,
    /// Type in which products are computed.
    pub precision: Precision,
    element: Element,
    /// Element type of attention, and of rows before they are quantized.
    stage: Element,
    is_supported: fn() -> bool,
    ops: KernelOps,
}

/// Functions of one kernel.
#[derive(Debug)]
struct KernelOps {
    product: unsafe fn(&ProductPart<'_>, &Scratch),
    seal: unsafe fn(&Operand, Range<usize>),
    normalise: unsafe fn(&NormalisePart<'_>),
    attend: unsafe fn(&AttendPart<'_>, &Scratch),
}

/// Learned scale and shift of a layer normalisation. Source: Layer Normalization, arXiv:1607.06450.
pub(super) struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

/// Destination of a product.
pub(super) enum ProductOutput<'a, 'm> {
    /// Stored as an operand.
    Store(&'a mut RowBlock<'m, Operand>),
    /// Stored as an operand after GELU.
    Gelu(&'a mut RowBlock<'m, Operand>),
    /// Added: `states += product`.
    Add(&'a mut RowBlock<'m, StateMatrix>),
}

/// Number and padded width of the heads of an attention layer.
#[derive(Clone, Copy)]
pub(super) struct AttentionHeads {
    pub count: usize,
    /// Columns of one head, padding included.
    pub width: usize,
}

/// Runs the steps of a kernel on a team of threads.
pub(super) struct KernelExecutor<'a> {
    kernel: &'static Kernel,
    team: &'a Team,
    /// One per member of the team.
    scratch: &'a [Scratch],
}

impl LayerNorm {
    /// Creates the layer normalisation; `weight` and `bias` are `[dim]`.
    pub fn new(mut weight: Vec<f32>, mut bias: Vec<f32>, epsilon: f32) -> LayerNorm {
        let width = padded(weight.len());
        weight.resize(width, 0.0);
        bias.resize(width, 0.0);
        LayerNorm { weight, bias, epsilon }
    }
}

impl AttentionHeads {
    /// Pads heads of `head_dim` columns.
    pub fn new(count: usize, head_dim: usize) -> AttentionHeads {
        AttentionHeads { count, width: head_dim.next_multiple_of(PANEL) }
    }

    /// Part (0 queries, 1 keys, 2 values), head and column within the head of a padded column.
    pub fn find(self, column: usize) -> (usize, usize, usize) {
        let size = self.count * self.width;
        (column / size, column % size / self.width, column % self.width)
    }
}

impl Kernel {
    /// Returns true if this CPU and operating system can run the kernel.
    pub fn is_supported(&self) -> bool {
        (self.is_supported)()
    }

    /// Packs weights for this kernel.
    pub(super) fn pack(&self, source: &LinearSource<'_>) -> Linear {
        Linear::pack(source, self.element)
    }

    /// Creates an operand of matrix products.
    pub(super) fn operand(&self, rows: usize, width: usize) -> Operand {
        Operand::new(rows, width, self.element, self.stage)
    }

    /// Creates an operand of attention.
    pub(super) fn attention_operand(&self, rows: usize, width: usize) -> Operand {
        Operand::new(rows, width, self.stage, self.stage)
    }

    /// Creates the scratch memory of one thread, for sequences of at most `tokens` tokens.
    pub(super) fn scratch(&self, tokens: usize, heads: AttentionHeads) -> Scratch {
        Scratch::new(tokens, heads.width)
    }

    /// Creates an executor with one scratch per member of `team`.
    ///
    /// # Panics
    /// If the CPU does not support the kernel, or `scratch` has fewer entries than the team has members.
    pub(super) fn executor<'a>(&'static self, team: &'a Team, scratch: &'a [Scratch]) -> KernelExecutor<'a> {
        assert!(self.is_supported(), "the CPU lacks the instructions of {}", self.name);
        assert!(scratch.len() >= team.size(), "every member has scratch of its own");
        KernelExecutor { kernel: self, team, scratch }
    }
}

/// Maximum rows of a block. The intermediate results of a layer for these rows fit the cache of one core.
const MAX_BLOCK_ROWS: usize = 256;

/// Minimum rows of a block per thread. For fewer rows, reading all weights once more costs more than it gains.
const MIN_BLOCK_ROWS: usize = 48;

/// Rows of a tile; blocks begin at multiples of it.
const TILE_ROWS: usize = 16;

/// First row of block `i` of `count`.
fn bound(rows: usize, i: usize, count: usize) -> usize {
    (rows * i / count).next_multiple_of(TILE_ROWS).min(rows)
}

impl KernelExecutor<'_> {
    /// Bounds of the blocks into which `rows` are divided: one block per present member, unless they would be too small.
    pub fn bounds(&self, rows: usize) -> Vec<usize> {
        let count = self.blocks(rows);
        (0..=count).map(|i| bound(rows, i, count)).collect()
    }

    fn blocks(&self, rows: usize) -> usize {
        let present = self.team.present();
        let members = if rows >= MIN_BLOCK_ROWS * present { present } else { 1 };
        rows.div_ceil(MAX_BLOCK_ROWS).next_multiple_of(members)
    }

    /// Rebalances the bounds so that all members would have finished the previous layer at the same time. Divides the rows
    /// anew if a member joined meanwhile.
    pub fn balance(&self, bounds: &mut Vec<usize>) {
        let (count, rows) = (bounds.len() - 1, bounds[bounds.len() - 1]);
        if self.blocks(rows) != count {
            *bounds = self.bounds(rows);
        } else if count == self.team.present() {
            self.team.rebalance(TILE_ROWS, bounds);
        }
    }

    /// Runs `work` for each block. If there are enough blocks, each member computes blocks alone; otherwise all members
    /// share one block after the other.
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
            // The member's own block, or the block of a member that is late.
            let block = take(member).or_else(|| (0..blocks.len()).find_map(take));
            let (i, block) = block.expect("there is one for each call");
            let begun = Instant::now();
            work(&alone, block);
            self.team.observe(member, bounds[i + 1] - bounds[i], begun.elapsed());
        });
    }

    /// Computes `x * weights^T + bias` for a block of rows and writes it to `into`.
    ///
    /// # Panics
    /// If the shapes do not match.
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
                // SAFETY: `executor` checked that the kernel is supported; the shapes were checked above; parts have
                // different columns, and only this block writes its rows.
                unsafe { (self.kernel.ops.product)(&part, &self.scratch[member]) }
            });
        }
        if let ProductOutput::Store(to) | ProductOutput::Gelu(to) = into {
            self.seal(to);
        }
    }

    /// Computes attention within each sequence. `qkv` is `[tokens, 3 * heads * width]` with queries scaled by
    /// log2(e) / sqrt(head_dim); `context` is `[tokens, heads * width]`.
    ///
    /// # Panics
    /// If the shapes do not match, or a sequence is longer than the scratch.
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
            // SAFETY: as in `project`; parts differ in rows or in columns.
            unsafe { (self.kernel.ops.attend)(&part, &self.scratch[member]) }
        });
        self.seal(&mut RowBlock::new(context, 0..tokens));
    }

    /// Normalises a block of rows of `states` in place, and writes the result to `operand` too.
    ///
    /// # Panics
    /// If the shapes do not match.
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
            // SAFETY: as in `project`; parts differ in rows.
            unsafe {
                (self.kernel.ops.normalise)(&NormalisePart { states, weight, bias, epsilon, operand, rows });
            }
        });
    }

    /// Quantizes the rows of a staged operand.
    fn seal(&self, block: &mut RowBlock<'_, Operand>) {
        let operand = block.matrix();
        if operand.is_staged() {
            // SAFETY: as in `project`; parts differ in rows.
            self.each_of(block.rows(), &|rows| unsafe { (self.kernel.ops.seal)(operand, rows) });
        }
    }

    /// Runs `work` for parts of the rows.
    fn each_of(&self, rows: Range<usize>, work: &(dyn Fn(Range<usize>) + Sync)) {
        let parts = self.parts(rows.len().div_ceil(16));
        self.team.each(parts, &|_, i| {
            work(rows.start + rows.len() * i / parts..rows.start + rows.len() * (i + 1) / parts);
        });
    }

    /// Number of parts of a step with `units` units: a few per member, so that no member waits long for the last part.
    fn parts(&self, units: usize) -> usize {
        match self.team.present() {
            1 => 1,
            members => units.min(3 * members).max(1),
        }
    }
}

#[cfg(test)]
mod tests;
