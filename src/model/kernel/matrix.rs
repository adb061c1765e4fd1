//! Matrix layouts of the kernels: states in f32, operands of a product, and packed weights.

use std::{marker::PhantomData, ops::Range};

use super::{
    arithmetic::{Element, PANEL},
    buffer::Buffer,
};

/// Multiple of the widths of operands, so that rows of every element type fill whole cache lines.
const WIDTH_UNIT: usize = 64;

/// Width including padding.
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(WIDTH_UNIT)
}

/// Matrix `[rows, width]` in f32. The content of the padding is arbitrary.
pub(in crate::model) struct StateMatrix {
    buffer: Buffer,
    width: usize,
    stride: usize,
}

impl StateMatrix {
    pub fn new(rows: usize, width: usize) -> StateMatrix {
        let stride = padded(width) * 4;
        StateMatrix { buffer: Buffer::new(rows * stride), width, stride }
    }

    /// Columns without padding.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Columns including padding.
    pub(super) fn padded(&self) -> usize {
        self.stride / 4
    }

    pub fn row(&self, row: usize) -> &[f32] {
        let start = self.at(row);
        // SAFETY: the row is within the buffer and initialised; kernels that write have exclusive references.
        unsafe { std::slice::from_raw_parts(start, self.width) }
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let start = self.at(row);
        // SAFETY: as above, and the reference to the matrix is exclusive.
        unsafe { std::slice::from_raw_parts_mut(start, self.width) }
    }

    pub fn rows(&self) -> usize {
        self.buffer.len() / self.stride
    }

    pub(super) fn at(&self, row: usize) -> *mut f32 {
        assert!((row + 1) * self.stride <= self.buffer.len(), "row {row} of {}", self.rows());
        self.buffer.at(row * self.stride).cast()
    }
}

/// Matrix `[rows, width]` in the element type of a kernel: the left operand of a product.
///
/// If the elements are integers, rows are first staged in a float type, because the range of a row is known only when it
/// is complete. Sealing a row quantizes it to elements with a scale and a zero point.
pub(in crate::model) struct Operand {
    elements: Buffer,
    stride: usize,
    stage: Option<Buffer>,
    stage_stride: usize,
    /// Scale and zero point of each row.
    scales: Buffer,
    width: usize,
}

impl Operand {
    /// Creates an operand; `stage` is the element type in which rows are staged.
    pub(super) fn new(rows: usize, width: usize, element: Element, stage: Element) -> Operand {
        // The stride is not a multiple of the page size, since rows at the same offset of different pages would evict
        // each other from the cache.
        let stride_of = |element: Element| padded(width) * element.bytes() + 64;
        let rows = rows + 32;
        let stage_buffer = (stage != element).then(|| Buffer::new(rows * stride_of(stage)));
        Operand {
            elements: Buffer::new(rows * stride_of(element)),
            stride: stride_of(element),
            stage: stage_buffer,
            stage_stride: stride_of(stage),
            scales: Buffer::new(rows * size_of::<[f32; 2]>()),
            width: padded(width),
        }
    }

    /// Columns including padding.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Bytes between the elements of consecutive rows.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn at(&self, row: usize) -> *mut u8 {
        self.elements.at(row * self.stride)
    }

    /// Start of the staged values of a row.
    pub(super) fn stage_at(&self, row: usize) -> *mut u8 {
        match &self.stage {
            Some(stage) => stage.at(row * self.stage_stride),
            None => self.at(row),
        }
    }

    /// Start of the staged values of the first row, and the bytes between rows.
    pub(super) fn stage(&self) -> (*mut u8, usize) {
        (self.stage_at(0), self.stage_stride)
    }

    pub(super) fn is_staged(&self) -> bool {
        self.stage.is_some()
    }

    pub(super) fn scale_at(&self, row: usize) -> *mut [f32; 2] {
        self.scales.at(row * size_of::<[f32; 2]>()).cast()
    }

    /// Number of rows, without the slack rows that only tiles read.
    pub(super) fn rows(&self) -> usize {
        self.elements.len() / self.stride - 32
    }
}

/// Exclusive access to some rows of a matrix.
pub(in crate::model) struct RowBlock<'a, M> {
    matrix: &'a M,
    rows: Range<usize>,
    exclusive: PhantomData<&'a mut M>,
}

impl<'a, M> RowBlock<'a, M> {
    pub fn new(matrix: &'a mut M, rows: Range<usize>) -> RowBlock<'a, M> {
        assert!(rows.start <= rows.end);
        RowBlock { matrix, rows, exclusive: PhantomData }
    }

    /// Blocks between consecutive bounds.
    pub fn between(matrix: &'a mut M, bounds: &[usize]) -> impl ExactSizeIterator<Item = RowBlock<'a, M>> {
        assert!(bounds.is_sorted(), "blocks do not overlap");
        let matrix: &M = matrix;
        bounds.windows(2).map(|ends| RowBlock { matrix, rows: ends[0]..ends[1], exclusive: PhantomData })
    }

    pub(super) fn matrix(&self) -> &'a M {
        self.matrix
    }

    pub(super) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }
}

/// Weights `[outputs, inputs]` and bias of `x * weights^T + bias`, packed for one element type.
///
/// Layout: panels of 32 outputs. A panel has two vectors of 16 outputs for each lane of four bytes along the inputs (1 f32,
/// 2 f16 or bf16, 4 i8). Every kernel reads a panel sequentially, whatever its vector length.
pub(in crate::model) struct Linear {
    panels: Buffer,
    /// `[outputs]`
    bias: Buffer,
    /// `[outputs]`: scale of each column and sum of its integers; 1 and 0 for floats.
    columns: Buffer,
    lanes: usize,
    outputs: usize,
}

/// Source of the weights and bias of a [`Linear`]. Padding is 0.
pub(in crate::model) struct LinearSource<'a> {
    /// Shape of the weights, `[outputs, inputs]`.
    pub outputs: usize,
    pub inputs: usize,
    pub weight: &'a dyn Fn(usize, usize) -> f32,
    pub bias: &'a dyn Fn(usize) -> f32,
}

impl Linear {
    pub(super) fn pack(source: &LinearSource<'_>, element: Element) -> Linear {
        let (outputs, inputs) = (source.outputs.next_multiple_of(PANEL), padded(source.inputs));
        let lanes = inputs / element.per_lane();
        let linear = Linear {
            panels: Buffer::new(outputs * lanes * 4),
            bias: Buffer::new(outputs * 4),
            columns: Buffer::new(outputs * size_of::<[f32; 2]>()),
            lanes,
            outputs,
        };
        let mut row = vec![0.0; inputs];
        for output in 0..outputs {
            let is_real = output < source.outputs;
            for (input, x) in row.iter_mut().enumerate() {
                let exists = is_real && input < source.inputs;
                *x = if exists { (source.weight)(output, input) } else { 0.0 };
            }
            let bias = if is_real { (source.bias)(output) } else { 0.0 };
            linear.put(output, &row, bias, element);
        }
        linear
    }

    fn put(&self, output: usize, row: &[f32], bias: f32, element: Element) {
        let (panel, column) = (output / PANEL, output % PANEL);
        let per_lane = element.per_lane();
        let scale = element.scale_of(row);
        let mut sum = 0.0;
        for (lane, values) in row.chunks_exact(per_lane).enumerate() {
            let mut word = [0; 4];
            sum += element.encode(values, scale, &mut word);
            // SAFETY: panel, lane and column are within the packed matrix, of which this is the only reference.
            unsafe {
                self.panels
                    .at(((panel * self.lanes + lane) * PANEL + column) * 4)
                    .cast::<[u8; 4]>()
                    .write(word)
            };
        }
        // SAFETY: one number and one pair for each output.
        unsafe {
            self.bias.at(output * 4).cast::<f32>().write(bias);
            self.columns.at(output * size_of::<[f32; 2]>()).cast::<[f32; 2]>().write([scale, sum]);
        }
    }

    pub(super) fn panel(&self, panel: usize) -> *const u8 {
        self.panels.at(panel * self.lanes * PANEL * 4)
    }

    pub(super) fn bias(&self, panel: usize) -> *const f32 {
        self.bias.at(panel * PANEL * 4).cast()
    }

    pub(super) fn columns(&self, panel: usize) -> *const [f32; 2] {
        self.columns.at(panel * PANEL * size_of::<[f32; 2]>()).cast()
    }

    pub(super) fn lanes(&self) -> usize {
        self.lanes
    }

    pub(super) fn panels(&self) -> usize {
        self.outputs / PANEL
    }
}
