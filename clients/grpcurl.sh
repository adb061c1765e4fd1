#!/bin/sh
# Calls a running server with two versions of grpcurl, one that uses reflection v1 and one that supports only v1alpha, and
# prints the commands and their output.
#
#   clients/grpcurl.sh HOST:PORT ADMIN_HOST:PORT [SOCKET_PATH [JUDGED_HOST:PORT [MUTUAL_HOST:PORT DIRECTORY]]]
#
# The last server requires a token and a client certificate; the directory is that of certificates.sh.
set -eu

NEW=1.9.3
OLD=1.8.7 # The last before reflection v1.

address=$1
admin=$2
socket=${3:-}
judged=${4:-}
mutual=${5:-}
pem=${6:-}
tools=$(cd "$(dirname "$0")/.." && pwd)/target/tools
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

main() {
    for version in $NEW $OLD; do
        install "$version"
        printf '\n== grpcurl %s\n' "$version"
        calls
    done
}

install() {
    grpcurl=$tools/grpcurl-$1/grpcurl
    [ -x "$grpcurl" ] || GOBIN=$(dirname "$grpcurl") go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$1"
}

calls() {
    show assay.v1.EmbeddingService -plaintext "$address" list
    show 'rpc Embed ' -plaintext "$address" describe assay.v1.EmbeddingService
    show '"dimensions": 4' -plaintext -d '{"inputs": ["A red fox."], "options": {"dimensions": 4}}' \
        "$address" assay.v1.EmbeddingService/Embed
    show STATE_READY -plaintext "$address" assay.v1.ServerService/GetServerInfo
    show SERVING -plaintext "$address" grpc.health.v1.Health/Check
    show SERVING -plaintext -d '{"service": "liveness"}' "$address" grpc.health.v1.Health/Check

    # Every detail of a refusal is readable.
    show fieldViolations -plaintext -d '{"inputs": ["A red fox.", ""]}' \
        "$address" assay.v1.EmbeddingService/Embed

    # Two messages in, an answer to each: the second is empty, which is its own error alone.
    printf '%s\n' '{"id": "a", "input": "A red fox.", "options": {"dimensions": 4}}' '{"id": "b"}' >"$work/stdin"
    show fieldViolations -plaintext -d @ "$address" assay.v1.EmbeddingService/EmbedStream

    # Without a judge there are the scores that need none.
    evaluate METRIC_STATUS_JUDGE_NOT_CONFIGURED "$address"
    grep -qF METRIC_STATUS_OK "$work/stdout" || fail "no metric has a score"
    show noise_sensitivity -plaintext "$address" assay.v1.EvaluationService/ListMetrics
    if [ -n "$judged" ]; then
        evaluate endCodePoint "$judged"
        printf '%s\n' "{\"id\": \"a\", \"request\": $sample}" >"$work/stdin"
        show coverage -plaintext -d @ "$judged" assay.v1.EvaluationService/EvaluateStream
    fi

    show SERVING -plaintext "$admin" grpc.health.v1.Health/Check

    if [ -n "$mutual" ]; then
        set -- -cacert "$pem/ca.pem" -cert "$pem/client.pem" -key "$pem/client.key"
        # Reflection needs the token, too.
        show 'bearer token missing' "$@" "$mutual" list
        show STATE_READY "$@" -H "authorization: Bearer $(cat "$pem/token")" \
            "$mutual" assay.v1.ServerService/GetServerInfo
    fi

    if [ -n "$socket" ]; then
        case $version in
        # It sends the path as the authority, which is none by the rules of HTTP.
        "$OLD") show SERVING -plaintext -unix -authority localhost "$socket" grpc.health.v1.Health/Check ;;
        *) show SERVING -plaintext "unix:$socket" grpc.health.v1.Health/Check ;;
        esac
    fi
}

sample='{
  "sample": {
    "user_input": "When did the Halden Bridge open?",
    "response": "The Halden Bridge opened in 1962. It is painted green.",
    "retrieved_contexts": [{"text": "It took three years to build. The Halden Bridge opened on 4 May 1962."}],
    "reference": "The Halden Bridge opened on 4 May 1962."
  },
  "metrics": [{"name": "faithfulness"}, {"name": "token_f1"}]
}'

evaluate() {
    printf '%s\n' "$sample" >"$work/stdin"
    show "$1" -plaintext -d @ "$2" assay.v1.EvaluationService/Evaluate
}

# Prints a call and its answer, which must hold $1. Its stdin is $work/stdin.
show() {
    expected=$1
    shift
    printf '\n$ grpcurl'
    for argument; do
        case $argument in
        *[\ {]*) printf " '%s'" "$argument" ;;
        *) printf ' %s' "$argument" ;;
        esac
    done
    [ -s "$work/stdin" ] && printf " <<'END'\n%s\nEND" "$(cat "$work/stdin")"
    printf '\n'
    touch "$work/stdin"
    # A call that fails as it should is an answer, too.
    "$grpcurl" "$@" <"$work/stdin" >"$work/stdout" 2>&1 || true
    : >"$work/stdin"
    cat "$work/stdout"
    grep -qF -e "$expected" "$work/stdout" || fail "no '$expected' in the answer"
}

fail() {
    echo "FAILED: $1" >&2
    exit 1
}

main
