#!/usr/bin/env python3
"""Writes the result tables between their markers in docs/PERFORMANCE.md, and docs/peers.svg."""

import argparse
import json
import statistics
from pathlib import Path

import plot
from accuracy import LEAST_COSINE
from contest import DISTURBED
from engines import title
from models import ROOT

HEADINGS = {"w1": "W1, ms", "w2": "W2, ms", "w3": "W3, s", "w3-sorted32": "W3 sorted in 32s, s", "w4": "W4, s"}
UNIT = {"w1": 1e3, "w2": 1e3}
POLICIES = {
    "one": "one by one", "onex2": "one by one, 2 at a time", "given32": "32s as given", "whole": "one call",
    "sorted8": "sorted 8s", "sorted32": "sorted 32s", "sorted8x2": "sorted 8s, 2 at a time",
    "sorted32x2": "sorted 32s, 2 at a time",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "target/bench/results.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/PERFORMANCE.md")
    parser.add_argument("--print", action="store_true", help="print the tables without changing files")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    made, held = section(results), results["host"]["held_to_avx2"]
    if options.print:
        print(made)
        return
    page = options.page.read_text(encoding="utf-8")
    begin, end = (f"<!-- {'avx2' if held else 'peers'}:{place} -->" for place in ("begin", "end"))
    before, rest = page.split(begin, 1)
    after = rest.split(end, 1)[1]
    options.page.write_text(f"{before}{begin}\n{made}\n{end}{after}", encoding="utf-8")
    if not held:
        (options.page.parent / "peers.svg").write_text(plot.svg(results), encoding="utf-8")


def section(results: dict) -> str:
    """The text between the markers."""
    parts = [_machine(results)]
    if results.get("machine"):
        parts.append(_limits(results["machine"]))
    for entry in results["models"].values():
        parts += [f"### {entry['title']}", _workloads(entry), _times(entry), _agreement(entry)]
        parts += [_ratios(entry), _shares(entry, results.get("machine", {})), _tried(entry)]
        if "scaling" in entry:
            parts.append(_scaling(entry["scaling"]))
    return "\n\n".join(part for part in parts if part)


def medians(entry: dict, name: str) -> dict[str, float]:
    """Seconds per workload of an engine."""
    rounds = entry["engines"][name].get("rounds", [])
    return {work: statistics.median(r[work]["seconds"] for r in rounds) for work in (rounds[0] if rounds else [])}


def ours(entry: dict) -> str | None:
    """The default configuration of Assay, or else its first precision in the results."""
    names = [name for name in entry["engines"] if name.startswith("assay") and medians(entry, name)]
    return "assay" if "assay" in names else next(iter(names), None)


def _machine(results: dict) -> str:
    host = results["host"]
    held = " All that came after AVX2 was hidden from every engine." if host["held_to_avx2"] else ""
    return (
        f"Machine: {host['processor']} (family/model {host['family_model']}), {host['cores']} cores, "
        f"{host['threads']} threads for each engine, {host['memory_gib']} GiB, Linux {host['kernel']}. Seen: "
        f"{', '.join(host['seen'])}; not seen: {', '.join(host['not_seen']) or 'nothing of note'}. Rust {host['rust']}, "
        f"Python {host['python']}. {results['rounds']} rounds, engines in turns; medians, in brackets the range.{held}"
    )


def _limits(machine: dict) -> str:
    rows = [
        [name, f"{rate['one']:,.0f}", f"{rate['all']:,.0f}"] for name, rate in machine.items()
    ]
    return "Limits of the machine, measured in the same run (GFLOP/s, GOP/s, GB/s):\n\n" + table(
        ["limit", "1 core", "all threads"], rows
    )


def _workloads(entry: dict) -> str:
    told = []
    for name in ("w1", "w2", "w3", "w4"):
        work = entry["workloads"][name]
        told.append(f"{name.upper()} {work['texts']} text{'s' * (work['texts'] > 1)}, {work['tokens']:,} tokens")
    return "Text in, unit vectors out: " + "; ".join(told) + "."


def _times(entry: dict) -> str:
    works = [work for work in HEADINGS if any(work in medians(entry, name) for name in entry["engines"])]
    rows = []
    for name, engine in entry["engines"].items():
        if not engine.get("rounds"):
            continue
        cells = [_cell(engine, work) for work in works]
        memory = f"{engine['memory']['bytes'] / 2**20:,.0f}" if "memory" in engine else ""
        rows.append((medians(entry, name).get("w3", 0), [f"{title(name)} ({engine['version']})", *cells, memory]))
    made = table(["engine", *(HEADINGS[work] for work in works), "RSS, MiB"], [row for _, row in sorted(rows)])
    disturbed = _disturbed(entry)
    return made + (f"\n\n{disturbed}" if disturbed else "")


def _cell(engine: dict, work: str) -> str:
    policy = engine["policies"].get(work)
    if work == "w3-sorted32" and work not in engine["rounds"][0]:
        if engine["policies"].get("w3") != "sorted32":
            return ""
        work = "w3"
    factor = UNIT.get(work, 1)
    times = [r[work]["seconds"] * factor for r in engine["rounds"]]
    note = f", {POLICIES[policy]}" if policy and work in ("w3", "w4") else ""
    return f"{statistics.median(times):.3g} ({min(times):.3g} to {max(times):.3g}{note})"


def _disturbed(entry: dict) -> str:
    gauges = [
        max(run["gauge"]) for engine in entry["engines"].values() for r in engine.get("rounds", []) for run in r.values()
    ]
    if not gauges:
        return ""
    usual = statistics.median(gauges)
    late = sum(gauge > usual * (1 + DISTURBED) for gauge in gauges)
    return (
        f"The gauge was more than {DISTURBED:.0%} slower than its median beside {late} of {len(gauges)} measurements."
    )


def _agreement(entry: dict) -> str:
    rows = [
        [title(name), f"{e['min_cosine']:.6f}", f"{e['mean_cosine']:.6f}", f"{e['recall_at_10']:.3f}", _note(e)]
        for name, e in entry["engines"].items()
        if "min_cosine" in e
    ]
    missing = [
        f"- {title(name)} did not run: {e['why_not']}"
        for name, e in entry["engines"].items()
        if "why_not" in e and "min_cosine" not in e
    ]
    if not rows and not missing:
        return ""
    headings = ["engine", "least cosine", "mean cosine", "recall@10", "note"]
    heading = "Vectors of 1,000 texts beside those of sentence-transformers in f32:"
    return "\n\n".join([heading, table(headings, rows), *(["\n".join(missing)] if missing else [])])


def _note(engine: dict) -> str:
    if "why_not" in engine:
        return f"not timed: {engine['why_not']}"
    return f"some texts below {LEAST_COSINE}" if engine["min_cosine"] < LEAST_COSINE else ""


def _ratios(entry: dict) -> str:
    """Ratio of the time of a peer to that of Assay in the same round."""
    mine = ours(entry)
    if not mine:
        return ""
    rounds = entry["engines"][mine]["rounds"]
    works = [work for work in ("w1", "w2", "w3", "w4") if work in rounds[0]]
    rows = []
    for name, engine in entry["engines"].items():
        if name.startswith("assay") or not engine.get("rounds"):
            continue
        cells = []
        for work in works:
            pairs = [theirs[work]["seconds"] / own[work]["seconds"] for theirs, own in zip(engine["rounds"], rounds)]
            cells.append(f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})")
        rows.append([title(name), *cells])
    return f"Time of a peer over that of {title(mine)}, in the same round:\n\n" + table(
        ["peer", *(work.upper() for work in works)], rows
    )


def _shares(entry: dict, machine: dict) -> str:
    """Useful arithmetic without padding."""
    limit = next((name for start in ("bf16 tiles", "f32 FMA, AVX-512", "f32 FMA") for name in machine if name.startswith(start)), None)
    if not limit:
        return ""
    peak = machine[limit]["all"]
    token, pair = entry["mflop"]
    rows = []
    for name in entry["engines"]:
        times = medians(entry, name)
        cells = []
        for work in ("w2", "w3", "w4"):
            if work in times:
                size = entry["workloads"][work]
                rate = (token * size["tokens"] + pair * size["token_squares"]) / 1e3 / times[work]
                cells.append(f"{rate:,.0f} ({rate / peak:.0%})")
            else:
                cells.append("")
        if any(cells):
            rows.append([title(name), *cells])
    return (
        f"Useful GFLOP/s ({token:.2f} MFLOP a token and {pair * 1e6:,.0f} FLOP for each pair of tokens of a text), "
        f"and their share of what {limit} gives in registers on all threads:\n\n"
        + table(["engine", "W2", "W3", "W4"], rows)
    )


def _tried(entry: dict) -> str:
    rows = []
    for name, engine in entry["engines"].items():
        for work in ("w3", "w4"):
            times = engine.get("tried", {}).get(work, {})
            if len(times) > 1:
                told = ", ".join(f"{POLICIES[policy]} {seconds:.2f}" for policy, seconds in times.items())
                rows.append([title(name), work.upper(), told])
    if not rows:
        return ""
    return "Batch policies tried, s (the better of two runs; the best one went into the rounds):\n\n" + table(
        ["engine", "", "policies"], rows
    )


def _scaling(scaling: dict) -> str:
    rows = [
        [f"{s['texts']:,}", f"{s['tokens'] / s['texts']:.0f}", f"{s['seconds'] * 1e3:,.2f}",
         f"{s['range'][0] * 1e3:,.2f} to {s['range'][1] * 1e3:,.2f}", f"{s['tokens'] / s['seconds']:,.0f}"]
        for s in scaling.values()
    ]
    return "Assay alone, texts handed over in one call:\n\n" + table(
        ["texts", "tokens per text", "ms", "range", "tokens/s"], rows
    )


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
