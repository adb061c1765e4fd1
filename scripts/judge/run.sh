#!/bin/sh
# Starts a real OpenAI-compatible server with a small model, Assay with it as its judge, and evaluates through both.
#
#   scripts/judge/run.sh BINARY MODEL_DIR [JUDGE [ASSAY_ARGUMENT...]]
#
# JUDGE is smollm2 (the default) or gemma3. Such small models judge badly: what is checked is that every metric ends
# with a typed result in time, not that the scores are good. All that it installs goes into target/ and models/; the
# first run compiles the server (some minutes). Environment:
#
#   JUDGE_THREADS   threads of the model (default 1)
#   JUDGE_SECONDS   deadline of each call (default 300)
set -eu

BIN=$(realpath "$1")
MODEL=$(realpath "$2")
JUDGE=${3:-smollm2}
shift $(($# < 3 ? $# : 3))
cd "$(dirname "$0")/../.."

READY_SECONDS=120
HERE=scripts/judge
VENV=$PWD/target/judge-venv
WHEELS=$PWD/target/wheels
SERVER=llama-cpp-python==0.3.16

main() {
    work=$(mktemp -d /tmp/assay-judge.XXXXXX)
    judge=
    assay=
    trap clean_up EXIT
    trap 'exit 130' INT TERM

    [ -x "$BIN" ] || fail "$BIN is not a program; build it, or name another"
    [ -d "$MODEL" ] || fail "$MODEL is not a directory"
    prepare_python
    weights=$("$VENV/bin/python" $HERE/fetch_model.py "$JUDGE" models/judge)
    start_judge
    start_assay "$@"
    evaluate
    stop_assay
    echo "judge passed: $JUDGE"
}

clean_up() {
    code=$?
    [ -z "$assay" ] || kill "$assay" 2>/dev/null || true
    # It would finish its answer first, and has nothing to lose.
    [ -z "$judge" ] || kill -KILL "$judge" 2>/dev/null || true
    wait
    if [ "$code" -ne 0 ]; then
        for log in judge assay; do
            [ ! -s "$work/$log" ] || { echo "--- the end of $log's log"; tail -n 40 "$work/$log"; } >&2
        done
    fi
    rm -rf "$work"
}

prepare_python() {
    cat $HERE/requirements.txt clients/python/requirements.txt >"$work/wanted"
    if ! cmp -s "$work/wanted" "$VENV/wanted.txt"; then
        python3 -m venv --clear "$VENV"
        build_server
        "$VENV/bin/pip" install --quiet --disable-pip-version-check --find-links "$WHEELS" -r $HERE/requirements.txt
        cp "$work/wanted" "$VENV/wanted.txt"
    fi
    PYTHON="$VENV/bin/python" clients/python/generate.sh
}

# There is no wheel of it on PyPI. The one that is made here stays, for the next environment.
build_server() {
    if ! ls "$WHEELS"/llama_cpp_python-"${SERVER#*==}"-*.whl >/dev/null 2>&1; then
        echo "compiling $SERVER, which takes some minutes"
        CMAKE_BUILD_PARALLEL_LEVEL=2 CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_CURL=OFF" \
            nice -n 19 "$VENV/bin/pip" wheel --quiet --disable-pip-version-check --no-deps \
            --wheel-dir "$WHEELS" "$SERVER"
    fi
}

start_judge() {
    port=$("$VENV/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    url=http://127.0.0.1:$port/v1
    nice -n 19 "$VENV/bin/python" -m llama_cpp.server --host 127.0.0.1 --port "$port" --model "$weights" \
        --model_alias "$JUDGE" --n_ctx 8192 --n_threads "${JUDGE_THREADS:-1}" \
        --n_threads_batch "${JUDGE_THREADS:-1}" --verbose false >"$work/judge" 2>&1 &
    judge=$!
    await "$judge" "the judge's server" \
        "$VENV/bin/python" -c "import urllib.request; urllib.request.urlopen('$url/models', timeout=2).read()"
    echo "the judge $JUDGE is at $url"
}

start_assay() {
    "$BIN" --model "$MODEL" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --log-format json \
        --judge-url "$url" --judge-model "$JUDGE" --judge-concurrency 2 --judge-timeout 120s \
        --judge-max-tokens 384 "$@" >"$work/assay" 2>&1 &
    assay=$!
    await "$assay" assay announced
    address=$(announced)
    await "$assay" assay "$BIN" healthcheck --address "$address"
    echo "assay serves on $address"
}

# Asks until the answer is yes, while process $1 lives, at most READY_SECONDS.
await() {
    process=$1 name=$2
    shift 2
    deadline=$(($(date +%s) + READY_SECONDS))
    until "$@" >/dev/null 2>&1; do
        kill -0 "$process" 2>/dev/null || fail "$name ended"
        [ "$(date +%s)" -lt "$deadline" ] || fail "$name is not ready after $READY_SECONDS s"
        sleep 0.2
    done
}

# Where assay says that it listens.
announced() {
    sed -n 's/.*"message":"listening.*"listen":"\([^"]*\)".*/\1/p' "$work/assay" | grep .
}

evaluate() {
    PYTHONPATH=clients/python/gen "$VENV/bin/python" $HERE/evaluate.py "$address" "${JUDGE_SECONDS:-300}"
    kill -0 "$assay" 2>/dev/null || fail "assay ended"
    "$BIN" healthcheck --address "$address" >/dev/null || fail "assay is not SERVING after the evaluation"
}

stop_assay() {
    kill -TERM "$assay"
    code=0
    wait "$assay" || code=$?
    [ "$code" -eq 0 ] || fail "assay's exit code after SIGTERM is $code"
    assay=
    ! grep -E '"level":"ERROR"|panicked' "$work/assay" || fail "assay logged errors"
    echo "what assay warned of:"
    sed -n 's/.*"level":"WARN".*"message":"\([^"]*\)".*/  \1/p' "$work/assay" | sort | uniq -c
}

fail() {
    echo "FAILED: $1" >&2
    exit 1
}

main "$@"
