//! Loops of multiply-adds in registers, which measure the limit of the arithmetic units.

#![expect(unsafe_code, reason = "instructions of one's own choice need asm")]

use std::arch::{asm, is_x86_feature_detected};

/// A loop of one instruction on 24 zero accumulators, so that latency and subnormal numbers have no effect.
pub struct Kernel {
    pub name: &'static str,
    pub runs_here: fn() -> bool,
    pub operations_per_step: u64,
    // Invariant: may be called if `runs_here` returns true.
    body: unsafe fn(u64),
}

impl Kernel {
    /// Must run here.
    pub fn run(&self, steps: u64) {
        assert!((self.runs_here)(), "{} is not had here", self.name);
        // SAFETY: the processor has the instructions.
        unsafe { (self.body)(steps) }
    }
}

const ACCUMULATORS: u64 = 24;

pub static KERNELS: [Kernel; 7] = [
    Kernel {
        name: "f32 FMA, AVX-512",
        runs_here: || is_x86_feature_detected!("avx512f"),
        operations_per_step: ACCUMULATORS * 16 * 2,
        body: f32_avx512,
    },
    Kernel {
        name: "f32 FMA, AVX2",
        runs_here: || is_x86_feature_detected!("fma"),
        operations_per_step: 12 * 8 * 2,
        body: f32_avx2,
    },
    Kernel {
        name: "fp16 FMA, AVX512-FP16",
        runs_here: || is_x86_feature_detected!("avx512fp16"),
        operations_per_step: ACCUMULATORS * 32 * 2,
        body: fp16_avx512,
    },
    Kernel {
        name: "bf16 dot, AVX512-BF16",
        runs_here: || is_x86_feature_detected!("avx512bf16"),
        operations_per_step: ACCUMULATORS * 32 * 2,
        body: bf16_avx512,
    },
    Kernel {
        name: "int8 dot, AVX512-VNNI",
        runs_here: || is_x86_feature_detected!("avx512vnni"),
        operations_per_step: ACCUMULATORS * 64 * 2,
        body: int8_vnni,
    },
    Kernel {
        name: "bf16 tiles, AMX",
        runs_here: || has_tiles("amx-bf16"),
        operations_per_step: TILES * 16 * 16 * 32 * 2,
        body: bf16_amx,
    },
    Kernel {
        name: "int8 tiles, AMX",
        runs_here: || has_tiles("amx-int8"),
        operations_per_step: TILES * 16 * 16 * 64 * 2,
        body: int8_amx,
    },
];

/// Returns true if a kernel can run here. For AMX this also requests permission to use tiles.
fn has_tiles(kernel: &str) -> bool {
    assay::model::kernels().iter().any(|known| known.name == kernel && known.is_supported())
}

/// Number of accumulators of the tile loops.
const TILES: u64 = 4;

/// Tile configuration: palette 1 and eight tiles of 16 rows of 64 bytes.
#[repr(align(64))]
struct Configuration {
    bytes: [u8; 64],
}

static CONFIGURATION: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Configuration { bytes }
};

macro_rules! tile_loop {
    ($name:ident, $instruction:literal) => {
        /// # Safety
        /// The processor must have these instructions, and the process the permission to use tiles.
        unsafe fn $name(steps: u64) {
            // SAFETY: only tiles and a counter are modified; the configuration is valid.
            unsafe {
                asm!(
                    "ldtilecfg [{configuration}]",
                    "2:",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "dec {steps}",
                    "jnz 2b",
                    "tilerelease",
                    configuration = in(reg) CONFIGURATION.bytes.as_ptr(),
                    steps = inout(reg) steps.max(1) => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(readonly, nostack),
                );
            }
        }
    };
}

tile_loop!(bf16_amx, "tdpbf16ps");
tile_loop!(int8_amx, "tdpbusd");

macro_rules! register_loop {
    ($name:ident, $width:literal, $zero:literal, $instruction:literal, $a:literal $b:literal, $($n:literal)*) => {
        /// # Safety
        /// The processor must have these instructions.
        unsafe fn $name(steps: u64) {
            // SAFETY: only registers are modified, all of which the calling convention clobbers.
            unsafe {
                asm!(
                    $(concat!($zero, $width, $n, ", ", $width, $n, ", ", $width, $n),)*
                    concat!($zero, $width, $a, ", ", $width, $a, ", ", $width, $a),
                    concat!($zero, $width, $b, ", ", $width, $b, ", ", $width, $b),
                    "2:",
                    $(concat!($instruction, $width, $n, ", ", $width, $a, ", ", $width, $b),)*
                    "dec rcx",
                    "jnz 2b",
                    "vzeroupper",
                    inout("rcx") steps.max(1) => _,
                    clobber_abi("C"),
                    options(nomem, nostack),
                );
            }
        }
    };
}

macro_rules! zmm_loop {
    ($name:ident, $instruction:literal) => {
        register_loop!($name, "zmm", "vpxord ", $instruction, "30" "31",
            "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11"
            "12" "13" "14" "15" "16" "17" "18" "19" "20" "21" "22" "23");
    };
}

zmm_loop!(f32_avx512, "vfmadd231ps ");
zmm_loop!(fp16_avx512, "vfmadd231ph ");
zmm_loop!(bf16_avx512, "vdpbf16ps ");
zmm_loop!(int8_vnni, "vpdpbusd ");
register_loop!(f32_avx2, "ymm", "vxorps ", "vfmadd231ps ", "14" "15",
    "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11");
