//! Tests of layer normalisation.

use std::ops::Range;

use proptest::prelude::*;

use super::{
    super::{Kernel, LayerNorm, Operand, RowBlock, StateMatrix, Team},
    Numbers, bits, bytes, cases, kernels, no_attention, read_row,
    reference::{F32_DIGIT, rounding},
    rows, scale, with_team,
};

/// Input of a normalisation.
struct Setting {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
    sums: StateMatrix,
}

struct Outcome {
    states: StateMatrix,
    operand: Operand,
}

impl Setting {
    fn new(height: usize, width: usize, seed: u64) -> Setting {
        let mut numbers = Numbers::new(seed);
        let mut sums = rows(height, width, seed, 3.0);
        for row in 0..height {
            let shift = 2.0 * numbers.next();
            sums.row_mut(row).iter_mut().for_each(|x| *x += shift);
        }
        let weight = numbers.take(width).iter().map(|x| 1.0 + x / 2.0).collect();
        Setting { weight, bias: numbers.take(width), epsilon: 1e-5, sums }
    }

    fn run(&self, kernel: &'static Kernel, rows: Range<usize>, team: &Team) -> Outcome {
        let (height, width) = (self.sums.rows(), self.sums.width());
        let (mut states, mut operand) = (StateMatrix::new(height, width), kernel.operand(height, width));
        for row in 0..height {
            // SAFETY: both have rows of this width, with their padding, and are ours alone.
            unsafe { states.at(row).copy_from_nonoverlapping(self.sums.at(row), states.padded()) };
        }
        let scratch = no_attention(kernel, team);
        let norm = LayerNorm::new(self.weight.clone(), self.bias.clone(), self.epsilon);
        kernel.executor(team, &scratch).normalise(
            &norm,
            &mut RowBlock::new(&mut states, rows.clone()),
            &mut RowBlock::new(&mut operand, rows),
        );
        Outcome { states, operand }
    }

    /// `weight * (x - mean) / sqrt(variance + epsilon) + bias`, and how far from it a kernel may be: mean and
    /// variance are sums in f32, and `x - mean` is computed as a difference of numbers as large as x.
    fn expected(&self, row: usize) -> Vec<(f64, f64)> {
        let x: Vec<f64> = self.sums.row(row).iter().map(|x| f64::from(*x)).collect();
        let count = x.len() as f64;
        let mean = x.iter().sum::<f64>() / count;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let scale = 1.0 / (variance + f64::from(self.epsilon)).sqrt();
        let size = x.iter().map(|x| x.abs()).sum::<f64>() / count;
        // Two sums side by side at least, of n / 2 steps each, in which a sum is half as large on average.
        let steps = count / 4.0 + 4.0;
        let mean_error = steps * F32_DIGIT * size;
        let each = x.iter().zip(&self.weight).zip(&self.bias).map(|((x, weight), bias)| {
            let (weight, bias) = (f64::from(*weight), f64::from(*bias));
            let unit = (x - mean) * scale;
            let unit_error = (mean_error + 4.0 * F32_DIGIT * (x.abs() + size)) * scale
                + unit.abs() * (2.0 * steps * F32_DIGIT + mean_error.powi(2) * scale * scale);
            let y = weight * unit + bias;
            (y, weight.abs() * unit_error + 3.0 * F32_DIGIT * (y.abs() + bias.abs()))
        });
        each.collect()
    }

    fn check_row(&self, kernel: &Kernel, outcome: &Outcome, row: usize) {
        let (width, name) = (self.sums.width(), kernel.name);
        let states = outcome.states.row(row);
        let operand = read_row(kernel, &outcome.operand, row, outcome.operand.width());
        let unit = if outcome.operand.is_staged() { f64::from(scale(&outcome.operand, row)[0]) } else { 0.0 };
        for (column, (expected, error)) in self.expected(row).into_iter().enumerate() {
            let off = (f64::from(states[column]) - expected).abs();
            assert!(
                off <= error,
                "{name} [{row}, {column}]: {} for {expected}: {off:e} > {error:e}",
                states[column]
            );
            let (state, stored) = (f64::from(states[column]), f64::from(operand[column]));
            let most = rounding(kernel.stage, state) + 1.01 * unit;
            assert!((state - stored).abs() <= most, "{name} [{row}, {column}]: {stored} stored for {state}");
        }
        assert!(operand[width..].iter().all(|x| *x == 0.0), "{name}: padding of row {row}");
        // SAFETY: rows have padding up to there.
        let padding = unsafe { std::slice::from_raw_parts(outcome.states.at(row), outcome.states.padded()) };
        assert!(padding[width..].iter().all(|x| *x == 0.0), "{name}: padding of row {row}");
    }
}

fn check(kernel: &'static Kernel, setting: &Setting, range: Range<usize>) {
    let outcome = setting.run(kernel, range.clone(), &Team::alone());
    let untouched = setting.run(kernel, 0..0, &Team::alone());
    for row in 0..setting.sums.rows() + 32 {
        if range.contains(&row) {
            setting.check_row(kernel, &outcome, row);
            continue;
        }
        assert_eq!(bytes(&outcome.operand, row), bytes(&untouched.operand, row), "{} row {row}", kernel.name);
        if row < setting.sums.rows() {
            assert_eq!(bits(outcome.states.row(row)), bits(setting.sums.row(row)), "{}", kernel.name);
        }
    }
    with_team(2, |team| {
        let shared = setting.run(kernel, range.clone(), team);
        for row in range.clone() {
            assert_eq!(bits(shared.states.row(row)), bits(outcome.states.row(row)), "{}", kernel.name);
            assert_eq!(bytes(&shared.operand, row), bytes(&outcome.operand, row), "{}", kernel.name);
        }
    });
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn only_the_given_rows_are_normalised(
        count in 1_usize..=70,
        before in 0_usize..9,
        after in 0_usize..9,
        width in prop::sample::select(vec![1, 2, 26, 31, 32, 33, 48, 64, 100, 312, 384, 1000]),
        seed in any::<u32>(),
    ) {
        let setting = Setting::new(before + count + after, width, seed.into());
        for kernel in kernels() {
            check(kernel, &setting, before..before + count);
        }
    }
}

/// Normalises one row of these numbers.
fn one_row(row: &[f32], epsilon: f32) -> Setting {
    let mut setting = Setting::new(3, row.len(), 4);
    setting.sums.row_mut(1).copy_from_slice(row);
    setting.epsilon = epsilon;
    setting
}

#[test]
fn rows_of_zeros_become_the_shift() {
    for width in [26, 312, 384] {
        let setting = one_row(&vec![0.0; width], 1e-12);
        for kernel in kernels() {
            let outcome = setting.run(kernel, 1..2, &Team::alone());
            assert_eq!(outcome.states.row(1), setting.bias, "{}", kernel.name);
        }
    }
}

/// The result of such a row is only the rounding error of its mean.
#[test]
fn constant_rows_and_rows_far_from_0_match_the_formula() {
    for (width, level) in [(26, 1.0), (312, -3.3), (384, 1000.0), (312, 1000.0), (1000, 0.1)] {
        for epsilon in [1e-12, 1e-5] {
            let mut noise = Numbers::new(8);
            let uneven: Vec<f32> = (0..width).map(|_| level + noise.next()).collect();
            check(kernels().next().expect("some"), &one_row(&uneven, epsilon), 1..2);
            for kernel in kernels() {
                check(kernel, &one_row(&vec![level; width], epsilon), 1..2);
                check(kernel, &one_row(&uneven, epsilon), 1..2);
            }
        }
    }
}

#[test]
fn a_huge_outlier_matches_the_formula() {
    for (width, at) in [(312, 311), (384, 0), (40, 33)] {
        let mut numbers = Numbers::new(2);
        let mut row = numbers.take(width);
        row[at] = 3e4;
        kernels().for_each(|kernel| check(kernel, &one_row(&row, 1e-12), 1..2));
    }
}

/// The content of the padding of a row, such as NaN of an earlier row, has no effect.
#[test]
fn the_padding_of_a_row_has_no_effect() {
    for (width, kernel) in [26, 33, 312].into_iter().flat_map(|width| kernels().map(move |k| (width, k))) {
        let setting = Setting::new(3, width, 7);
        for row in 0..3 {
            for column in width..setting.sums.padded() {
                // SAFETY: rows have padding up to there, and the matrix is ours alone.
                unsafe { setting.sums.at(row).add(column).write(f32::NAN) };
            }
        }
        check(kernel, &setting, 0..3);
    }
}
