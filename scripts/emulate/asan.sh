#!/bin/sh
# Runs the crate's unit tests with AddressSanitizer, which finds reads and writes outside of what was allocated.
#
#   scripts/emulate/asan.sh [FILTER...]      `model::kernel` unless named otherwise
#
# It sees what the compiler emits, intrinsics of every width and masked ones too, but nothing inside `asm!`: a test of
# such a kernel puts its buffers before a page that cannot be read. Works with the stable compiler, which has the
# sanitizer behind a switch. The first run compiles all dependencies anew, some minutes, into target/asan.
set -eu

cd "$(dirname "$0")/../.."
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address ${RUSTFLAGS:-}"
[ $# -gt 0 ] || set -- model::kernel
exec cargo test --target x86_64-unknown-linux-gnu --target-dir target/asan --lib -- "$@"
