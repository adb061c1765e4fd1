//! Vectors of f32, and functions over them that are the same on every CPU.

/// Number of rows that are reduced together.
pub(super) const GROUP: usize = 16;

/// Vectors of f32 of one instruction set.
///
/// # Safety
/// For all functions, the CPU must support the instruction set, and pointers must be valid for [`Simd::LANES`] numbers, at
/// any alignment.
pub(super) trait Simd: 'static {
    type Vector: Copy;
    /// Numbers per vector, a divisor of [`GROUP`].
    const LANES: usize;

    unsafe fn splat(x: f32) -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    unsafe fn store(to: *mut f32, x: Self::Vector);
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// Rounds to the nearest integer.
    unsafe fn round(x: Self::Vector) -> Self::Vector;
    /// `x * 2^n` for integral `n` in [-126, 127].
    unsafe fn scale(x: Self::Vector, n: Self::Vector) -> Self::Vector;
    unsafe fn sum(x: Self::Vector) -> f32;

    /// Loads the first `count` numbers and sets the others to `fill`. The others need not be readable.
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize, fill: f32) -> Self::Vector {
        let mut numbers = [fill; GROUP];
        for (i, number) in numbers.iter_mut().enumerate().take(count) {
            // SAFETY: the caller gives as many.
            *number = unsafe { from.add(i).read_unaligned() };
        }
        // SAFETY: a vector has no more numbers than a group.
        unsafe { Self::load(numbers.as_ptr()) }
    }

    /// Sum of the numbers of each row.
    #[inline(always)]
    unsafe fn sum_of_each(rows: &[Self::Vector; GROUP], sums: &mut [f32; GROUP]) {
        for (row, sum) in rows.iter().zip(sums) {
            // SAFETY: as for the caller.
            *sum = unsafe { Self::sum(*row) };
        }
    }

    /// Highest number of each row.
    #[inline(always)]
    unsafe fn highest_of_each(rows: &[Self::Vector; GROUP], highest: &mut [f32; GROUP]) {
        for (row, highest) in rows.iter().zip(highest) {
            // SAFETY: as for the caller.
            *highest = unsafe { Self::highest(*row) };
        }
    }

    /// See [`exp2`].
    #[inline(always)]
    unsafe fn exp2(x: Self::Vector, accuracy: Accuracy) -> Self::Vector
    where
        Self: Sized,
    {
        // SAFETY: as for the caller.
        unsafe { exp2::<Self>(x, accuracy) }
    }

    /// See [`gelu`].
    #[inline(always)]
    unsafe fn gelu(x: Self::Vector, accuracy: Accuracy) -> Self::Vector
    where
        Self: Sized,
    {
        // SAFETY: as for the caller.
        unsafe { gelu::<Self>(x, accuracy) }
    }

    unsafe fn highest(x: Self::Vector) -> f32;

    /// Transposes 16 x 16 words of 32 bits: row `i` starts at `from + i * from_stride` and becomes a column.
    /// Strides in bytes.
    #[inline(always)]
    unsafe fn transpose(from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) {
        for row in 0..16 {
            for column in 0..16 {
                // SAFETY: the caller gives 16 rows of 64 bytes on both sides.
                unsafe {
                    let word = from.add(row * from_stride + 4 * column).cast::<u32>().read_unaligned();
                    to.add(column * to_stride + 4 * row).cast::<u32>().write_unaligned(word);
                }
            }
        }
    }
}

/// Accuracy of an approximated function.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Accuracy {
    /// About the accuracy of f32.
    Full,
    /// Sufficient for f16 and narrower types.
    Half,
}

/// Computes `2^x` for x <= 0, and 2^-100 below -100, since subnormal numbers are slow.
///
/// The relative error is 3e-7 in full and 8e-5 in half accuracy. `x = n + f` with |f| <= 1/2, and `2^f` is a minimax
/// polynomial of degree 5 or 3.
#[inline(always)]
pub(super) unsafe fn exp2<S: Simd>(x: S::Vector, accuracy: Accuracy) -> S::Vector {
    const FULL: [f32; 6] = [1.0, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_541, 0.001_327_646_9];
    const HALF: [f32; 4] = [0.999_928_1, 0.693_261, 0.242_611_12, 0.055_171_643];
    // SAFETY: the caller's CPU has the instruction set.
    unsafe {
        let x = S::max(x, S::splat(-100.0));
        let n = S::round(x);
        let fraction = S::sub(x, n);
        let power = match accuracy {
            Accuracy::Full => polynomial::<S, 6>(fraction, &FULL),
            Accuracy::Half => polynomial::<S, 4>(fraction, &HALF),
        };
        S::scale(power, n)
    }
}

/// Computes GELU, `x * (1 + erf(x / sqrt 2)) / 2`. Source: Gaussian Error Linear Units, arXiv:1606.08415.
///
/// The absolute error relative to max(1, |x|) is 1e-6 in full and 7e-5 in half accuracy; that of [`Simd::gelu`] is at most
/// 8e-5.
#[inline(always)]
pub(super) unsafe fn gelu<S: Simd>(x: S::Vector, accuracy: Accuracy) -> S::Vector {
    // SAFETY: the caller's CPU has the instruction set.
    unsafe {
        match accuracy {
            Accuracy::Full => {
                let erf = erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2)));
                let half = S::mul(x, S::splat(0.5));
                S::mul_add(half, erf, half)
            }
            Accuracy::Half => {
                // Minimax fit of the normal distribution function minus 1/2, an odd function, on [-4.5, 4.5].
                const PHI: [f32; 9] = [
                    0.398_712_6,
                    -0.065_984_65,
                    0.009_585_2,
                    -0.001_037_590_3,
                    8.142_5e-5,
                    -4.451_714_7e-6,
                    1.590_989_3e-7,
                    -3.314_639e-9,
                    3.036_394_3e-11,
                ];
                let near = S::max(S::min(x, S::splat(4.5)), S::splat(-4.5));
                let odd = polynomial::<S, 9>(S::mul(near, near), &PHI);
                S::mul(x, S::mul_add(near, odd, S::splat(0.5)))
            }
        }
    }
}

/// Error function: the quotient of an odd polynomial of degree 13 and an even one of degree 8 on [-4, 4]. Beyond that
/// range it is 1 in f32. Source of the coefficients: minimax fit of the Eigen library.
#[inline(always)]
unsafe fn erf<S: Simd>(x: S::Vector) -> S::Vector {
    const NUMERATOR: [f32; 7] = [
        -1.609_603_3e-2,
        -2.954_6e-3,
        -7.349_906_5e-4,
        -5.692_506_4e-5,
        -2.101_024e-6,
        2.770_681_4e-8,
        -2.726_142_3e-10,
    ];
    const DENOMINATOR: [f32; 5] =
        [-1.426_473_9e-2, -7.373_329_3e-3, -1.682_827e-3, -2.133_740_6e-4, -1.456_607_2e-5];
    // SAFETY: the caller's CPU has the instruction set.
    unsafe {
        let x = S::max(S::min(x, S::splat(4.0)), S::splat(-4.0));
        let square = S::mul(x, x);
        let numerator = polynomial::<S, 7>(square, &NUMERATOR);
        S::div(S::mul(x, numerator), polynomial::<S, 5>(square, &DENOMINATOR))
    }
}

/// Evaluates a polynomial. Coefficients start with the constant.
#[inline(always)]
pub(super) unsafe fn polynomial<S: Simd, const N: usize>(x: S::Vector, coefficients: &[f32; N]) -> S::Vector {
    // SAFETY: the caller's CPU has the instruction set.
    unsafe {
        let mut value = S::splat(coefficients[N - 1]);
        for coefficient in coefficients[..N - 1].iter().rev() {
            value = S::mul_add(value, x, S::splat(*coefficient));
        }
        value
    }
}

/// Defines functions of a trait that consist of a few intrinsics.
macro_rules! intrinsics {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty { $($body:tt)* })*) => {
        $(
            #[inline(always)]
            unsafe fn $name($($argument: $type),*) -> $result {
                // SAFETY: the caller's CPU has the instructions, and pointers are valid as promised.
                unsafe { $($body)* }
            }
        )*
    };
}
pub(super) use intrinsics;
