#!/bin/sh
# Scores the same samples with RAGAS and with Assay; see python/coming_from_ragas.md.
#
#   clients/ragas_compare.sh [--judge-url URL --judge-model NAME]
#
# Without a URL the judge is the stand-in, which takes 0.2 s for an answer. The key of a judge that wants one is
# taken from OPENAI_API_KEY. Defaults: $ASSAY_BIN or target/release/assay, $ASSAY_MODEL_DIR or
# models/all-MiniLM-L6-v2. Fetches RAGAS into target/.
set -eu

BIN=$(realpath "${ASSAY_BIN:-$(dirname "$0")/../target/release/assay}")
MODEL=$(realpath "${ASSAY_MODEL_DIR:-$(dirname "$0")/../models/all-MiniLM-L6-v2}")
cd "$(dirname "$0")/.."

main() {
    if [ $# -eq 0 ]; then
        start_judge --delay 0.2
        set -- --judge-url "$judge_url" --judge-model stand-in
    fi
    # The modules are generated with the one, and used by the other.
    prepare_venv clients-venv clients/python/requirements.txt
    clients/python/generate.sh
    prepare_venv ragas-compare-venv clients/python/requirements-ragas.txt
    start_server judged "$@"
    PYTHONPATH=clients/python/gen "$PYTHON" clients/python/coming_from_ragas.py "$address" "$@"
    stop_servers
}

. clients/serve.sh
main "$@"
