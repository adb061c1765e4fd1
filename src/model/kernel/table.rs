//! Table of all kernels with the CPU features that each needs.

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{
    Kernel, KernelOps,
    arithmetic::Arithmetic,
    ops::{self, AttendPart, NormalisePart, ProductPart, Scratch},
    scalar,
};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512};

/// Element type of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floating point.
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit floating point.
    F16,
    /// 8-bit integers.
    Int8,
}

impl Precision {
    /// Name in settings and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
            Precision::Int8 => "int8",
        }
    }
}

/// All kernels of this build. Within a precision, the fastest kernel is first.
pub fn all() -> &'static [Kernel] {
    &KERNELS
}

/// Compiles the steps with the CPU features of a kernel.
macro_rules! kernel {
    ($name:literal, $precision:ident, $arithmetic:ty, $supported:expr $(, $features:literal)?) => {
        Kernel {
            name: $name,
            precision: Precision::$precision,
            element: <$arithmetic>::ELEMENT,
            stage: <<$arithmetic as Arithmetic>::Attention as Arithmetic>::ELEMENT,
            is_supported: || $supported,
            ops: {
                $(#[target_feature(enable = $features)])?
                unsafe fn product(part: &ProductPart<'_>, scratch: &Scratch) {
                    // SAFETY: as for the caller.
                    unsafe { ops::product::<$arithmetic>(part, scratch) }
                }
                $(#[target_feature(enable = $features)])?
                unsafe fn seal(operand: &super::Operand, rows: std::ops::Range<usize>) {
                    // SAFETY: as for the caller.
                    unsafe { ops::seal::<$arithmetic>(operand, rows) }
                }
                $(#[target_feature(enable = $features)])?
                unsafe fn normalise(part: &NormalisePart<'_>) {
                    // SAFETY: as for the caller.
                    unsafe { ops::normalise::<$arithmetic>(part) }
                }
                $(#[target_feature(enable = $features)])?
                unsafe fn attend(part: &AttendPart<'_>, scratch: &Scratch) {
                    // SAFETY: as for the caller.
                    unsafe { ops::attend::<<$arithmetic as Arithmetic>::Attention>(part, scratch) }
                }
                KernelOps { product, seal, normalise, attend }
            },
        }
    };
}

#[cfg(target_arch = "x86_64")]
static KERNELS: [Kernel; 13] = [
    kernel!("amx-fp16", F16, amx::AmxF16, amx::has_fp16(), "avx512f,avx512bw,avx512vl,avx512dq,avx512fp16"),
    kernel!(
        "avx512-fp16",
        F16,
        avx512::Avx512F16,
        has_fp16(),
        "avx512f,avx512bw,avx512vl,avx512dq,avx512fp16"
    ),
    kernel!("scalar-f16", F16, scalar::ScalarFloats<scalar::ScalarF16>, true),
    kernel!("amx-bf16", Bf16, amx::AmxBf16, amx::has_bf16(), "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"),
    kernel!(
        "avx512-bf16",
        Bf16,
        avx512::Avx512Bf16,
        has_bf16(),
        "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"
    ),
    kernel!("scalar-bf16", Bf16, scalar::ScalarFloats<scalar::ScalarBf16>, true),
    kernel!("amx-int8", Int8, amx::AmxInt8, amx::has_int8(), "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"),
    kernel!(
        "avx512-vnni-fp16",
        Int8,
        avx512::Avx512Vnni<avx512::Avx512F16>,
        has_vnni() && has_fp16(),
        "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512fp16"
    ),
    kernel!(
        "avx512-vnni",
        Int8,
        avx512::Avx512Vnni<avx512::Avx512F32>,
        has_vnni(),
        "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
    ),
    kernel!("scalar-int8", Int8, scalar::ScalarInt8, true),
    kernel!("avx512", F32, avx512::Avx512F32, avx512::is_supported(), "avx512f,avx512bw,avx512vl,avx512dq"),
    kernel!("avx2", F32, avx2::Avx2F32, has_avx2(), "avx2,fma"),
    kernel!("scalar", F32, scalar::ScalarFloats<scalar::ScalarF32>, true),
];

#[cfg(target_arch = "aarch64")]
static KERNELS: [Kernel; 5] = [
    kernel!("scalar-f16", F16, scalar::ScalarFloats<scalar::ScalarF16>, true),
    kernel!("scalar-bf16", Bf16, scalar::ScalarFloats<scalar::ScalarBf16>, true),
    kernel!("scalar-int8", Int8, scalar::ScalarInt8, true),
    kernel!("neon", F32, neon::NeonF32, std::arch::is_aarch64_feature_detected!("neon"), "neon"),
    kernel!("scalar", F32, scalar::ScalarFloats<scalar::ScalarF32>, true),
];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static KERNELS: [Kernel; 4] = [
    kernel!("scalar-f16", F16, scalar::ScalarFloats<scalar::ScalarF16>, true),
    kernel!("scalar-bf16", Bf16, scalar::ScalarFloats<scalar::ScalarBf16>, true),
    kernel!("scalar-int8", Int8, scalar::ScalarInt8, true),
    kernel!("scalar", F32, scalar::ScalarFloats<scalar::ScalarF32>, true),
];

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_fp16() -> bool {
    avx512::is_supported() && is_x86_feature_detected!("avx512fp16")
}

#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    avx512::is_supported() && is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "x86_64")]
fn has_vnni() -> bool {
    avx512::is_supported() && is_x86_feature_detected!("avx512vnni")
}
