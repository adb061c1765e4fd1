//! Sequences of AMX tile instructions.
//!
//! A core has few physical registers behind the eight tiles, and fewer while its other hardware thread computes. A zeroed
//! tile needs none, so each tile is zeroed after its last use, and loads and products need not wait for one another. With
//! a busy neighbour, a step of four products takes 68 ns instead of 122 ns; without one it still takes 28 ns. All tiles are
//! therefore 0 before and after a sequence, as `ldtilecfg` leaves them.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::{amx::LANE_UNIT, arithmetic::PANEL};

/// Columns of a tile, in f32 or lanes.
pub(super) const TILE_COLUMNS: usize = 16;

/// Stores one tile of sums and zeroes it.
macro_rules! store {
    ($tile:literal, $out:expr, $stride:expr) => {
        asm!(
            concat!("tilestored [{out} + {stride}], ", $tile),
            concat!("tilezero ", $tile),
            out = in(reg) $out,
            stride = in(reg) $stride * 4,
            options(nostack, preserves_flags),
        )
    };
}

/// Computes one block in steps of 64 bytes along the inputs. `$product` is the multiplication instruction, and one step of
/// `$other` is done after each step.
///
/// Sums stay in tiles 0 to 3 from one `asm!` to the next. The compiler never uses tiles, since no function of this crate
/// enables the feature, and `$other` must not use them either.
macro_rules! block {
    ($tile:expr, $other:expr, $product:literal) => {{
        let tile: &Tile = $tile;
        let (mut a, mut b) = (tile.a, tile.b);
        let steps = tile.lanes / LANE_UNIT;
        if tile.rows > 16 {
            let next_rows = 16 * tile.a_stride;
            for _ in 0..steps {
                asm!(
                    "tileloaddt1 tmm4, [{a} + {a_stride}]",
                    "tileloadd tmm6, [{b} + {b_stride}]",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm7, [{b} + {b_stride} + 64]",
                    concat!($product, " tmm1, tmm4, tmm7"),
                    "tilezero tmm4",
                    "tileloaddt1 tmm5, [{next_a} + {a_stride}]",
                    concat!($product, " tmm2, tmm5, tmm6"),
                    "tilezero tmm6",
                    concat!($product, " tmm3, tmm5, tmm7"),
                    "tilezero tmm5",
                    "tilezero tmm7",
                    a = in(reg) a,
                    next_a = in(reg) a.add(next_rows),
                    a_stride = in(reg) tile.a_stride,
                    b = in(reg) b,
                    b_stride = in(reg) PANEL * 4,
                    options(nostack, readonly, preserves_flags),
                );
                if tile.is_far {
                    fetch_step(b.wrapping_add(AHEAD));
                }
                a = a.add(LANE_UNIT * 4);
                b = b.add(LANE_UNIT * PANEL * 4);
                $other.step();
            }
            store!("tmm0", tile.out, tile.out_stride);
            store!("tmm1", tile.out.add(TILE_COLUMNS), tile.out_stride);
            store!("tmm2", tile.out.add(16 * tile.out_stride), tile.out_stride);
            store!("tmm3", tile.out.add(16 * tile.out_stride + TILE_COLUMNS), tile.out_stride);
        } else {
            for _ in 0..steps {
                asm!(
                    "tileloaddt1 tmm4, [{a} + {a_stride}]",
                    "tileloadd tmm6, [{b} + {b_stride}]",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    "tilezero tmm6",
                    "tileloadd tmm7, [{b} + {b_stride} + 64]",
                    concat!($product, " tmm1, tmm4, tmm7"),
                    "tilezero tmm4",
                    "tilezero tmm7",
                    a = in(reg) a,
                    a_stride = in(reg) tile.a_stride,
                    b = in(reg) b,
                    b_stride = in(reg) PANEL * 4,
                    options(nostack, readonly, preserves_flags),
                );
                if tile.is_far {
                    fetch_step(b.wrapping_add(AHEAD));
                }
                a = a.add(LANE_UNIT * 4);
                b = b.add(LANE_UNIT * PANEL * 4);
                $other.step();
            }
            store!("tmm0", tile.out, tile.out_stride);
            store!("tmm1", tile.out.add(TILE_COLUMNS), tile.out_stride);
        }
    }};
}

/// Computes the blocks of consecutive panels, with one step along the inputs each. Rows are loaded once, and the sums of
/// one tile are stored while the next products are computed.
macro_rules! strip {
    ($tile:expr, $panels:expr, $other:expr, $product:literal) => {{
        let tile: &Tile = $tile;
        let (next_rows, next_out) = (16 * tile.a_stride, 16 * tile.out_stride);
        let (mut b, mut out) = (tile.b, tile.out);
        let is_high = tile.rows > 16;
        asm!(
            "tileloadd tmm4, [{a} + {a_stride}]",
            a = in(reg) tile.a,
            a_stride = in(reg) tile.a_stride,
            options(nostack, readonly, preserves_flags),
        );
        if is_high {
            asm!(
                "tileloadd tmm5, [{a} + {a_stride}]",
                a = in(reg) tile.a.add(next_rows),
                a_stride = in(reg) tile.a_stride,
                options(nostack, readonly, preserves_flags),
            );
        }
        for panel in 0..$panels {
            asm!(
                "tileloadd tmm6, [{b} + {b_stride}]",
                concat!($product, " tmm0, tmm4, tmm6"),
                b = in(reg) b,
                b_stride = in(reg) PANEL * 4,
                options(nostack, readonly, preserves_flags),
            );
            if is_high {
                if panel > 0 {
                    store!("tmm3", out.add(next_out).sub(TILE_COLUMNS), tile.out_stride);
                }
                asm!(concat!($product, " tmm1, tmm5, tmm6"), options(nostack, nomem, preserves_flags));
            }
            asm!("tilezero tmm6", options(nostack, nomem, preserves_flags));
            store!("tmm0", out, tile.out_stride);
            asm!(
                "tileloadd tmm7, [{b} + {b_stride}]",
                concat!($product, " tmm2, tmm4, tmm7"),
                b = in(reg) b.add(TILE_COLUMNS * 4),
                b_stride = in(reg) PANEL * 4,
                options(nostack, readonly, preserves_flags),
            );
            if is_high {
                store!("tmm1", out.add(next_out), tile.out_stride);
                asm!(concat!($product, " tmm3, tmm5, tmm7"), options(nostack, nomem, preserves_flags));
            }
            asm!("tilezero tmm7", options(nostack, nomem, preserves_flags));
            store!("tmm2", out.add(TILE_COLUMNS), tile.out_stride);
            $other.step();
            b = b.add(LANE_UNIT * PANEL * 4);
            out = out.add(PANEL);
        }
        if is_high {
            store!("tmm3", out.add(next_out).sub(TILE_COLUMNS), tile.out_stride);
        }
        asm!("tilezero tmm4", "tilezero tmm5", options(nostack, nomem, preserves_flags));
    }};
}

/// Prefetches one step of a panel into the L1 cache. The address may be invalid.
#[inline(always)]
pub(super) fn fetch_step(step: *const u8) {
    for line in 0..LANE_UNIT * PANEL * 4 / 64 {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(step.wrapping_add(line * 64).cast()) };
    }
}

pub(super) use {block, store, strip};
