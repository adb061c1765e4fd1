//! Tests of whole layers: errors do not accumulate, and no data of one pass reaches another.

use super::{
    super::{
        AttentionHeads, Kernel, KernelExecutor, LayerNorm, Linear, LinearSource, Operand, Precision,
        ProductOutput, RowBlock, Scratch, StateMatrix, Team,
    },
    Numbers, bits, kernels, no_attention, plain, poison, with_team,
};

/// A layer as in bert.rs, and the widths of its model.
struct Layer {
    kernel: &'static Kernel,
    dim: usize,
    heads: AttentionHeads,
    query_key_value: Linear,
    attention_out: Linear,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

struct TestBuffers {
    states: StateMatrix,
    operand: Operand,
    query_key_value: Operand,
    context: Operand,
    inner: Operand,
    scratch: Vec<Scratch>,
}

impl Layer {
    /// Three heads of `head_dim`.
    fn new(kernel: &'static Kernel, head_dim: usize) -> Layer {
        let (dim, heads) = (3 * head_dim, AttentionHeads::new(3, head_dim));
        let (inner, attention) = (2 * dim + 8, heads.count * heads.width);
        let is_real = |column: usize| column % heads.width < head_dim;
        let any = |_: usize| true;
        Layer {
            kernel,
            dim,
            heads,
            query_key_value: linear(kernel, (3 * attention, dim), 1, (&is_real, &any)),
            attention_out: linear(kernel, (dim, attention), 2, (&any, &is_real)),
            up: linear(kernel, (inner, dim), 3, (&any, &any)),
            down: linear(kernel, (dim, inner), 4, (&any, &any)),
            norm: LayerNorm::new(
                Numbers::new(5).take(dim).iter().map(|x| 1.0 + x / 4.0).collect(),
                Numbers::new(6).take(dim),
                1e-12,
            ),
        }
    }

    fn space(&self, tokens: usize, members: usize) -> TestBuffers {
        let (kernel, attention) = (self.kernel, self.heads.count * self.heads.width);
        TestBuffers {
            states: StateMatrix::new(tokens, self.dim),
            operand: kernel.operand(tokens, self.dim),
            query_key_value: kernel.attention_operand(tokens, 3 * attention),
            context: kernel.operand(tokens, attention),
            inner: kernel.operand(tokens, 2 * self.dim + 8),
            scratch: (0..members).map(|_| kernel.scratch(tokens, self.heads)).collect(),
        }
    }

    /// Two layers with the same weights, after embeddings that `embed` gives.
    fn forward(
        &self,
        space: &mut TestBuffers,
        offsets: &[usize],
        team: &Team,
        embed: &mut dyn FnMut() -> f32,
    ) -> Vec<f32> {
        let TestBuffers { states, operand, query_key_value, context, inner, scratch } = space;
        let tokens = offsets[offsets.len() - 1];
        let executor: KernelExecutor<'_> = self.kernel.executor(team, scratch);
        (0..tokens).for_each(|row| states.row_mut(row).iter_mut().for_each(|x| *x = embed()));
        let all = 0..tokens;
        executor.normalise(
            &self.norm,
            &mut RowBlock::new(states, all.clone()),
            &mut RowBlock::new(operand, all.clone()),
        );
        for bounds in [vec![0, tokens / 3, tokens], executor.bounds(tokens)] {
            let mut to = RowBlock::new(query_key_value, all.clone());
            executor.project(
                &RowBlock::new(operand, all.clone()),
                &self.query_key_value,
                ProductOutput::Store(&mut to),
            );
            executor.attend(query_key_value, offsets, self.heads, context);
            let blocks = RowBlock::between(context, &bounds)
                .zip(RowBlock::between(states, &bounds))
                .zip(RowBlock::between(operand, &bounds).zip(RowBlock::between(inner, &bounds)));
            executor.each(&bounds, blocks, |executor, ((context, mut states), (mut operand, mut inner))| {
                executor.project(&context, &self.attention_out, ProductOutput::Add(&mut states));
                executor.normalise(&self.norm, &mut states, &mut operand);
                executor.project(&operand, &self.up, ProductOutput::Gelu(&mut inner));
                executor.project(&inner, &self.down, ProductOutput::Add(&mut states));
                executor.normalise(&self.norm, &mut states, &mut operand);
            });
        }
        (0..tokens).flat_map(|row| states.row(row).to_vec()).collect()
    }

    fn fresh(&self, offsets: &[usize], team: &Team) -> Vec<f32> {
        let mut numbers = Numbers::new(11);
        let mut space = self.space(offsets[offsets.len() - 1], team.size());
        self.forward(&mut space, offsets, team, &mut || numbers.next())
    }
}

/// Weights of `(outputs, inputs)` that are 0 where an output or an input is padding.
fn linear(
    kernel: &Kernel,
    (outputs, inputs): (usize, usize),
    seed: u64,
    (has_output, has_input): (&dyn Fn(usize) -> bool, &dyn Fn(usize) -> bool),
) -> Linear {
    let mut numbers = Numbers::new(seed);
    let size = (6.0 / inputs as f32).sqrt();
    let (weight, bias) = (numbers.take(outputs * inputs), numbers.take(outputs));
    kernel.pack(&LinearSource {
        outputs,
        inputs,
        weight: &|output, input| {
            let exists = has_output(output) && has_input(input);
            if exists { size * weight[output * inputs + input] } else { 0.0 }
        },
        bias: &|output| if has_output(output) { 0.3 * bias[output] } else { 0.0 },
    })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

const OFFSETS: [usize; 4] = [0, 7, 40, 45];

/// Two vectors whose numbers differ by a share `e` have a cosine of `1 - e^2 / 2`. About ten steps follow each
/// other, each of which errs by a digit of its type, by 3e-3 where sums of a hundred are in f16, by a step of 1/255 of
/// a range that is four deviations wide where they are integers, and the largest of many rows counts.
fn max_deviation(kernel: &Kernel) -> f64 {
    match kernel.precision {
        Precision::F32 => 1e-10,
        Precision::F16 => 1e-4,
        Precision::Bf16 => 5e-4,
        Precision::Int8 => 3e-3,
    }
}

#[test]
fn two_layers_are_near_those_of_the_scalar_kernels() {
    let fresh = |kernel, head_dim| Layer::new(kernel, head_dim).fresh(&OFFSETS, &Team::alone());
    for head_dim in [26, 32] {
        let exact = fresh(plain(Precision::F32), head_dim);
        for precision in [Precision::F32, Precision::F16, Precision::Bf16, Precision::Int8] {
            let same = fresh(plain(precision), head_dim);
            for kernel in kernels().filter(|kernel| kernel.precision == precision) {
                let ours = fresh(kernel, head_dim);
                for (other, name) in [(&same, "of its precision"), (&exact, "in f32")] {
                    let rows = ours.chunks_exact(3 * head_dim).zip(other.chunks_exact(3 * head_dim));
                    let off = 1.0 - rows.map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
                    assert!(
                        off <= max_deviation(kernel),
                        "{}: {off:e} from the plain one {name}",
                        kernel.name
                    );
                }
            }
        }
    }
}

#[test]
fn two_layers_in_a_team_are_bitwise_equal() {
    for kernel in kernels() {
        let layer = Layer::new(kernel, 26);
        let alone = bits(&layer.fresh(&OFFSETS, &Team::alone()));
        with_team(3, |team| {
            for _ in 0..3 {
                assert_eq!(bits(&layer.fresh(&OFFSETS, team)), alone, "{}", kernel.name);
            }
        });
    }
}

/// A longer pass whose states are NaN, then a shorter one, with and without padded widths.
#[test]
fn no_data_of_an_earlier_pass_reaches_a_result() {
    for head_dim in [5, 26] {
        for kernel in kernels() {
            let layer = Layer::new(kernel, head_dim);
            let mut space = layer.space(60, 1);
            poison(kernel, &mut space.query_key_value);
            let nothing = layer.forward(&mut space, &[0, 3, 60], &Team::alone(), &mut || f32::NAN);
            assert!(nothing.iter().all(|x| x.is_nan()), "{}", kernel.name);
            for ends in [&OFFSETS[..], &[0, 1], &[0, 33, 35]] {
                let mut numbers = Numbers::new(11);
                let used = layer.forward(&mut space, ends, &Team::alone(), &mut || numbers.next());
                let fresh = layer.fresh(ends, &Team::alone());
                assert_eq!(bits(&used), bits(&fresh), "{} with heads of {head_dim}", kernel.name);
            }
        }
    }
}

#[test]
fn rows_are_divided_among_present_members() {
    let kernel = plain(Precision::F32);
    std::thread::scope(|scope| {
        let (team, invitation) = Team::with_helpers(1);
        let scratch = no_attention(kernel, &team);
        let executor = kernel.executor(&team, &scratch);
        let mut bounds = executor.bounds(127);
        assert_eq!(bounds, [0, 127]);
        executor.balance(&mut bounds);
        assert_eq!(bounds, [0, 127]);
        scope.spawn(move || invitation.help());
        while team.present() < 2 {
            std::thread::yield_now();
        }
        executor.balance(&mut bounds);
        assert_eq!(bounds, [0, 64, 127]);
        assert_eq!(executor.bounds(40), [0, 40], "too few to read all weights twice for");
        drop(team);
    });
}
