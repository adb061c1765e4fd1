#!/bin/sh
# Starts one server and runs every client against it.
#
#   clients/run.sh [BINARY [MODEL_DIR]]
#
# Defaults: $ASSAY_BIN or target/release/assay, $ASSAY_MODEL_DIR or models/all-MiniLM-L6-v2. Needs python3, and go
# for the Go client and grpcurl; all that it installs goes into target/.
set -eu

BIN=$(realpath "${1:-${ASSAY_BIN:-$(dirname "$0")/../target/release/assay}}")
MODEL=$(realpath "${2:-${ASSAY_MODEL_DIR:-$(dirname "$0")/../models/all-MiniLM-L6-v2}}")
cd "$(dirname "$0")/.."

READY_SECONDS=120

main() {
    work=$(mktemp -d /tmp/assay-clients.XXXXXX)
    server=
    trap clean_up EXIT
    trap 'exit 130' INT TERM

    [ -x "$BIN" ] || fail "$BIN is not a program; build it, or name another"
    [ -d "$MODEL" ] || fail "$MODEL is not a directory"
    prepare_python
    start_server
    run_python
    if command -v go >/dev/null; then
        run_go
    else
        skipped="the Go client and grpcurl: go is not installed"
        echo "SKIPPED: $skipped" >&2
    fi
    stop_server
    # Again at the end, where it is seen.
    echo "clients passed${skipped:+, SKIPPED $skipped}"
}

clean_up() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        echo "--- the server's log" >&2
        cat "$work/log" >&2
    fi
    rm -rf "$work"
}

prepare_python() {
    venv=$PWD/target/clients-venv
    requirements=clients/python/requirements.txt
    if ! cmp -s "$requirements" "$venv/requirements.txt"; then
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
        cp "$requirements" "$venv/requirements.txt"
    fi
    export PYTHON="$venv/bin/python"
    clients/python/generate.sh
}

start_server() {
    "$BIN" --model "$MODEL" --listen "127.0.0.1:0,unix:$work/assay.sock" --admin-listen 127.0.0.1:0 \
        --log-format json >"$work/log" 2>&1 &
    server=$!
    address=$(announced listen)
    admin=$(announced admin)
    address=${address%%,*}
    deadline=$(($(date +%s) + READY_SECONDS))
    until "$BIN" healthcheck --address "$address" >/dev/null 2>&1; do
        kill -0 "$server" 2>/dev/null || fail "the server ended"
        [ "$(date +%s)" -lt "$deadline" ] || fail "the server is not ready after $READY_SECONDS s"
        sleep 0.2
    done
    echo "serving on $address, unix:$work/assay.sock and, for probes, $admin"
}

# A field of the log line that says where the server listens.
announced() {
    for _ in $(seq 100); do
        value=$(sed -n 's/.*"message":"listening.*"'"$1"'":"\([^"]*\)".*/\1/p' "$work/log")
        if [ -n "$value" ]; then
            echo "$value"
            return
        fi
        sleep 0.1
    done
    fail "the server does not say where it listens"
}

run_python() {
    export PYTHONPATH=clients/python/gen
    title "Python: example.py"
    "$PYTHON" clients/python/example.py "$address"
    title "Python: smoke.py"
    "$PYTHON" clients/python/smoke.py "$address" "unix:$work/assay.sock"
    title "Python: smoke_async.py"
    "$PYTHON" clients/python/smoke_async.py "$address"
}

run_go() {
    clients/go/generate.sh
    title "Go: example"
    go -C clients/go run ./example "$address"
    title "Go: smoke"
    go -C clients/go vet ./...
    go -C clients/go run . "$address" "unix:$work/assay.sock"
    title "grpcurl"
    clients/grpcurl.sh "$address" "$admin" "$work/assay.sock"
}

stop_server() {
    title "stop"
    kill -TERM "$server"
    code=0
    wait "$server" || code=$?
    [ "$code" -eq 0 ] || fail "the server's exit code after SIGTERM is $code"
    server=
    ! grep '"level":"ERROR"' "$work/log" || fail "the server logged errors"
    [ ! -e "$work/assay.sock" ] || fail "the server left its socket behind"
    echo "the server stopped with exit code 0"
}

title() {
    printf '\n== %s\n' "$1"
}

fail() {
    echo "FAILED: $1" >&2
    exit 1
}

skipped=
main
