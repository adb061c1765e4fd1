#!/bin/sh
# Runs python/bulk_checks.py and python/bulk_drill.py, and writes the results into docs/CLIENTS.md.
#
#   clients/bulk.sh [--rows N] [--rounds N] [--only DRIVER ...]
#
# Defaults: $ASSAY_BIN or target/release/assay, $ASSAY_MODEL_DIR or models/all-MiniLM-L6-v2. Needs python3 and, for Spark,
# a JRE (17 or newer). Fetches Ray and Spark into target/. Takes a quarter of an hour on two cores.
set -eu

BIN=$(realpath "${ASSAY_BIN:-$(dirname "$0")/../target/release/assay}")
MODEL=$(realpath "${ASSAY_MODEL_DIR:-$(dirname "$0")/../models/all-MiniLM-L6-v2}")
cd "$(dirname "$0")/.."

main() {
    command -v java >/dev/null || fail "Spark needs java, which is not installed"
    prepare_venv bulk-venv clients/python/requirements-bulk.txt
    clients/python/generate.sh
    export PYTHONPATH=clients/python/gen
    "$PYTHON" clients/python/bulk_checks.py
    "$PYTHON" clients/python/bulk_drill.py "$BIN" "$MODEL" --docs docs/CLIENTS.md "$@"
}

. clients/serve.sh
main "$@"
