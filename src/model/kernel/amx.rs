//! AMX kernels: products of tiles of 16 rows of 64 bytes, in bf16, f16 and 8-bit integers.
//!
//! Two tiles of rows are multiplied with two tiles of columns, so that each load serves two products. Source: Intel 64 and IA-32
//! Architectures Software Developer's Manual, volume 1, chapter 18.

use std::{
    arch::{asm, x86_64::*},
    sync::LazyLock,
};

use super::{
    amx_tiles::{TILE_COLUMNS, block, fetch_step, store, strip},
    arithmetic::{Arithmetic, Element, Interleaved, PANEL, Tile, panel_by_panel},
    avx512::{self, Avx512, StagedFloat, interleave_halves, put_bf16, put_f16, put_two_bf16, real_numbers},
    simd::Accuracy,
};

/// Rows of a block: two tiles.
const ROWS: usize = 32;

/// Lanes of four bytes in a row of a tile.
pub(super) const LANE_UNIT: usize = 16;

#[derive(Clone, Copy, Default)]
struct Support {
    bf16: bool,
    int8: bool,
    fp16: bool,
}

/// Prefetch distance in a panel, in bytes. A tile load waits for all its cache lines.
const AHEAD: usize = 4096;

/// Features that the CPU has and the operating system allows this process to use.
static SUPPORT: LazyLock<Support> = LazyLock::new(|| {
    let (features, more) = (__cpuid_count(7, 0), __cpuid_count(7, 1));
    let has_tiles = features.edx & 1 << 24 != 0;
    if !has_tiles || !avx512::is_supported() || !request_permission() {
        return Support::default();
    }
    Support {
        bf16: features.edx & 1 << 22 != 0 && is_x86_feature_detected!("avx512bf16"),
        int8: features.edx & 1 << 25 != 0,
        fp16: more.eax & 1 << 21 != 0 && is_x86_feature_detected!("avx512fp16"),
    }
});

pub(super) fn has_bf16() -> bool {
    SUPPORT.bf16
}

pub(super) fn has_fp16() -> bool {
    SUPPORT.fp16
}

/// Returns true if AMX for int8 can be used. Attention is then computed in bf16.
pub(super) fn has_int8() -> bool {
    SUPPORT.int8 && SUPPORT.bf16
}

/// Requests permission to use tiles. Linux saves their state only for processes that request it; otherwise the first tile
/// instruction ends the process. Source: Linux, Documentation/arch/x86/xstate.rst.
#[cfg(target_os = "linux")]
fn request_permission() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: the call changes nothing but this permission; the system clobbers rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn request_permission() -> bool {
    false
}

/// Tile configuration: palette 1 and eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        row_bytes[tile] = 64;
        rows[tile] = 16;
        tile += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

#[inline(always)]
unsafe fn configure() {
    // SAFETY: the caller's CPU has AMX and the process its permission.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) };
}

#[inline(always)]
unsafe fn release() {
    // SAFETY: as above.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Products of pairs of bf16 with sums in f32.
pub(super) struct AmxBf16;

/// Products of pairs of f16 with sums in f32.
pub(super) struct AmxF16;

/// Products of integers in groups of four, exact in i32.
pub(super) struct AmxInt8;

/// Items that are the same for all AMX arithmetics.
macro_rules! arithmetic {
    ($name:ident, $element:ident, $attention:ident) => {
        type Simd = Avx512;
        type Attention = $attention;
        const ELEMENT: Element = Element::$element;
        const ACCURACY: Accuracy = Accuracy::Half;
        const ROWS: usize = ROWS;
        const TILE_ROWS: usize = 16;
        const LANE_UNIT: usize = LANE_UNIT;

        #[inline(always)]
        unsafe fn begin() {
            // SAFETY: as for the caller.
            unsafe { configure() };
        }

        #[inline(always)]
        unsafe fn end() {
            // SAFETY: as for the caller.
            unsafe { release() };
        }

        #[inline(always)]
        fn interleaved_steps(lanes: usize) -> usize {
            lanes / LANE_UNIT
        }

        #[inline(always)]
        unsafe fn tile(tile: &Tile) {
            // SAFETY: as for the caller.
            unsafe { Self::tile_interleaved(tile, &mut ()) };
        }
    };
}

impl Arithmetic for AmxBf16 {
    arithmetic!(AmxBf16, Bf16, AmxBf16);

    #[inline(always)]
    unsafe fn tile_interleaved(tile: &Tile, other: &mut impl Interleaved) {
        // SAFETY: two tiles of rows are readable and writable, and a panel of as many lanes; tiles are configured.
        unsafe { block!(tile, other, "tdpbf16ps") };
    }

    #[inline(always)]
    unsafe fn strip_interleaved(tile: &Tile, panels: usize, other: &mut impl Interleaved) {
        // SAFETY: as for `tile_interleaved`.
        unsafe {
            if tile.lanes == LANE_UNIT {
                strip!(tile, panels, other, "tdpbf16ps");
            } else {
                panel_by_panel::<Self>(tile, panels, other);
            }
        }
    }

    #[inline(always)]
    unsafe fn put(to: *mut u8, x: __m512) {
        // SAFETY: as for the caller.
        unsafe { put_bf16(to, x) };
    }

    #[inline(always)]
    unsafe fn put_two(to: *mut u8, low: __m512, high: __m512) {
        // SAFETY: as for the caller.
        unsafe { put_two_bf16(to, low, high) };
    }

    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], to: *mut u8) {
        // SAFETY: as for the caller.
        unsafe { interleave_halves(rows[0], rows[1], to) };
    }
}

impl Arithmetic for AmxF16 {
    arithmetic!(AmxF16, F16, AmxF16);

    #[inline(always)]
    unsafe fn tile_interleaved(tile: &Tile, other: &mut impl Interleaved) {
        // SAFETY: as for `AmxBf16`.
        unsafe { block!(tile, other, "tdpfp16ps") };
    }

    #[inline(always)]
    unsafe fn strip_interleaved(tile: &Tile, panels: usize, other: &mut impl Interleaved) {
        // SAFETY: as for `tile_interleaved`.
        unsafe {
            if tile.lanes == LANE_UNIT {
                strip!(tile, panels, other, "tdpfp16ps");
            } else {
                panel_by_panel::<Self>(tile, panels, other);
            }
        }
    }

    #[inline(always)]
    unsafe fn put(to: *mut u8, x: __m512) {
        // SAFETY: as for the caller.
        unsafe { put_f16(to, x) };
    }

    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], to: *mut u8) {
        // SAFETY: as for the caller.
        unsafe { interleave_halves(rows[0], rows[1], to) };
    }
}

impl StagedFloat for AmxBf16 {
    #[inline(always)]
    unsafe fn get(from: *const u8) -> __m512 {
        // SAFETY: 32 bytes, on a CPU with AVX-512F.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }
}

impl Arithmetic for AmxInt8 {
    arithmetic!(AmxInt8, Int8, AmxBf16);

    #[inline(always)]
    unsafe fn tile_interleaved(tile: &Tile, other: &mut impl Interleaved) {
        // SAFETY: as for `AmxBf16`; the sums are i32 in the place of f32.
        unsafe {
            block!(tile, other, "tdpbusd");
            for row in 0..tile.rows {
                let out = tile.out.add(row * tile.out_stride);
                let sums = [0, 16].map(|at| _mm512_cvtepi32_ps(_mm512_loadu_si512(out.add(at).cast())));
                let [low, high] = real_numbers(sums, tile, row);
                _mm512_storeu_ps(out, low);
                _mm512_storeu_ps(out.add(16), high);
            }
        }
    }

    #[inline(always)]
    unsafe fn put(to: *mut u8, x: __m512) {
        // SAFETY: as for the caller.
        unsafe { put_bf16(to, x) };
    }

    #[inline(always)]
    unsafe fn put_two(to: *mut u8, low: __m512, high: __m512) {
        // SAFETY: as for the caller.
        unsafe { put_two_bf16(to, low, high) };
    }

    #[inline(always)]
    unsafe fn seal(stage: *const u8, width: usize, elements: *mut u8, scale: *mut [f32; 2]) {
        // SAFETY: as for the caller.
        unsafe { avx512::seal::<AmxBf16>(stage, width, elements, scale) };
    }
}
