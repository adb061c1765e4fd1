#!/bin/sh
# Starts a server without a judge and one with a stand-in for a judge, and runs every client against them.
#
#   clients/run.sh [BINARY [MODEL_DIR]]
#
# Defaults: $ASSAY_BIN or target/release/assay, $ASSAY_MODEL_DIR or models/all-MiniLM-L6-v2. Needs python3, and go
# for the Go client and grpcurl; all that it installs goes into target/.
set -eu

BIN=$(realpath "${1:-${ASSAY_BIN:-$(dirname "$0")/../target/release/assay}}")
MODEL=$(realpath "${2:-${ASSAY_MODEL_DIR:-$(dirname "$0")/../models/all-MiniLM-L6-v2}}")
cd "$(dirname "$0")/.."

main() {
    [ -x "$BIN" ] || fail "$BIN is not a program; build it, or name another"
    [ -d "$MODEL" ] || fail "$MODEL is not a directory"
    prepare_venv clients-venv clients/python/requirements.txt
    clients/python/generate.sh
    start_both
    run_python
    if command -v go >/dev/null; then
        run_go
    else
        skipped="the Go client and grpcurl: go is not installed"
        echo "SKIPPED: $skipped" >&2
    fi
    title "stop"
    stop_servers
    # Again at the end, where it is seen.
    echo "clients passed${skipped:+, SKIPPED $skipped}"
}

start_both() {
    start_judge
    cat >"$work/judged.toml" <<END
judge_url = "$judge_url"
judge_model = "stand-in"
judge_price_prompt = 0.15
judge_price_completion = 0.6

# The same judge, when it takes its time.
[judges.slow]
url = "${judge_url%/v1}/slow/v1"
END
    start_server judged --config "$work/judged.toml"
    judged=$address
    start_server plain
    socket=$work/plain.sock
}

run_python() {
    export PYTHONPATH=clients/python/gen
    title "Python: example.py"
    "$PYTHON" clients/python/example.py "$address"
    title "Python: example_evaluate.py"
    "$PYTHON" clients/python/example_evaluate.py "$judged"
    title "Python: smoke.py"
    "$PYTHON" clients/python/smoke.py "$address" "unix:$socket"
    title "Python: smoke_evaluate.py"
    "$PYTHON" clients/python/smoke_evaluate.py "$address" "$judged"
    title "Python: smoke_async.py"
    "$PYTHON" clients/python/smoke_async.py "$address" "$judged"
}

run_go() {
    clients/go/generate.sh
    title "Go: example"
    go -C clients/go run ./example "$address"
    title "Go: smoke"
    go -C clients/go vet ./...
    go -C clients/go run . "$address" "unix:$socket" "$judged"
    title "grpcurl"
    clients/grpcurl.sh "$address" "$admin" "$socket" "$judged"
}

. clients/serve.sh
skipped=
main
