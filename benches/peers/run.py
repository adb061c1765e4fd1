#!/usr/bin/env python3
"""Comparison of Assay with other engines: texts to unit vectors, in process. Results are written to target/bench/.

For each model, every engine is started alone, its vectors are compared with those of sentence-transformers in f32,
and its batch policies are tried; then all that agree are started anew, warmed, and measured in turns, round after
round, each with its best policy. A fixed loop on the same cores, the gauge, runs beside every measurement.
"""

import argparse
import contextlib
import fcntl
import json
import sys
from pathlib import Path

import engines
import host
import models
import native
import workloads
from contest import Contest
from scaling import measure_scaling

REFERENCE = "st-f32"
QUICK = [REFERENCE, "onnxruntime-int8", "openvino-bf16", "assay"]


def main() -> None:
    options = arguments()
    out = models.ROOT / "target/bench"
    results_file = options.results or out / f"{'avx2' if options.avx2 else 'results'}.json"
    program = options.native or native.executable()
    results = {
        "host": host.describe(options.threads, options.avx2), "rounds": options.rounds, "quick": options.quick,
        "models": {},
    }
    if options.append and results_file.exists():
        results = json.loads(results_file.read_text()) | {"host": results["host"]}
    for model in options.models:
        directory = models.prepare(model, options.minilm, out / "models")
        described = workloads.write(directory, model != "minilm", out / "workloads" / model)
        contest = Contest(
            options, program, directory, out, {name: described[name] for name in options.workloads},
            described["accuracy"], with_lock(options.lock),
        )
        kept = results["models"].get(model, {}).get("engines", {})
        results["models"][model] = entry = {
            "title": models.NAMES[model], "mflop": models.mflop(directory),
            "workloads": {name: summary(work) for name, work in described.items()}, "engines": kept,
        }
        for name in options.engines:
            kept[name] = contest.audition(name)
            save(results, results_file)
        contest.play({name: kept[name] for name in options.engines if "policies" in kept[name]})
        save(results, results_file)
        ours = [name for name in options.engines if name.startswith("assay")]
        if ours and not options.quick:
            entry["scaling"] = measure_scaling(contest, ours[0], described)
    results["machine"] = contest.machine_peaks()
    save(results, results_file)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minilm", type=Path, default=models.ROOT / "models/all-MiniLM-L6-v2")
    parser.add_argument("--models", nargs="+", choices=models.NAMES, default=list(models.NAMES))
    parser.add_argument("--engines", nargs="+", help=f"engines to run: {', '.join(engines.PEERS)}, candle-f32, assay, assay-PRECISION")
    parser.add_argument("--workloads", nargs="+", choices=["w1", "w2", "w3", "w4"])
    parser.add_argument("--policies", nargs="+", help="try only these batch policies, such as one sorted8 sorted32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true", help="only MiniLM, one round of W1 and W3, few peers")
    parser.add_argument("--avx2", action="store_true", help="hide instruction sets newer than AVX2 from every engine")
    parser.add_argument("--native", help="path of a built bench target `engine`")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--append", action="store_true", help="keep existing results of other engines")
    parser.add_argument("--lock", type=Path, help="file to lock during each measurement")
    options = parser.parse_args()
    if options.quick:
        options.models = ["minilm"]
    options.engines = options.engines or (QUICK if options.quick else [*engines.PEERS, "candle-f32", "assay"])
    if REFERENCE in options.engines:
        # Other engines are compared with this one.
        options.engines = [REFERENCE, *(name for name in options.engines if name != REFERENCE)]
    options.workloads = options.workloads or (["w1", "w3"] if options.quick else ["w1", "w2", "w3", "w4"])
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def summary(work: dict) -> dict:
    """Removes the large parts of a result."""
    squares = sum(length * length for length in work["lengths"])
    return {"texts": work["texts"], "tokens": work["tokens"], "token_squares": squares}


def with_lock(file: Path | None):
    """A context that holds an exclusive lock."""

    @contextlib.contextmanager
    def locked():
        with file.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    return locked if file else contextlib.nullcontext


def save(results: dict, file: Path) -> None:
    """Writes results immediately, so that an aborted run keeps its measurements."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    sys.exit(main())
