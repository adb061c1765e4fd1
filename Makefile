# The words of the README and of .ci/run.

MODEL ?= models/all-MiniLM-L6-v2
ARGS ?=
JUDGE ?= smollm2
SECONDS ?= 60
# dev: what the tests were built with.
PROFILE ?= release
BIN = target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/assay

.PHONY: run build model test lint fuzz deny sbom clients judge ragas-compare bulk attack attack-quick deploy-check dashboard deploy-drill proxies report-test bench bench-peers bench-avx2 bench-serving bench-soak goldens ragas-goldens lexical-goldens help

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: model build ## Fetch the default model, build, and serve it on 127.0.0.1:50051
	$(BIN) --model $(MODEL) $(ARGS)

build: ## target/release/assay, or target/debug/assay with PROFILE=dev
	cargo build --profile $(PROFILE) --locked

model: $(MODEL)/model.safetensors ## The default model into models/all-MiniLM-L6-v2

models/all-MiniLM-L6-v2/model.safetensors:
	python3 deploy/fetch_model.py models/all-MiniLM-L6-v2

test: model ## All tests
	cargo test --locked

lint: ## Formatting and clippy with warnings denied, and the protocol by buf where it can be had
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	proto/lint.sh

fuzz: ## Every fuzz target for SECONDS each (60), on stable Rust; fuzz/README.md has the rest
	scripts/fuzz.sh $(SECONDS)

deny: ## Licences, bans, sources and advisories of all dependencies; ADVISORIES=skip where GitHub is out of reach
	scripts/deny.sh

sbom: ## All parts of the binary in CycloneDX, as assay.cdx.json, checked (cargo install --locked cargo-cyclonedx)
	cargo cyclonedx --format json --spec-version 1.5 --target x86_64-unknown-linux-gnu --override-filename assay.cdx
	python3 -m venv target/sbom-venv
	target/sbom-venv/bin/pip install --quiet 'cyclonedx-python-lib[json-validation]==11.12.0'
	target/sbom-venv/bin/python scripts/sbom.py assay.cdx.json

clients: model build ## The clients of clients/ against the binary; what they see goes into docs/CLIENTS.md
	clients/run.sh $(BIN) $(MODEL)

ragas-compare: model build ## The same samples scored by RAGAS and by Assay; ARGS="--judge-url URL --judge-model NAME" for a real judge
	ASSAY_BIN=$(BIN) ASSAY_MODEL_DIR=$(MODEL) clients/ragas_compare.sh $(ARGS)

bulk: model build ## Ray Data and PySpark over two sidecars, some of it killed; the figures go into docs/CLIENTS.md
	ASSAY_BIN=$(BIN) ASSAY_MODEL_DIR=$(MODEL) clients/bulk.sh $(ARGS)

attack: model build ## Attacks on the binary from this machine, with a polite caller beside each (ARGS=--help)
	python3 scripts/attack/attack.py $(BIN) $(MODEL) $(ARGS)

attack-quick: model build ## The most telling attacks, a few seconds each
	python3 scripts/attack/attack.py $(BIN) $(MODEL) --quick $(ARGS)

deploy-check: model build ## Manifests, chart, alerts and dashboard against linters, schemas and the binary
	deploy/check.sh $(BIN) $(MODEL)

dashboard: model build ## docs/dashboard.png: the dashboard with real data, 8 minutes of load (SECONDS_OF_LOAD)
	deploy/grafana/render/run.sh $(BIN) $(MODEL)

deploy-drill: model build ## The pods of the manifests, started, probed and ended in network namespaces; needs root
	deploy/drill.sh $(BIN) $(MODEL)

proxies: model build ## Envoy, nginx and HAProxy in front of replicas that come and go, and a browser by gRPC-Web (PROXIES=envoy)
	deploy/proxies/run.sh $(BIN) $(MODEL)

report-test: ## The report of evaluate in Chromium, which apt installs where it is missing
	tests/browser/prepare.sh
	cargo test --locked --test it report:: -- --nocapture

judge: model build ## Evaluate through a real judge, a small model on this machine (JUDGE=smollm2 or gemma3)
	scripts/judge/run.sh $(BIN) $(MODEL) $(JUDGE) $(ARGS)

bench: bench-peers bench-avx2 bench-serving ## All figures of docs/PERFORMANCE.md that a run can give

bench-serving: model ## The release binary over gRPC: start, unary calls and streams at full load, drain (ARGS=--help)
	cargo bench --locked --bench serving -- $(MODEL) --docs docs/PERFORMANCE.md $(ARGS)

bench-soak: model ## 64 callers for 10 minutes: memory and the event loop's lag
	cargo bench --locked --bench serving -- $(MODEL) --docs docs/PERFORMANCE.md --soak 600 $(ARGS)

bench-peers: model ## Assay beside its peers in process, into docs/PERFORMANCE.md; ARGS=--quick for a first look
	python3 -m venv target/bench-venv
	target/bench-venv/bin/pip install --quiet -r benches/peers/requirements.txt
	target/bench-venv/bin/python benches/peers/run.py --minilm $(MODEL) $(ARGS)
	target/bench-venv/bin/python benches/peers/report.py $(if $(filter --quick,$(ARGS)),--print)

bench-avx2: model ## The same where nothing that came after AVX2 can be seen, on MiniLM in f32
	python3 -m venv target/bench-venv
	target/bench-venv/bin/pip install --quiet -r benches/peers/requirements.txt
	target/bench-venv/bin/python benches/peers/run.py --minilm $(MODEL) --avx2 --models minilm \
		--engines st-f32 onnxruntime-f32 openvino-f32 assay-f32 $(ARGS)
	target/bench-venv/bin/python benches/peers/report.py --results target/bench/avx2.json

goldens: model ## Make the golden vectors again, in a private virtual environment
	python3 -m venv target/goldens-venv
	target/goldens-venv/bin/pip install --quiet -r tests/fixtures/requirements.txt
	target/goldens-venv/bin/python tests/fixtures/make_goldens.py --minilm models/all-MiniLM-L6-v2

ragas-goldens: ## Make ragas.json again with RAGAS itself, in a private virtual environment
	python3 -m venv target/ragas-venv
	target/ragas-venv/bin/pip install --quiet -r tests/fixtures/requirements-ragas.txt
	target/ragas-venv/bin/python tests/fixtures/make_ragas_goldens.py

lexical-goldens: ## Make the golden scores again, in a private virtual environment
	python3 -m venv target/lexical-venv
	target/lexical-venv/bin/pip install --quiet -r tests/fixtures/requirements-lexical.txt
	target/lexical-venv/bin/python tests/fixtures/make_lexical_goldens.py
