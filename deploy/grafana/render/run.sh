#!/bin/sh
# Draws the dashboard with real data, into docs/dashboard.png: two servers under load, a Prometheus that scrapes them, and
# the panels of assay.json over its answers. It is not Grafana: panels are drawn by Grafana's libraries @grafana/ui and
# @grafana/data in a page of our own, in headless Chromium.
#
#   deploy/grafana/render/run.sh [BINARY [MODEL_DIR [PNG]]]
#
# Defaults: $ASSAY_BIN or target/release/assay, $ASSAY_MODEL_DIR or models/all-MiniLM-L6-v2. SECONDS_OF_LOAD is 480. Needs
# python3, npm and Chromium; Prometheus is that of the PATH, or else Debian's package, unpacked and not installed.
set -eu

BIN=$(realpath "${1:-${ASSAY_BIN:-$(dirname "$0")/../../../target/release/assay}}")
MODEL=$(realpath "${2:-${ASSAY_MODEL_DIR:-$(dirname "$0")/../../../models/all-MiniLM-L6-v2}}")
cd "$(dirname "$0")/../../.."
PNG=${3:-docs/dashboard.png}

work=$PWD/target/dashboard
PATH=$PATH:$work/root/usr/bin
WIDTH=1440

main() {
    [ -x "$BIN" ] || fail "$BIN is not a program; build it, or name another"
    [ -d "$MODEL" ] || fail "$MODEL is not a directory; make model fetches it"
    browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || fail "there is no Chromium"
    rm -rf "$work/run"
    mkdir -p "$work/gen" "$work/run"
    prepare
    mkfifo "$work/run/told" "$work/run/hold"
    PYTHONPATH=$work/gen "$work/venv/bin/python" deploy/grafana/render/load.py \
        "$BIN" "$MODEL" "$work/run" "${SECONDS_OF_LOAD:-480}" <"$work/run/hold" >"$work/run/told" &
    exec 3>"$work/run/hold"
    read -r prometheus scrape from to <"$work/run/told" || fail "the load ended early; the logs are in $work/run"
    draw "file://$work/page.html?prometheus=$prometheus&scrape=$scrape&from=$from&to=$to"
    exec 3>&-
    wait
}

prepare() {
    [ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check -r deploy/grafana/render/requirements.txt
    "$work/venv/bin/python" -m grpc_tools.protoc -I proto --python_out "$work/gen" --grpc_python_out "$work/gen" proto/assay/v1/*.proto
    command -v prometheus >/dev/null || unpack_prometheus
    cp deploy/grafana/render/package.json deploy/grafana/render/page.html "$work/"
    (cd "$work" && npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts --legacy-peer-deps)
    NODE_PATH=$work/node_modules "$work/node_modules/.bin/esbuild" deploy/grafana/render/page.jsx --bundle --minify \
        --jsx=automatic --define:process.env.NODE_ENV=\"production\" --loader:.svg=dataurl --loader:.woff2=dataurl \
        --loader:.woff=empty --loader:.ttf=empty --log-level=error --outfile="$work/page.js"
}

unpack_prometheus() {
    rm -rf "$work/deb"
    mkdir -p "$work/deb"
    (cd "$work/deb" && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb "$work/root") ||
        fail "there is no Prometheus, and Debian's package could not be fetched"
}

# The page says in its console which panel has no data; that is a failure. A palette keeps the picture small.
draw() {
    height=$("$work/venv/bin/python" -c "import json
print(max((p['gridPos']['y'] + p['gridPos']['h']) * 38 for p in json.load(open('deploy/grafana/assay.json'))['panels']) + 16)")
    "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files --enable-logging=stderr \
        --window-size="$WIDTH,$height" --virtual-time-budget=30000 --screenshot="$work/run/page.png" "$1" 2>"$work/run/chromium.log"
    if grep -F CONSOLE "$work/run/chromium.log" | grep -E 'no data|Error' >&2; then
        fail "the page has mistakes"
    fi
    "$work/venv/bin/python" -c "import sys
from PIL import Image
picture = Image.open(sys.argv[1]).convert('RGB').quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
picture.save(sys.argv[2], optimize=True)" "$work/run/page.png" "$PNG"
    echo "$PNG has $(wc -c <"$PNG") bytes"
}

fail() {
    echo "FAILED: $1" >&2
    exit 1
}

main
