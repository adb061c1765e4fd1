#!/bin/sh
# Runs the crate's unit tests as a 64-bit ARM program, under QEMU's emulation of a user's process.
#
#   scripts/emulate/neon.sh [FILTER...]      `model::kernel` unless named otherwise
#
# What is checked is arithmetic, not speed. Needs Debian and root (apt-get), and rustup, which fetches the standard
# library of the target. The first run compiles all dependencies for ARM, some minutes. Environment:
#
#   NEON_CPU    QEMU's model of a processor (default max, which has every extension; `qemu-aarch64 -cpu help` lists
#               them: cortex-a72 has NEON alone, neoverse-n1 also dot products and half precision)
#   NEON_RUN    a program built for ARM, run instead of the tests, with the arguments given
set -eu

TARGET=aarch64-unknown-linux-gnu
PACKAGES='qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross'
EMULATOR="qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu ${NEON_CPU:-max}"

dpkg -s $PACKAGES >/dev/null 2>&1 || apt-get install -y -qq --no-install-recommends $PACKAGES >&2
if [ -n "${NEON_RUN:-}" ]; then
    exec $EMULATOR "$NEON_RUN" "$@"
fi
cd "$(dirname "$0")/../.."
rustup target add $TARGET
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$EMULATOR"
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
[ $# -gt 0 ] || set -- model::kernel
exec cargo test --target $TARGET --lib -- "$@"
