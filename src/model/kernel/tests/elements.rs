//! Tests of the encoding of weights and of the quantization of rows.

use proptest::prelude::*;

use super::{
    super::{RowBlock, arithmetic::Element},
    bits, cases, decode, kernels, plain, read_row, scale, write_row,
};

/// Encodes and decodes a weight.
fn round_trip(element: Element, x: f32) -> f32 {
    let mut word = [0; 4];
    element.encode(&[x], 1.0, &mut word);
    decode(element, word.as_ptr(), 0)
}

#[test]
fn floats_are_rounded_to_the_nearest_element() {
    for (element, digit, least) in [
        (Element::F32, 0.0, 0.0),
        (Element::F16, 2_f64.powi(-11), 2_f64.powi(-25)),
        (Element::Bf16, 2_f64.powi(-8), 0.0),
    ] {
        for x in [0.0, -0.0, 1.0, -1.0, 1.0 / 3.0, 6e-5, -6e-8, 1e-7, 60000.0, f32::MIN_POSITIVE] {
            let (result, exact) = (f64::from(round_trip(element, x)), f64::from(x));
            assert!((result - exact).abs() <= digit * exact.abs() + least, "{element:?} {x}: {result}");
            let again = round_trip(element, result as f32);
            assert_eq!(again.to_bits(), (result as f32).to_bits(), "{element:?} {x}");
        }
        assert!(round_trip(element, f32::NAN).is_nan());
    }
}

#[test]
fn a_lane_has_its_elements_in_order_and_the_sum_of_integers() {
    let check = |element: Element, weights: &[f32], scale: f32, lane: [u8; 4], sum: f32| {
        let mut word = [0; 4];
        assert_eq!(element.encode(weights, scale, &mut word), sum, "{element:?}");
        assert_eq!(word, lane, "{element:?}");
    };
    check(Element::F32, &[1.0], 1.0, 1_f32.to_ne_bytes(), 0.0);
    check(Element::Int8, &[1.0, -2.0, 127.0, 0.2], 1.0, [1, 254, 127, 0], 126.0);
    check(Element::Int8, &[0.5, -63.5, 0.25, -0.26], 0.5, [1, 129, 1, 255], -126.0);
    let two = |words: [u16; 2]| u32::from(words[0]) | u32::from(words[1]) << 16;
    check(Element::F16, &[1.0, -2.0], 1.0, two([0x3c00, 0xc000]).to_ne_bytes(), 0.0);
    check(Element::Bf16, &[1.0, -2.0], 1.0, two([0x3f80, 0xc000]).to_ne_bytes(), 0.0);
}

#[test]
fn the_largest_weight_of_a_column_is_127() {
    for size in [1.0, 1e4, 1e-30, f32::MIN_POSITIVE, 1e-44, f32::from_bits(1), 0.0] {
        let weights = [size, -size, size / 2.0, 0.0];
        let (scale, mut lane) = (Element::Int8.scale_of(&weights), [0; 4]);
        assert!(scale.is_normal() || size == 0.0, "{size:e}: {scale:e}");
        let sum = Element::Int8.encode(&weights, scale, &mut lane);
        let integers = lane.map(|byte| byte as i8);
        assert_eq!(sum, integers.iter().map(|x| f32::from(*x)).sum::<f32>(), "{size:e}: {integers:?}");
        for (integer, x) in integers.into_iter().zip(weights) {
            assert!((f32::from(integer) * scale - x).abs() <= 0.51 * scale, "{size:e}: {integers:?}");
        }
        if size >= 1e-30 {
            assert_eq!(integers[..2], [127, -127]);
        }
    }
}

/// Checks that a sealed row of every kernel represents the staged numbers within half a step of its range.
fn check_seal(values: &[f32]) {
    for kernel in kernels() {
        let mut operand = kernel.operand(3, values.len());
        write_row(kernel, &mut operand, 1, values);
        let result = read_row(kernel, &operand, 1, operand.width());
        let staged: Vec<f32> =
            (0..values.len()).map(|i| decode(kernel.stage, operand.stage_at(1), i)).collect();
        assert!(result[values.len()..].iter().all(|x| *x == 0.0), "{}: padding {result:?}", kernel.name);
        if !operand.is_staged() {
            assert_eq!(bits(&result[..values.len()]), bits(&staged), "{}", kernel.name);
            continue;
        }
        let [unit, zero] = scale(&operand, 1);
        let lowest = staged.iter().copied().fold(0.0, f32::min);
        let highest = staged.iter().copied().fold(0.0, f32::max);
        let exact = (highest - lowest) / 255.0;
        assert!((unit - exact).abs() <= 1e-6 * exact + 1e-35, "{}: unit {unit:e}, {exact:e}", kernel.name);
        assert!((0.0..=255.0).contains(&zero) && zero.fract() == 0.0, "{}: zero {zero}", kernel.name);
        for (x, result) in staged.iter().zip(&result) {
            // At both ends the zero point's own rounding adds up to another half.
            let ends = *x - lowest <= unit || highest - *x <= unit;
            let most = if ends { 1.001 } else { 0.501 } * unit;
            assert!((x - result).abs() <= most, "{}: {x} became {result} by {unit:e}", kernel.name);
        }
    }
}

#[test]
fn rows_of_every_kind_are_sealed() {
    let mut outlier = vec![0.01; 384];
    outlier[200] = 6e4;
    let mut depth = vec![-0.5; 100];
    depth[99] = -6e4;
    let ramp: Vec<f32> = (0..256).map(|i| i as f32).collect();
    for row in [
        vec![0.0; 312],
        vec![-0.0; 5],
        vec![3.7; 64],
        vec![-3.7; 65],
        vec![1e-7; 48],
        vec![0.0, 6e-8],
        outlier,
        depth,
        ramp,
    ] {
        check_seal(&row);
    }
}

#[test]
fn a_ramp_of_256_steps_keeps_every_step() {
    for kernel in kernels().filter(|kernel| kernel.element == Element::Int8) {
        let ramp: Vec<f32> = (0..256).map(|i| i as f32).collect();
        let mut operand = kernel.operand(1, 256);
        write_row(kernel, &mut operand, 0, &ramp);
        assert_eq!(scale(&operand, 0), [1.0, 0.0]);
        let staged: Vec<f32> = (0..256).map(|i| decode(kernel.stage, operand.stage_at(0), i)).collect();
        assert_eq!(read_row(kernel, &operand, 0, 256), staged, "{}", kernel.name);
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn any_row_is_quantized_within_half_a_step(row in prop::collection::vec(-50.0_f32..80.0, 1..400), size in -12..8) {
        let row: Vec<f32> = row.iter().map(|x| x * 2_f32.powi(size)).collect();
        check_seal(&row);
    }

    #[test]
    fn every_kernel_rounds_floats_like_the_scalar_one(
        row in prop::collection::vec(-3.0_f32..3.0, 1..200),
    ) {
        for kernel in kernels().filter(|kernel| kernel.element != Element::Int8) {
            let [ours, theirs] = [kernel, plain(kernel.precision)].map(|kernel| {
                let (mut states, mut operand) = (super::StateMatrix::new(1, row.len()), kernel.operand(1, row.len()));
                states.row_mut(0).copy_from_slice(&row);
                let norm = super::super::LayerNorm::new(vec![0.0; row.len()], row.clone(), 1e-5);
                let team = super::Team::alone();
                let scratch = super::no_attention(kernel, &team);
                kernel.executor(&team, &scratch).normalise(
                    &norm,
                    &mut RowBlock::new(&mut states, 0..1),
                    &mut RowBlock::new(&mut operand, 0..1),
                );
                bits(&read_row(kernel, &operand, 0, row.len()))
            });
            assert_eq!(ours, theirs, "{}", kernel.name);
        }
    }
}
