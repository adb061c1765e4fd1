#!/bin/sh
# Starts servers, runs every client against them, and writes the results into docs/CLIENTS.md.
#
#   clients/run.sh [BINARY [MODEL_DIR]]
#
# Defaults: $ASSAY_BIN or target/release/assay, $ASSAY_MODEL_DIR or models/all-MiniLM-L6-v2. Needs python3 and openssl;
# go for the Go client and grpcurl, node with npm for the Node client, a JDK with mvn for the Java client. If one is
# missing, its clients are skipped with a warning, and docs/CLIENTS.md is not changed.
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
    set -- "$address" "unix:$socket" "$judged" "$full" "$cold" "$tls" "$mutual" "$certificates"
    with go "the Go client and grpcurl" run_go "$@"
    with "node npm" "the Node client" run_node "$@"
    with "javac mvn" "the Java client" run_java "$@"
    title "stop"
    stop_servers
    [ -n "$skipped" ] || python3 clients/matrix.py docs/CLIENTS.md "$work"
    # Again at the end, where it is seen.
    echo "clients passed${skipped:+, SKIPPED $skipped}"
}

# Two replicas, one of them with the stand-in for a judge; one that evaluates one sample at a time; one without a model;
# one with TLS and tokens, and one that wants a client's certificate besides.
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
    certificates=$work/certificates
    mkdir "$certificates"
    clients/certificates.sh "$certificates"
    set -- --tls-cert "$certificates/server.pem" --tls-key "$certificates/server.key" --token-file "$certificates/tokens"
    start_server tls "$@"
    # By a name, as Node warns of certificates for addresses.
    tls=localhost:${address##*:}
    start_server mutual "$@" --tls-client-ca "$certificates/ca.pem"
    mutual=localhost:${address##*:}
    start_server plain
    socket=$work/plain.sock
}

run_python() {
    export PYTHONPATH=clients/python/gen
    client python "$PYTHON" clients/python/example.py "$address"
    client python "$PYTHON" clients/python/example_evaluate.py "$judged"
    client python "$PYTHON" clients/python/smoke.py "$address" "unix:$socket"
    client python "$PYTHON" clients/python/smoke_evaluate.py "$address" "$judged"
    client python "$PYTHON" clients/python/smoke_channel.py "$address" "$judged" "$full" "$cold"
    # Handshakes fail on purpose there, and what grpc logs of them is no news.
    client python env GRPC_VERBOSITY=NONE "$PYTHON" clients/python/smoke_tls.py "$tls" "$mutual" "$certificates"
    client asyncio "$PYTHON" clients/python/smoke_async.py "$address" "unix:$socket" "$judged" "$full" "$cold"
    client asyncio env GRPC_VERBOSITY=NONE "$PYTHON" clients/python/smoke_tls_async.py "$tls" "$mutual" "$certificates"
}

run_go() {
    clients/go/generate.sh
    go -C clients/go vet ./...
    client go go -C clients/go run ./example "$address"
    client go go -C clients/go run . "$@"
    title "grpcurl"
    clients/grpcurl.sh "$address" "$admin" "$socket" "$judged" "$mutual" "$certificates"
}

run_node() {
    npm --prefix clients/node ci --silent --ignore-scripts --no-audit --no-fund
    client node node clients/node/example.js "$address"
    client node node clients/node/smoke.js "$@"
}

run_java() {
    mvn --file clients/java/pom.xml --batch-mode --no-transfer-progress --quiet compile
    export CLASSPATH="clients/java/target/classes:$(cat clients/java/target/classpath)"
    client java java dev.assay.clients.Example "$address"
    client java java dev.assay.clients.Smoke "$@"
}

# Runs a program, shows what it says, and keeps it under a name for the matrix.
client() {
    said=$work/$1.said
    shift
    title "$*"
    code=0
    "$@" >"$work/said" 2>&1 || code=$?
    cat "$work/said"
    cat "$work/said" >>"$said"
    [ "$code" -eq 0 ] || fail "the exit code of $1 is $code"
}

# Runs a function with its arguments where programs are there, or else says loudly what is skipped.
with() {
    programs=$1 what=$2
    shift 2
    for program in $programs; do
        if ! command -v "$program" >/dev/null; then
            echo "SKIPPED: $what, as $program is not installed" >&2
            skipped="${skipped:+$skipped; }$what, as $program is not installed"
            return
        fi
    done
    "$@"
}

. clients/serve.sh
skipped=
main
