//! Tests of attention over packed sequences.

use proptest::prelude::*;

use super::{
    super::{AttentionHeads, Kernel, Operand, Scratch, Team},
    Numbers, bytes, cases, kernels, poison, read_row,
    reference::{Dot, F16_DIGIT, F32_DIGIT, Sums, exp2_error, rounding},
    scale, with_team, write_row,
};

/// Heads of `head_dim` numbers, padded.
#[derive(Clone, Debug)]
struct Shape {
    head_dim: usize,
    heads: usize,
    /// Ends of sequences, from 0.
    offsets: Vec<usize>,
}

/// Queries, keys and values of one kernel.
struct Setting {
    kernel: &'static Kernel,
    shape: Shape,
    heads: AttentionHeads,
    qkv: Operand,
}

impl Setting {
    /// `value` returns the number for a part (0 queries, 1 keys, 2 values), head, token and column.
    fn new(
        kernel: &'static Kernel,
        shape: &Shape,
        value: &mut dyn FnMut(usize, usize, usize, usize) -> f32,
    ) -> Setting {
        let heads = AttentionHeads::new(shape.heads, shape.head_dim);
        let tokens = shape.offsets.last().copied().unwrap_or_default();
        let mut qkv = kernel.attention_operand(tokens, 3 * heads.count * heads.width);
        poison(kernel, &mut qkv);
        for token in 0..tokens {
            let number = |column| {
                let (part, head, i) = heads.find(column);
                if i < shape.head_dim { value(part, head, token, i) } else { 0.0 }
            };
            let row: Vec<f32> = (0..3 * heads.count * heads.width).map(number).collect();
            write_row(kernel, &mut qkv, token, &row);
        }
        Setting { kernel, shape: shape.clone(), heads, qkv }
    }

    fn random(kernel: &'static Kernel, shape: &Shape, seed: u64) -> Setting {
        let mut numbers = Numbers::new(seed);
        // Scores with a deviation of 2 or so: some keys count for much, most for something.
        let size = (6.0 / (shape.head_dim as f32).sqrt()).sqrt();
        Setting::new(kernel, shape, &mut |part, _, _, _| numbers.next() * if part < 2 { size } else { 1.5 })
    }

    fn longest(&self) -> usize {
        self.shape.offsets.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or_default()
    }

    /// A context with two rows more than there are tokens.
    fn context(&self) -> Operand {
        let tokens = self.shape.offsets.last().copied().unwrap_or_default();
        let mut context = self.kernel.operand(tokens + 2, self.heads.count * self.heads.width);
        (0..tokens + 2).for_each(|row| write_row(self.kernel, &mut context, row, &[77.0; 20]));
        context
    }

    fn run(&self, team: &Team, scratch: &[Scratch]) -> Operand {
        let mut context = self.context();
        self.kernel.executor(team, scratch).attend(&self.qkv, &self.shape.offsets, self.heads, &mut context);
        context
    }

    fn scratch(&self, team: &Team) -> Vec<Scratch> {
        (0..team.size()).map(|_| self.kernel.scratch(self.longest(), self.heads)).collect()
    }

    /// Scratch memory that attention over NaN has filled.
    fn poisoned_scratch(&self) -> [Scratch; 1] {
        let longest = self.longest().next_multiple_of(32);
        let scratch = [self.kernel.scratch(longest, self.heads)];
        let shape = Shape { offsets: vec![0, longest], heads: 1, ..self.shape };
        let nothing = Setting::new(self.kernel, &shape, &mut |_, _, _, _| f32::NAN);
        nothing.run(&Team::alone(), &scratch);
        scratch
    }

    /// Numbers of one part of one head, token by token.
    fn part(&self, part: usize, head: usize) -> Vec<Vec<f64>> {
        let first = (part * self.heads.count + head) * self.heads.width;
        let row = |token| {
            let row = read_row(self.kernel, &self.qkv, token, self.qkv.width());
            row[first..first + self.heads.width].iter().map(|x| f64::from(*x)).collect()
        };
        (0..self.shape.offsets.last().copied().unwrap_or_default()).map(row).collect()
    }
}

/// Expected context of one query, and the tolerance.
///
/// `out = sum p v` with `p = 2^s / sum 2^s`. A score that errs by `e` changes its share by `ln 2 * e` of it, and a
/// share is rounded to an element; the errors of different keys are independent, so six deviations of their sum are
/// allowed. The error of `exp2` may be the same for all keys.
fn expected(kernel: &Kernel, query: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<(f64, f64)> {
    let sums = Sums::of_attention(kernel);
    let zip = |a: &[f64], b: &[f64]| Dot::new(a.iter().copied().zip(b.iter().copied()));
    let scores: Vec<Dot> = keys.iter().map(|key| zip(query, key)).collect();
    let highest = scores.iter().map(|score| score.value).fold(f64::MIN, f64::max);
    let shares: Vec<f64> = scores.iter().map(|score| libm::exp2(score.value - highest)).collect();
    let total: f64 = shares.iter().sum();
    let each = (0..values[0].len()).map(|i| {
        let dot = Dot::new(shares.iter().zip(values).map(|(share, value)| (*share, value[i])));
        let out = dot.value / total;
        let variance = scores.iter().zip(&shares).zip(values).map(|((score, share), value)| {
            let digits = rounding(kernel.stage, *share);
            let error = std::f64::consts::LN_2 * score.deviation(sums) * share + digits;
            (error * (value[i].abs() + out.abs())).powi(2)
        });
        let shares_error = 6.0 * variance.sum::<f64>().sqrt() + 2.0 * exp2_error(kernel) * dot.size;
        let error = (shares_error + dot.tolerance(sums)) / total + 4.0 * F32_DIGIT * out.abs();
        (out, error + rounding(kernel.stage, out))
    });
    each.collect()
}

fn check_formula(setting: &Setting, context: &Operand) {
    let (kernel, heads) = (setting.kernel, setting.heads);
    for head in 0..heads.count {
        let [queries, keys, values] = [0, 1, 2].map(|part| setting.part(part, head));
        for ends in setting.shape.offsets.windows(2) {
            let (keys, values) = (&keys[ends[0]..ends[1]], &values[ends[0]..ends[1]]);
            // All of short sequences, some of long ones, the last of each.
            let step = 1 + keys.len() / 25;
            for token in (ends[0]..ends[1]).rev().step_by(step) {
                let row = read_row(kernel, context, token, heads.count * heads.width);
                // Integers round at most by the unit at the ends of the row's range.
                let unit = if context.is_staged() { 1.01 * f64::from(scale(context, token)[0]) } else { 0.0 };
                let results = &row[head * heads.width..(head + 1) * heads.width];
                for (i, (out, error)) in
                    expected(kernel, &queries[token], keys, values).into_iter().enumerate()
                {
                    let off = (f64::from(results[i]) - out).abs();
                    let most = error + unit;
                    assert!(
                        off <= most,
                        "{} head {head} token {token} of {ends:?} [{i}]: {} for {out}: {off:e} > {most:e}",
                        kernel.name,
                        results[i],
                    );
                }
            }
        }
    }
}

fn check(kernel: &'static Kernel, shape: &Shape, seed: u64) {
    let setting = Setting::random(kernel, shape, seed);
    let alone = setting.run(&Team::alone(), &setting.scratch(&Team::alone()));
    check_formula(&setting, &alone);
    let tokens = shape.offsets.last().copied().unwrap_or_default();
    let (rest, all) = (setting.context(), 0..tokens + 34);
    let check_same = |other: &Operand, how: &str| {
        for row in all.clone() {
            let expected = if row < tokens { &alone } else { &rest };
            assert_eq!(bytes(other, row), bytes(expected, row), "{} {how}, row {row}", kernel.name);
        }
    };
    check_same(&alone, "alone");
    check_same(&setting.run(&Team::alone(), &setting.poisoned_scratch()), "after NaN");
    with_team(2, |team| check_same(&setting.run(team, &setting.scratch(team)), "in a team"));
}

fn shapes() -> impl Strategy<Value = Shape> {
    let lengths = prop::collection::vec(prop_oneof![1_usize..=40, 1_usize..=200, Just(32), Just(33)], 1..=3);
    let head_dims = prop::sample::select(vec![16, 26, 32, 64, 80]);
    (head_dims, 1_usize..=2, lengths).prop_map(|(head_dim, heads, lengths)| {
        let mut offsets = vec![0];
        lengths.iter().for_each(|length| offsets.push(offsets[offsets.len() - 1] + length));
        Shape { head_dim, heads, offsets }
    })
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn attention_matches_the_formula_alone_and_in_a_team(shape in shapes(), seed in any::<u32>()) {
        kernels().for_each(|kernel| check(kernel, &shape, seed.into()));
    }
}

#[test]
fn every_short_length_matches_the_formula() {
    let mut offsets = vec![0];
    (1..=34).for_each(|length| offsets.push(offsets[offsets.len() - 1] + length));
    let shape = Shape { head_dim: 26, heads: 1, offsets };
    kernels().for_each(|kernel| check(kernel, &shape, 6));
}

#[test]
fn an_empty_sequence_is_skipped() {
    let shape = Shape { head_dim: 32, heads: 2, offsets: vec![0, 5, 5, 9, 9] };
    kernels().for_each(|kernel| check(kernel, &shape, 3));
}

/// A sequence of `length` with one number a head, by which scores and values are set.
fn simple(
    kernel: &'static Kernel,
    length: usize,
    query: f32,
    key: &dyn Fn(usize) -> f32,
    value: &dyn Fn(usize) -> f32,
) -> Vec<f32> {
    let shape = Shape { head_dim: 16, heads: 1, offsets: vec![0, length] };
    let setting = Setting::new(kernel, &shape, &mut |part, _, token, i| match part {
        2 => value(token),
        _ if i > 0 => 0.0,
        0 => query,
        _ => key(token),
    });
    let context = setting.run(&Team::alone(), &setting.scratch(&Team::alone()));
    (0..length).map(|token| read_row(kernel, &context, token, 1)[0]).collect()
}

/// A digit of what attention stores, and a step of integers in a row with one value.
fn digits(kernel: &Kernel) -> f32 {
    let element = rounding(kernel.stage, 1.0) as f32;
    let integer = if kernel.stage == kernel.element { 0.0 } else { 0.5 / 255.0 };
    3.0 * element + integer + 2.0 * exp2_error(kernel) as f32
}

#[test]
fn equal_scores_give_the_mean() {
    for kernel in kernels() {
        for length in [1, 2, 31, 64, 150] {
            for score in [0.0, 1e4, -1e4] {
                let sign = |token: usize| if token.is_multiple_of(2) { 1.0 } else { 0.5 };
                let mean = (0..length).map(sign).sum::<f32>() / length as f32;
                for x in simple(kernel, length, 100.0, &|_| score / 100.0, &sign) {
                    // Numbers of one sign, a binary fraction each, whose sums in f16 are exact up to 2048.
                    assert!(
                        (x - mean).abs() <= digits(kernel),
                        "{} {length} {score}: {x}, {mean}",
                        kernel.name
                    );
                }
            }
        }
    }
}

#[test]
fn a_dominant_score_takes_all_weight() {
    for kernel in kernels() {
        for (high, low) in [(1e4, -1e4), (1e4, 0.0), (0.0, -1e4), (200.0, 0.0)] {
            let key = |token| if token == 37 { high / 100.0 } else { low / 100.0 };
            let value = |token| if token == 37 { 0.75 } else { token as f32 };
            for x in simple(kernel, 70, 100.0, &key, &value) {
                assert!((x - 0.75).abs() <= 0.75 * digits(kernel), "{} {high} {low}: {x}", kernel.name);
            }
        }
    }
}

/// If all products have one sign, the errors of a sum can have one sign too: on average, each of 100 steps in f16 errs by
/// half a digit of its partial sum, which is half of the sum.
#[test]
fn equal_values_are_preserved_within_rounding() {
    for kernel in kernels() {
        let digit = if Sums::of_attention(kernel) == Sums::F16 { F16_DIGIT } else { 2.0 * F32_DIGIT };
        let most = digits(kernel) + 25.0 * digit as f32;
        for value in [0.3, -0.7, 1.1] {
            for (token, x) in simple(kernel, 200, 1.0, &|_| 0.5, &|_| value).into_iter().enumerate() {
                assert!((x / value - 1.0).abs() <= most, "{} [{token}]: {x} for {value}", kernel.name);
            }
        }
    }
}

#[test]
#[should_panic(expected = "scratch")]
fn a_sequence_longer_than_the_scratch_panics() {
    let shape = Shape { head_dim: 32, heads: 1, offsets: vec![0, 40] };
    let setting = Setting::random(kernels().next().expect("some"), &shape, 1);
    setting.run(&Team::alone(), &[setting.kernel.scratch(32, setting.heads)]);
}

#[test]
#[should_panic(expected = "ascend")]
fn descending_offsets_panic() {
    let shape = Shape { head_dim: 32, heads: 1, offsets: vec![0, 40] };
    let mut setting = Setting::random(kernels().next().expect("some"), &shape, 1);
    setting.shape.offsets = vec![0, 400, 40];
    let scratch = [setting.kernel.scratch(400, setting.heads)];
    setting.run(&Team::alone(), &scratch);
}
