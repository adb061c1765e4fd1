//! Tests of every kernel that this machine supports, against formulas in f64 and against the scalar kernel of the same
//! precision.
//!
//! Formulas start from the stored operands and not from the original numbers, so a tolerance covers only the arithmetic of
//! one step. `reference` derives the tolerances.

mod attention;
mod elements;
mod layer;
mod normalisation;
mod products;
mod reference;
mod vectors;

use std::io::Write;

use proptest::prelude::ProptestConfig;

use super::{
    Kernel, Operand, Precision, Scratch, StateMatrix, Team, arithmetic::Element, matrix::padded, table::all,
};

/// Kernels that this machine supports.
fn kernels() -> impl Iterator<Item = &'static Kernel> {
    all().iter().filter(|kernel| kernel.is_supported())
}

fn runs_here(name: &str) -> bool {
    kernels().any(|kernel| kernel.name == name)
}

/// Scalar kernel of a precision.
fn plain(precision: Precision) -> &'static Kernel {
    let mut plain = all().iter().filter(|kernel| kernel.name.starts_with("scalar"));
    plain.find(|kernel| kernel.precision == precision).expect("one for each precision")
}

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(count) }
}

/// Runs `body` with a team of the calling thread and `helpers` helpers.
fn with_team(helpers: usize, body: impl FnOnce(&Team)) {
    std::thread::scope(|scope| {
        let (team, invitation) = Team::with_helpers(helpers);
        for _ in 0..helpers {
            let invitation = invitation.clone();
            scope.spawn(move || invitation.help());
        }
        body(&team);
    });
}

/// Scratch memory for steps other than attention.
fn no_attention(kernel: &Kernel, team: &Team) -> Vec<Scratch> {
    let heads = super::AttentionHeads::new(1, 32);
    (0..team.size()).map(|_| kernel.scratch(0, heads)).collect()
}

/// Pseudorandom numbers (xorshift64) from a seed.
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number, in [-1, 1).
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// Rows filled with pseudorandom numbers times `size`.
fn rows(count: usize, width: usize, seed: u64, size: f32) -> StateMatrix {
    let (mut rows, mut numbers) = (StateMatrix::new(count, width), Numbers::new(seed));
    for row in 0..count {
        rows.row_mut(row).iter_mut().for_each(|x| *x = size * numbers.next());
    }
    rows
}

/// Writes values to the start of a row and seals it.
fn write_row(kernel: &'static Kernel, operand: &mut Operand, row: usize, values: &[f32]) {
    assert!(values.len() <= operand.width() && row < operand.rows() + 32);
    for (i, x) in values.iter().enumerate() {
        let mut word = [0; 4];
        kernel.stage.encode(&[*x], 1.0, &mut word);
        let bytes = kernel.stage.bytes();
        // SAFETY: within the row, and the operand is borrowed exclusively.
        unsafe { operand.stage_at(row).add(i * bytes).copy_from_nonoverlapping(word.as_ptr(), bytes) };
    }
    // SAFETY: the kernel runs here and the row is within the operand.
    unsafe { (kernel.ops.seal)(operand, row..row + 1) };
}

/// Numbers that a row represents.
fn read_row(kernel: &Kernel, operand: &Operand, row: usize, width: usize) -> Vec<f32> {
    assert!(width <= operand.width() && row < operand.rows());
    if operand.is_staged() {
        let [unit, zero] = scale(operand, row);
        // SAFETY: within the row, and no other thread writes.
        return (0..width).map(|i| (f32::from(unsafe { *operand.at(row).add(i) }) - zero) * unit).collect();
    }
    (0..width).map(|i| decode(kernel.stage, operand.at(row), i)).collect()
}

/// Scale and zero point of a sealed row.
fn scale(operand: &Operand, row: usize) -> [f32; 2] {
    // SAFETY: one pair for each row, and no other thread writes.
    unsafe { *operand.scale_at(row) }
}

fn decode(element: Element, start: *const u8, i: usize) -> f32 {
    // SAFETY: the caller's row is longer, and of this element.
    unsafe {
        match element {
            Element::F32 => start.cast::<f32>().add(i).read(),
            Element::F16 => start.cast::<half::f16>().add(i).read().to_f32(),
            Element::Bf16 => start.cast::<half::bf16>().add(i).read().to_f32(),
            Element::Int8 => unreachable!("integers are read with their scale"),
        }
    }
}

/// All bytes of a row: elements, staged values, scale and zero point.
fn bytes(operand: &Operand, row: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let stage_stride = operand.stage_at(1) as usize - operand.stage_at(0) as usize;
    for (start, len) in [
        (operand.at(row), operand.stride()),
        (operand.stage_at(row), stage_stride),
        (operand.scale_at(row).cast(), 8),
    ] {
        // SAFETY: within the row, and no other thread writes.
        all.extend_from_slice(unsafe { std::slice::from_raw_parts(start, len) });
    }
    all
}

/// Fills all rows with NaN, including the slack rows that only tiles read.
fn poison(kernel: &'static Kernel, operand: &mut Operand) {
    for row in 0..operand.rows() + 32 {
        write_row(kernel, operand, row, &vec![f32::NAN; operand.width()]);
        // SAFETY: one pair for each row, and the operand is borrowed exclusively.
        unsafe { *operand.scale_at(row) = [f32::NAN; 2] };
    }
}

/// Bits of numbers, since NaN is not equal to itself.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn unsupported_kernels_are_reported() {
    let lacking: Vec<&str> = all().iter().filter(|kernel| !kernel.is_supported()).map(|k| k.name).collect();
    let running: Vec<&str> = kernels().map(|kernel| kernel.name).collect();
    assert!(running.len() + lacking.len() == all().len() && running.contains(&"scalar"));
    // Not with `eprintln`, whose output is captured for a successful test.
    writeln!(
        std::io::stderr(),
        "kernels tested: {running:?}; NOT tested, since this CPU lacks them: {lacking:?}"
    )
    .expect("standard error is open");
}

#[test]
fn kernel_names_are_unique_and_every_precision_has_a_scalar_kernel() {
    for (i, kernel) in all().iter().enumerate() {
        assert!(all()[..i].iter().all(|other| other.name != kernel.name), "{}", kernel.name);
        assert!(plain(kernel.precision).is_supported());
    }
    assert_eq!(padded(312), 320);
}
