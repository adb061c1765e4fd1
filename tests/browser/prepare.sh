#!/bin/sh
# Brings what tests/it/report.rs needs: Chromium from Debian, where it is missing and may be installed, and
# playwright-core from npm into target/browser. What can't be had is told, and the test then says that it is skipped.
set -eu
cd "$(dirname "$0")/../.."

have_chromium() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null
}

skip() {
    echo "SKIPPED: no report test: $1" >&2
    exit 0
}

if ! have_chromium; then
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || skip "Chromium is missing; install it"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-noto-cjk >/dev/null ||
        skip "apt could not install chromium"
fi
command -v npm >/dev/null || skip "npm is missing"
mkdir -p target/browser
cp tests/browser/package.json target/browser/
npm install --silent --no-audit --no-fund --prefix target/browser || skip "npm could not install playwright-core"
