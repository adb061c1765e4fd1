"""Scaling of Assay with the number and length of texts."""

import statistics

ROUNDS = 3


def measure_scaling(contest, name: str, described: dict[str, dict]) -> dict[str, dict]:
    """Seconds per workload named texts-* or tokens-*: median of three runs after a warm-up run."""
    works = {key: work for key, work in described.items() if key.startswith(("texts-", "tokens-"))}
    measured = {}
    with contest.locked():
        engine = contest.start(name, works)
        for key, work in works.items():
            runs = [contest.timed(engine, key, "whole") for _ in range(ROUNDS + 1)][1:]
            seconds = [run["seconds"] for run in runs]
            measured[key] = {
                "texts": work["texts"], "tokens": work["tokens"], "seconds": statistics.median(seconds),
                "range": [min(seconds), max(seconds)],
            }
        engine.close()
    return measured
