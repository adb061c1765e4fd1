#!/bin/sh
# Runs the kernels' tests with AddressSanitizer, which finds reads and writes outside of what was allocated.
#
#   scripts/emulate/asan.sh [FILTER...]            the kernels alone (kernels.sh), in seconds
#   scripts/emulate/asan.sh --crate [FILTER...]    the unit tests of the whole crate, `model::kernel` unless named
#                                                  otherwise; compiles all dependencies, many minutes
#
# It sees what the compiler emits, intrinsics of every width and masked ones too, but nothing inside `asm!`: a test of
# such a kernel puts its buffers before a page that cannot be read. Works with the stable compiler, which has the
# sanitizer behind a switch.
set -eu

here=$(realpath "$(dirname "$0")")
cd "$here/../.."
TARGET=x86_64-unknown-linux-gnu
BUILD=$PWD/target/asan
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address ${RUSTFLAGS:-}"
if [ "${1:-}" = --crate ]; then
    shift
    [ $# -gt 0 ] || set -- model::kernel
    exec cargo test --target $TARGET --target-dir "$BUILD" --lib --config 'profile.dev.package."*".opt-level=1' -- "$@"
fi
cd "$("$here/kernels.sh")"
exec cargo test --target $TARGET --target-dir "$BUILD" --lib -- "$@"
