#!/bin/sh
# buf lint over proto/. Takes buf from PATH, or its npm package into target/tools.
set -eu
cd "$(dirname "$0")/.."

BUF_VERSION=1.75.0
buf=$(command -v buf || true)
if [ -z "$buf" ] && command -v npm >/dev/null; then
    npm install --silent --no-fund --no-audit --prefix target/tools/npm "@bufbuild/buf@$BUF_VERSION"
    buf=target/tools/npm/node_modules/.bin/buf
fi
if [ -z "$buf" ]; then
    echo "SKIPPED: buf lint needs buf or npm" >&2
    exit 0
fi
"$buf" lint proto
