//! Tests of the vectors of each instruction set against libm in f64.

use super::super::{
    scalar::Scalar,
    simd::{Accuracy, Simd},
};
use super::{Numbers, reference, runs_here};

/// Calls a check with each instruction set that this CPU supports.
macro_rules! each_simd {
    ($check:ident) => {
        $check::<Scalar>("scalar");
        #[cfg(target_arch = "x86_64")]
        {
            use super::super::{avx2::Avx2, avx512::Avx512};
            if runs_here("avx2") {
                $check::<Avx2>("avx2");
            }
            if runs_here("avx512") {
                $check::<Avx512>("avx512");
            }
        }
        #[cfg(target_arch = "aarch64")]
        $check::<super::super::neon::Neon>("neon");
    };
}

/// 2^-100
const LEAST: f32 = f32::from_bits(27 << 23);

/// Applies a function to numbers, one vector at a time. Their count must be a multiple of 16.
fn map<S: Simd>(from: &[f32], function: impl Fn(S::Vector) -> S::Vector) -> Vec<f32> {
    assert_eq!(from.len() % 16, 0);
    let mut to = vec![0.0; from.len()];
    for i in (0..from.len()).step_by(S::LANES) {
        // SAFETY: a vector of numbers on both sides, on a CPU that has the instruction set.
        unsafe { S::store(to.as_mut_ptr().add(i), function(S::load(from.as_ptr().add(i)))) };
    }
    to
}

/// `count` numbers from `low` to `high`, and numbers next to integers.
fn sweep(low: f32, high: f32, count: usize) -> Vec<f32> {
    let step = (f64::from(high) - f64::from(low)) / (count - 1) as f64;
    let mut all: Vec<f32> = (0..count).map(|i| (f64::from(low) + step * i as f64) as f32).collect();
    for near in low.ceil() as i32..=high.floor() as i32 {
        all.extend([near as f32 - 0.5, near as f32, near as f32 + 0.5]);
    }
    all.retain(|x| (low..=high).contains(x));
    all.resize(all.len().next_multiple_of(16), high);
    all
}

fn check_exp2<S: Simd>(name: &str) {
    let inputs = sweep(-100.0, 0.0, 200_000);
    for (accuracy, most) in [(Accuracy::Full, 3e-7), (Accuracy::Half, 8e-5)] {
        // SAFETY: `each_simd` asked the CPU.
        let results = map::<S>(&inputs, |x| unsafe { S::exp2(x, accuracy) });
        let off = |x: f32, result: f32| (f64::from(result) / libm::exp2(f64::from(x)) - 1.0).abs();
        let worst = inputs.iter().zip(results).map(|(x, result)| off(*x, result)).fold(0.0, f64::max);
        assert!(worst <= most, "{name}: off by {worst:e}, not {most:e}");
        let far = [-100.5, -127.0, -150.0, -1e4, -1e30, f32::MIN, f32::NEG_INFINITY, -1e9];
        // SAFETY: as above.
        let results = map::<S>(&[far, far].concat(), |x| unsafe { S::exp2(x, accuracy) });
        assert!(results.iter().all(|x| (0.0..=1.001 * LEAST).contains(x)), "{name}: {results:?}");
    }
}

#[test]
fn exp2_is_as_accurate_as_documented() {
    each_simd!(check_exp2);
}

fn check_gelu<S: Simd>(name: &str) {
    let mut inputs = sweep(-12.0, 12.0, 200_000);
    inputs.extend([
        0.0, -0.0, 1e-30, -1e-30, 1e-6, -1e-6, 50.0, -50.0, 1e4, -1e4, 1e30, -1e30, 0.1, 4.5, -4.5, 9.0,
    ]);
    for (accuracy, most) in [(Accuracy::Full, 1e-6), (Accuracy::Half, 8e-5)] {
        // SAFETY: as of `check_exp2`.
        let results = map::<S>(&inputs, |x| unsafe { S::gelu(x, accuracy) });
        let off = |x: f32, result: f32| {
            (f64::from(result) - reference::gelu(f64::from(x))).abs() / f64::from(x.abs().max(1.0))
        };
        let worst = inputs.iter().zip(results).map(|(x, result)| off(*x, result)).fold(0.0, f64::max);
        assert!(worst <= most, "{name}: off by {worst:e}, not {most:e}");
    }
}

#[test]
fn gelu_is_as_accurate_as_documented() {
    each_simd!(check_gelu);
}

fn check_basics<S: Simd>(name: &str) {
    let mut numbers = Numbers::new(3);
    let [a, b, c] = [(); 3].map(|()| numbers.take(S::LANES).iter().map(|x| 4.0 * x).collect::<Vec<f32>>());
    let two = |f: unsafe fn(S::Vector, S::Vector) -> S::Vector| {
        let mut out = vec![0.0; S::LANES];
        // SAFETY: vectors of numbers, on a CPU that has the instruction set.
        unsafe { S::store(out.as_mut_ptr(), f(S::load(a.as_ptr()), S::load(b.as_ptr()))) };
        out
    };
    let zip = |f: fn(f32, f32) -> f32| a.iter().zip(&b).map(|(a, b)| f(*a, *b)).collect::<Vec<f32>>();
    assert_eq!(two(|a, b| unsafe { S::add(a, b) }), zip(|a, b| a + b), "{name}");
    assert_eq!(two(|a, b| unsafe { S::sub(a, b) }), zip(|a, b| a - b), "{name}");
    assert_eq!(two(|a, b| unsafe { S::mul(a, b) }), zip(|a, b| a * b), "{name}");
    assert_eq!(two(|a, b| unsafe { S::div(a, b) }), zip(|a, b| a / b), "{name}");
    assert_eq!(two(|a, b| unsafe { S::min(a, b) }), zip(f32::min), "{name}");
    assert_eq!(two(|a, b| unsafe { S::max(a, b) }), zip(f32::max), "{name}");
    assert_eq!(two(|a, _| unsafe { S::round(a) }), zip(|a, _| a.round_ties_even()), "{name}");
    let powers = two(|a, b| unsafe { S::scale(a, S::round(b)) });
    assert_eq!(powers, zip(|a, b| a * 2_f32.powf(b.round_ties_even())), "{name}");
    // SAFETY: as above.
    let (sum, highest, mut fused) =
        unsafe { (S::sum(S::load(a.as_ptr())), S::highest(S::load(a.as_ptr())), vec![0.0; S::LANES]) };
    assert!((sum - a.iter().sum::<f32>()).abs() <= 1e-5, "{name}");
    assert_eq!(highest, a.iter().copied().fold(f32::MIN, f32::max), "{name}");
    // SAFETY: as above.
    unsafe {
        let x = S::mul_add(S::load(a.as_ptr()), S::load(b.as_ptr()), S::load(c.as_ptr()));
        S::store(fused.as_mut_ptr(), x);
    }
    for (i, x) in fused.into_iter().enumerate() {
        assert!((x - (a[i] * b[i] + c[i])).abs() <= 4e-6, "{name}");
    }
}

#[test]
fn vectors_compute_as_numbers_do() {
    each_simd!(check_basics);
}

fn check_transpose<S: Simd>(name: &str) {
    // Strides that are no multiple of a row, and margins that must stay as they are.
    const FROM: usize = 80;
    const TO: usize = 100;
    let from: Vec<u8> = (0..16 * FROM).map(|i| (i * 7 + i / 256) as u8).collect();
    let mut to = vec![0xaa_u8; 16 * TO];
    // SAFETY: 16 rows of 64 bytes on both sides, on a CPU that has the instruction set.
    unsafe { S::transpose(from.as_ptr(), FROM, to.as_mut_ptr(), TO) };
    for row in 0..16 {
        for column in 0..16 {
            let (here, there) = (row * FROM + 4 * column, column * TO + 4 * row);
            assert_eq!(from[here..here + 4], to[there..there + 4], "{name} [{row}, {column}]");
        }
        assert!(to[row * TO + 64..(row + 1) * TO].iter().all(|byte| *byte == 0xaa), "{name} row {row}");
    }
}

#[test]
fn every_transpose_writes_only_the_transposed_words() {
    each_simd!(check_transpose);
}
