#!/bin/sh
# Starts servers and runs every client against them.
#
#   clients/run.sh [BINARY [MODEL_DIR]]
#
# Defaults: $ASSAY_BIN or target/release/assay, $ASSAY_MODEL_DIR or models/all-MiniLM-L6-v2. Needs python3; go for the
# Go client and grpcurl, node with npm for the Node client. What is missing is skipped with a loud line.
set -eu

BIN=$(realpath "${1:-${ASSAY_BIN:-$(dirname "$0")/../target/release/assay}}")
MODEL=$(realpath "${2:-${ASSAY_MODEL_DIR:-$(dirname "$0")/../models/all-MiniLM-L6-v2}}")
cd "$(dirname "$0")/.."

main() {
    [ -x "$BIN" ] || fail "$BIN is not a program; build it, or name another"
    [ -d "$MODEL" ] || fail "$MODEL is not a directory"
    prepare_venv clients-venv clients/python/requirements.txt
    clients/python/generate.sh
    start_all
    run_python
    with go "the Go client and grpcurl" run_go
    with npm "the Node client" run_node
    title "stop"
    stop_servers
    # Again at the end, where it is seen.
    echo "clients passed${skipped:+, SKIPPED $skipped}"
}

# Two replicas, one of them with the stand-in for a judge; one that evaluates one sample at a time; one without a model.
start_all() {
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
    start_server full --config "$work/judged.toml" --max-evaluations 1
    full=$address
    start_cold_server cold
    cold=$address
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
    title "Python: smoke_channel.py"
    "$PYTHON" clients/python/smoke_channel.py "$address" "$judged" "$full" "$cold"
    title "Python: smoke_async.py"
    "$PYTHON" clients/python/smoke_async.py "$address" "unix:$socket" "$judged" "$full" "$cold"
}

run_go() {
    clients/go/generate.sh
    title "Go: example"
    go -C clients/go run ./example "$address"
    title "Go: smoke"
    go -C clients/go vet ./...
    go -C clients/go run . "$address" "unix:$socket" "$judged" "$full" "$cold"
    title "grpcurl"
    clients/grpcurl.sh "$address" "$admin" "$socket" "$judged"
}

run_node() {
    npm --prefix clients/node ci --silent --ignore-scripts --no-audit --no-fund
    title "Node: example.js"
    node clients/node/example.js "$address"
    title "Node: smoke.js"
    node clients/node/smoke.js "$address" "unix:$socket" "$judged" "$full" "$cold"
}

# Runs a function where a program is there, or else says loudly what is skipped.
with() {
    if command -v "$1" >/dev/null; then
        "$3"
    else
        echo "SKIPPED: $2, as $1 is not installed" >&2
        skipped="${skipped:+$skipped; }$2, as $1 is not installed"
    fi
}

. clients/serve.sh
skipped=
main
