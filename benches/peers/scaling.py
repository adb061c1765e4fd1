"""How the time of our engine grows with texts and with their length."""

import statistics

ROUNDS = 3


def measure_scaling(contest, name: str, described: dict[str, dict]) -> dict[str, dict]:
    """Seconds of each workload whose name begins with texts- or tokens-, the median of three after a first one."""
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
