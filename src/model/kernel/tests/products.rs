//! Tests of matrix products and their outputs.

use std::{cell::RefCell, ops::Range};

use proptest::prelude::*;

use super::{
    super::{
        Kernel, KernelExecutor, Linear, LinearSource, Operand, ProductOutput, RowBlock, StateMatrix, Team,
    },
    Numbers, bits, bytes, cases, kernels, no_attention, plain, read_row,
    reference::{Dot, F32_DIGIT, Sums, gelu, gelu_error, rounding, stored},
    rows, scale, with_team, write_row,
};

/// One product: `rows` of a matrix of `height`.
#[derive(Clone, Debug)]
struct Shape {
    height: usize,
    rows: Range<usize>,
    inputs: usize,
    outputs: usize,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Store,
    Gelu,
    Add,
}

/// Operands of one product of a kernel.
struct Setting {
    kernel: &'static Kernel,
    shape: Shape,
    x: RefCell<Operand>,
    weights: Linear,
    /// `[outputs, inputs]`
    weight: Vec<f32>,
    bias: Vec<f32>,
    states: StateMatrix,
}

/// Result of a product.
struct Outcome {
    operand: Operand,
    sums: StateMatrix,
}

const CANARY: f32 = 77.0;

impl Setting {
    fn new(kernel: &'static Kernel, shape: &Shape) -> Setting {
        let Shape { height, inputs, outputs, seed, .. } = *shape;
        let mut numbers = Numbers::new(seed);
        let mut x = kernel.operand(height, inputs);
        for row in 0..height {
            // Ranges that differ by row and that 0 is not the middle of, so that zero points matter.
            let (size, shift) = (1.0 + row as f32 % 3.0, 0.4 * numbers.next());
            let values: Vec<f32> = numbers.take(inputs).iter().map(|x| size * (x + shift)).collect();
            write_row(kernel, &mut x, row, &values);
        }
        let mut weight = numbers.take(outputs * inputs);
        for (output, column) in weight.chunks_exact_mut(inputs).enumerate() {
            let size = (1.0 + output as f32 % 5.0) / (inputs as f32).sqrt();
            column.iter_mut().for_each(|w| *w *= size);
        }
        let bias = numbers.take(outputs);
        let source = LinearSource {
            outputs,
            inputs,
            weight: &|output, input| weight[output * inputs + input],
            bias: &|output| bias[output],
        };
        let weights = kernel.pack(&source);
        let states = rows(height, outputs, seed + 1, 2.0);
        Setting { kernel, shape: shape.clone(), x: RefCell::new(x), weights, weight, bias, states }
    }

    fn run(&self, step: Step, parts: &[Range<usize>], team: &Team) -> Outcome {
        let Shape { height, outputs, .. } = self.shape;
        let mut operand = self.kernel.operand(height, outputs);
        let mut sums = StateMatrix::new(height, outputs);
        for row in 0..height {
            write_row(self.kernel, &mut operand, row, &vec![CANARY; outputs]);
            sums.row_mut(row).copy_from_slice(self.states.row(row));
        }
        let scratch = no_attention(self.kernel, team);
        let executor: KernelExecutor<'_> = self.kernel.executor(team, &scratch);
        let x: &mut Operand = &mut self.x.borrow_mut();
        for part in parts {
            let x = RowBlock::new(x, part.clone());
            let mut operand = RowBlock::new(&mut operand, part.clone());
            let mut sums = RowBlock::new(&mut sums, part.clone());
            let into = match step {
                Step::Store => ProductOutput::Store(&mut operand),
                Step::Gelu => ProductOutput::Gelu(&mut operand),
                Step::Add => ProductOutput::Add(&mut sums),
            };
            executor.project(&x, &self.weights, into);
        }
        Outcome { operand, sums }
    }

    /// Expected result of one row, and the tolerance.
    fn expected(&self, step: Step, row: usize, columns: &[Vec<f32>]) -> Vec<(f64, f64)> {
        let x = read_row(self.kernel, &self.x.borrow(), row, self.shape.inputs);
        let sums = Sums::of_products(self.kernel);
        let each = columns.iter().enumerate().map(|(output, column)| {
            let dot = Dot::new(x.iter().zip(column).map(|(x, w)| (f64::from(*x), f64::from(*w))));
            let mut error = dot.tolerance(sums);
            if sums == Sums::Integers {
                // Integers up to 255, from which the zero point is subtracted in f32: four roundings.
                let size: f64 = column.iter().map(|w| f64::from(w.abs())).sum();
                error += 4.0 * F32_DIGIT * 255.0 * f64::from(scale(&self.x.borrow(), row)[0]) * size;
            }
            let product = dot.value + f64::from(self.bias[output]);
            error += 2.0 * F32_DIGIT * (product.abs() + dot.size);
            match step {
                Step::Store => (product, error + rounding(self.kernel.stage, product)),
                Step::Gelu => {
                    // The steepest slope of GELU is 1.13.
                    let error = 1.13 * error + gelu_error(self.kernel, product);
                    (gelu(product), error + rounding(self.kernel.stage, product))
                }
                Step::Add => {
                    let sum = product + f64::from(self.states.row(row)[output]);
                    (sum, error + 2.0 * F32_DIGIT * sum.abs())
                }
            }
        });
        each.collect()
    }

    fn result(&self, step: Step, outcome: &Outcome, row: usize) -> (Vec<f32>, f64) {
        let outputs = self.shape.outputs;
        if matches!(step, Step::Add) {
            return (outcome.sums.row(row).to_vec(), 0.0);
        }
        // Sealing rounds to an integer, after a product that rounds too.
        let unit = if outcome.operand.is_staged() {
            0.502 * f64::from(scale(&outcome.operand, row)[0])
        } else {
            0.0
        };
        (read_row(self.kernel, &outcome.operand, row, outputs), unit)
    }
}

/// Bits of all results, row by row.
fn all_bits(setting: &Setting, step: Step, outcome: &Outcome) -> Vec<Vec<u32>> {
    setting.shape.rows.clone().map(|row| bits(&setting.result(step, outcome, row).0)).collect()
}

fn check_formula(setting: &Setting, step: Step, outcome: &Outcome, columns: &[Vec<f32>]) {
    let name = setting.kernel.name;
    for row in setting.shape.rows.clone() {
        let (result, unit) = setting.result(step, outcome, row);
        for (column, (x, (expected, error))) in
            result.iter().zip(setting.expected(step, row, columns)).enumerate()
        {
            let (off, most) = ((f64::from(*x) - expected).abs(), error + unit);
            assert!(off <= most, "{name} {step:?} [{row}, {column}]: {x} for {expected}: {off:e} > {most:e}");
        }
    }
}

fn check_rest_is_untouched(setting: &Setting, step: Step, outcome: &Outcome) {
    let untouched = setting.run(step, &[], &Team::alone());
    let Shape { height, rows, .. } = &setting.shape;
    for row in (0..height + 32).filter(|row| !rows.contains(row)) {
        assert_eq!(bytes(&untouched.operand, row), bytes(&outcome.operand, row), "row {row}");
        if row < *height {
            assert_eq!(outcome.sums.row(row), setting.states.row(row), "row {row}");
        }
    }
}

fn check(kernel: &'static Kernel, shape: &Shape) {
    let setting = Setting::new(kernel, shape);
    let columns: Vec<Vec<f32>> =
        setting.weight.chunks_exact(shape.inputs).map(|column| stored(kernel.element, column)).collect();
    for step in [Step::Store, Step::Gelu, Step::Add] {
        let outcome = setting.run(step, std::slice::from_ref(&shape.rows), &Team::alone());
        check_formula(&setting, step, &outcome, &columns);
        check_rest_is_untouched(&setting, step, &outcome);
    }
    check_divided(&setting, if shape.rows.start.is_multiple_of(2) { Step::Gelu } else { Step::Add });
    check_plain(&setting);
}

/// Checks that two halves of the rows, and a team, give bitwise equal results.
fn check_divided(setting: &Setting, step: Step) {
    let (name, rows) = (setting.kernel.name, &setting.shape.rows);
    let whole = setting.run(step, std::slice::from_ref(rows), &Team::alone());
    let middle = rows.start + rows.len() / 2;
    let halves = setting.run(step, &[rows.start..middle, middle..rows.end], &Team::alone());
    assert_eq!(all_bits(setting, step, &whole), all_bits(setting, step, &halves), "{name} in halves");
    with_team(2, |team| {
        let shared = setting.run(step, std::slice::from_ref(rows), team);
        assert_eq!(all_bits(setting, step, &whole), all_bits(setting, step, &shared), "{name} in a team");
        check_rest_is_untouched(setting, step, &shared);
    });
}

/// Checks that float operands are bitwise equal to those of the scalar kernel.
fn check_plain(setting: &Setting) {
    let shape = &setting.shape;
    let other = Setting::new(plain(setting.kernel.precision), shape);
    let (ours, theirs) =
        [setting, &other].map(|s| s.run(Step::Add, std::slice::from_ref(&shape.rows), &Team::alone())).into();
    let width = shape.inputs;
    for row in shape.rows.clone() {
        let [x, y] = [setting, &other].map(|s| read_row(s.kernel, &s.x.borrow(), row, width));
        let unit = if setting.x.borrow().is_staged() { scale(&other.x.borrow(), row)[0] } else { 0.0 };
        // Stages differ where integers do, by half a digit of f16 or bf16 of three units' size.
        let apart = if unit > 0.0 { unit + 5.0 / 256.0 } else { 0.0 };
        assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= apart), "{} row {row}", setting.kernel.name);
        let size = |row: &[f32]| row.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let (a, b): (&Outcome, &Outcome) = (&ours, &theirs);
        let off: Vec<f32> = a.sums.row(row).iter().zip(b.sums.row(row)).map(|(a, b)| a - b).collect();
        // Relative to the summands, since they may cancel out.
        let share =
            size(&off) / (size(b.sums.row(row)) + size(setting.states.row(row)) + size(&setting.bias));
        let most = if unit > 0.0 {
            0.02
        } else if Sums::of_products(setting.kernel) == Sums::F16 {
            0.01
        } else {
            1e-5
        };
        assert!(share <= most, "{} row {row}: {share:e}", setting.kernel.name);
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let widths = prop::sample::select(vec![
        (312, 48),
        (48, 312),
        (384, 64),
        (64, 384),
        (1000, 40),
        (40, 1000),
        (26, 33),
        (1, 1),
        (130, 100),
    ]);
    (1_usize..=70, 0_usize..=9, 0_usize..=9, widths, any::<u32>()).prop_map(
        |(count, before, after, (inputs, outputs), seed)| Shape {
            height: before + count + after,
            rows: before..before + count,
            inputs,
            outputs,
            seed: u64::from(seed),
        },
    )
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn products_match_the_formula_and_write_nothing_else(shape in shapes()) {
        kernels().for_each(|kernel| check(kernel, &shape));
    }
}

/// Every number of rows that a block of a kernel can have.
#[test]
fn blocks_of_every_height_match_the_formula() {
    for count in 1..=34 {
        let shape = Shape { height: count + 2, rows: 1..count + 1, inputs: 26, outputs: 33, seed: 5 };
        kernels().for_each(|kernel| check(kernel, &shape));
    }
}

/// Inputs with several chunks of lanes of different lengths.
#[test]
fn blocks_of_every_height_add_all_chunks_of_lanes() {
    for count in 1..=25 {
        let shape = Shape { height: count + 2, rows: 1..count + 1, inputs: 400, outputs: 33, seed: 6 };
        kernels().for_each(|kernel| check(kernel, &shape));
    }
}

/// More inputs than a sum in f16 may have.
#[test]
fn long_sums_are_split_before_they_become_inaccurate() {
    let shape = Shape { height: 13, rows: 0..13, inputs: 3072, outputs: 33, seed: 9 };
    kernels().for_each(|kernel| check(kernel, &shape));
}

#[test]
fn no_rows_are_no_work() {
    let shape = Shape { height: 3, rows: 1..1, inputs: 40, outputs: 40, seed: 1 };
    kernels().for_each(|kernel| check(kernel, &shape));
}
