//! Conversion of a pooled state to the vector that a caller requested.

use half::f16;

/// Options of a requested vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorOptions {
    /// Number of leading dimensions to keep, at most those of the model. Source: Matryoshka Representation Learning,
    /// arXiv:2205.13147.
    pub dimensions: usize,
    /// True if the vector is scaled to unit length, after it was reduced to `dimensions`.
    pub normalize: bool,
    /// Number format.
    pub encoding: VectorEncoding,
}

/// Number format of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorEncoding {
    /// 32-bit floats as numbers.
    Float32Values,
    /// 32-bit floats as little-endian bytes.
    Float32Bytes,
    /// 16-bit floats as little-endian bytes.
    Float16Bytes,
    /// Signed 8-bit integers with one scale.
    Int8Bytes,
    /// One bit per dimension: 1 for a positive number. The first dimension is the highest bit.
    BinaryBytes,
}

/// One vector in the requested format.
#[derive(Clone, Debug, PartialEq)]
pub enum Vector {
    /// 32-bit floats.
    Values(Vec<f32>),
    /// Little-endian floats, or bits.
    Bytes(Vec<u8>),
    /// Signed integers, one per byte. A number is its integer times `scale`, within half of `scale`.
    Int8 {
        /// One integer per dimension.
        bytes: Vec<u8>,
        /// Factor from an integer to its number.
        scale: f32,
    },
}

impl VectorOptions {
    /// The unchanged state of a model with `dimensions` dimensions.
    pub(super) fn unchanged(dimensions: usize) -> VectorOptions {
        VectorOptions { dimensions, normalize: false, encoding: VectorEncoding::Float32Values }
    }
}

impl Vector {
    /// Truncates, scales and encodes `state`, which is `[model dimensions]`.
    ///
    /// Each number is read once for the norm and once for the result; there is no intermediate vector.
    ///
    /// # Panics
    /// If `options.dimensions` exceeds the length of `state`.
    pub fn new(state: &[f32], options: VectorOptions) -> Vector {
        let kept = &state[..options.dimensions];
        let factor = if options.normalize { 1.0 / length(kept) } else { 1.0 };
        let scaled = kept.iter().map(move |&x| (f64::from(x) * factor) as f32);
        match options.encoding {
            VectorEncoding::Float32Values => Vector::Values(scaled.collect()),
            VectorEncoding::Float32Bytes => Vector::Bytes(written(scaled, f32::to_le_bytes)),
            VectorEncoding::Float16Bytes => {
                Vector::Bytes(written(scaled, |x| f16::from_f32(x).to_le_bytes()))
            }
            VectorEncoding::Int8Bytes => int8(scaled),
            VectorEncoding::BinaryBytes => Vector::Bytes(kept.chunks(8).map(sign_bits).collect()),
        }
    }
}

/// Euclidean norm, at least 1e-12 as in PyTorch, so that a zero vector stays zero.
fn length(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12)
}

/// Encodes values with exact capacity, so that the bytes become part of the answer without a copy.
fn written<const N: usize>(
    values: impl ExactSizeIterator<Item = f32>,
    bytes: impl Fn(f32) -> [u8; N],
) -> Vec<u8> {
    let mut all = Vec::with_capacity(values.len() * N);
    values.for_each(|x| all.extend_from_slice(&bytes(x)));
    all
}

/// Symmetric quantization: the largest magnitude becomes 127.
fn int8(values: impl Iterator<Item = f32> + Clone) -> Vector {
    let largest = values.clone().fold(0.0_f32, |m, x| m.max(x.abs()));
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    let bytes = values.map(|x| (x / scale).round() as i8 as u8).collect();
    Vector::Int8 { bytes, scale }
}

/// Signs of up to 8 numbers; the first is the highest bit.
fn sign_bits(values: &[f32]) -> u8 {
    values.iter().enumerate().fold(0, |byte, (i, &x)| byte | (u8::from(x > 0.0) << (7 - i)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: [f32; 9] = [3.0, -4.0, 0.0, 1.0, -1.0, 2.0, 0.5, -0.25, 8.0];

    fn vector(dimensions: usize, normalize: bool, encoding: VectorEncoding) -> Vector {
        Vector::new(&STATE, VectorOptions { dimensions, normalize, encoding })
    }

    #[test]
    fn truncation_comes_before_scaling() {
        assert_eq!(vector(2, true, VectorEncoding::Float32Values), Vector::Values(vec![0.6, -0.8]));
    }

    #[test]
    fn a_vector_of_zeros_stays_finite() {
        let options =
            VectorOptions { dimensions: 3, normalize: true, encoding: VectorEncoding::Float32Values };
        assert_eq!(Vector::new(&[0.0; 3], options), Vector::Values(vec![0.0; 3]));
        let int8 = Vector::new(&[0.0; 3], VectorOptions { encoding: VectorEncoding::Int8Bytes, ..options });
        assert_eq!(int8, Vector::Int8 { bytes: vec![0; 3], scale: 1.0 });
    }

    #[test]
    fn encoded_bytes_have_exact_capacity() {
        for encoding in [
            VectorEncoding::Float32Bytes,
            VectorEncoding::Float16Bytes,
            VectorEncoding::Int8Bytes,
            VectorEncoding::BinaryBytes,
        ] {
            let (Vector::Bytes(bytes) | Vector::Int8 { bytes, .. }) = vector(9, true, encoding) else {
                panic!("{encoding:?} gives numbers")
            };
            assert_eq!(bytes.capacity(), bytes.len(), "{encoding:?}");
        }
    }

    #[test]
    fn bytes_are_little_endian() {
        let bytes: Vec<u8> = STATE.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(vector(9, false, VectorEncoding::Float32Bytes), Vector::Bytes(bytes));
        assert_eq!(vector(1, false, VectorEncoding::Float16Bytes), Vector::Bytes(vec![0x00, 0x42]));
    }

    #[test]
    fn int8_is_accurate_within_half_a_scale() {
        let Vector::Int8 { bytes, scale } = vector(9, false, VectorEncoding::Int8Bytes) else {
            panic!("another encoding")
        };
        for (byte, x) in bytes.iter().zip(STATE) {
            assert!((f32::from(*byte as i8) * scale - x).abs() <= scale / 2.0 + 1e-6);
        }
    }

    #[test]
    fn the_first_sign_is_the_highest_bit() {
        assert_eq!(
            vector(9, false, VectorEncoding::BinaryBytes),
            Vector::Bytes(vec![0b1001_0110, 0b1000_0000])
        );
    }
}
