#!/bin/sh
# Runs every fuzz target of fuzz/ for some seconds, on stable Rust, one after the other.
#
#   scripts/fuzz.sh [SECONDS_PER_TARGET] [TARGET…]
#
# A finding ends the run with exit code 1 and names the file of its input, in target/fuzz/artifacts/TARGET/. The corpus
# in target/fuzz/corpus/TARGET grows from run to run; fuzz/seeds/TARGET is where it starts.
set -eu
cd "$(dirname "$0")/.."

CARGO_FUZZ=0.13.2
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=${*:-$(ls fuzz/targets | sed 's/\.rs$//')}

PATH=$PWD/target/tools/bin:$PATH
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked --version "$CARGO_FUZZ" --root target/tools cargo-fuzz
# The versions of the server's own dependencies.
cp Cargo.lock fuzz/Cargo.lock

# Without a sanitizer coverage works on stable Rust.
fuzz() {
    subcommand=$1
    shift
    cargo fuzz "$subcommand" --sanitizer none --target-dir target/fuzz "$@"
}

# Files of models are written for each input.
[ -w /dev/shm ] && export TMPDIR=/dev/shm

fuzz build
for target in $targets; do
    corpus=target/fuzz/corpus/$target
    artifacts=target/fuzz/artifacts/$target/
    mkdir -p "$corpus" "$artifacts"
    echo "== $target"
    # An input that takes 10 s, or 2 GiB, is a finding too.
    if ! fuzz run "$target" "$corpus" "fuzz/seeds/$target" -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$artifacts" 2>"$artifacts/log.txt"; then
        grep -v '^#' "$artifacts/log.txt" | tail -40
        echo "FAILED: $target; the input is in $artifacts" >&2
        exit 1
    fi
    grep -E '^#.*DONE|number_of_executed_units|average_exec_per_sec|peak_rss_mb' "$artifacts/log.txt"
done
