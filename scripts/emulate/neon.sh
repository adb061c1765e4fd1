#!/bin/sh
# Runs the kernels' tests as a 64-bit ARM program, under QEMU's emulation of a user's process.
#
#   scripts/emulate/neon.sh [FILTER...]            the kernels alone (kernels.sh), in seconds
#   scripts/emulate/neon.sh --crate [FILTER...]    the unit tests of the whole crate, `model::kernel` unless named
#                                                  otherwise; compiles all dependencies, many minutes
#   NEON_RUN=PROGRAM scripts/emulate/neon.sh [ARGUMENT...]    any program built for ARM
#
# What is checked is arithmetic, not speed. Needs Debian and root (apt-get), and rustup, which fetches the standard
# library of the target. NEON_CPU is QEMU's model of a processor (default max, which has every extension;
# `qemu-aarch64 -cpu help` lists them: cortex-a72 has NEON alone, neoverse-n1 also dot products and half precision).
set -eu

TARGET=aarch64-unknown-linux-gnu
PACKAGES='qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross'
EMULATOR="qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu ${NEON_CPU:-max}"

dpkg -s $PACKAGES >/dev/null 2>&1 || apt-get install -y -qq --no-install-recommends $PACKAGES >&2
if [ -n "${NEON_RUN:-}" ]; then
    exec $EMULATOR "$NEON_RUN" "$@"
fi
here=$(realpath "$(dirname "$0")")
cd "$here/../.."
rustup target add $TARGET
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$EMULATOR"
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
if [ "${1:-}" = --crate ]; then
    shift
    [ $# -gt 0 ] || set -- model::kernel
    exec cargo test --target $TARGET --lib --config 'profile.dev.package."*".opt-level=1' -- "$@"
fi
cd "$("$here/kernels.sh")"
exec cargo test --target $TARGET --lib -- "$@"
