"""docs/peers.svg: bars of time by engine, one panel per workload, readable on light and dark pages."""

import statistics
from html import escape

from engines import title

PANELS = {"w1": ("W1: one query", 1e3, "ms"), "w2": ("W2: one passage", 1e3, "ms"),
          "w3": ("W3: 256 texts", 1, "s"), "w4": ("W4: 64 long texts", 1, "s")}
WIDTH, LABELS, BAR, GAP, HEADING = 900, 250, 15, 5, 42
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f; } .head { font-weight: 600; font-size: 14px; }
.peer { fill: #8c959f; } .ours { fill: #0969da; } .back { fill: #ffffff; } .our { font-weight: 600; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .peer { fill: #6e7681; } .ours { fill: #4493f8; } .back { fill: #0d1117; }
}
"""


def svg(results: dict) -> str:
    """Plots the results of the first model."""
    entry = next(iter(results["models"].values()))
    parts, top = [], 8
    for work, (heading, factor, unit) in PANELS.items():
        times = {
            name: statistics.median(r[work]["seconds"] for r in engine["rounds"]) * factor
            for name, engine in entry["engines"].items()
            if engine.get("rounds") and work in engine["rounds"][0]
        }
        if times:
            panel, top = _panel(f"{heading}, {unit}", times, top)
            parts += panel
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    name = escape(f"Times of engines, {entry['title']}, less is better")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{name}">\n<style>{STYLE}</style>\n'
        f'<rect class="back" width="{WIDTH}" height="{top}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(heading: str, times: dict[str, float], top: int) -> tuple[list[str], int]:
    parts = [f'<text class="head" x="10" y="{top + 22}">{escape(heading)} (less is better)</text>']
    top += HEADING - 8
    # A bar of ten times the median would hide the others, so it is truncated and labelled.
    most = min(max(times.values()), 4 * statistics.median(times.values()))
    for name, value in sorted(times.items(), key=lambda item: item[1]):
        own = name.startswith("assay")
        length = (WIDTH - LABELS - 90) * min(value / most, 1.0)
        cut = " →" if value > most else ""
        middle = top + BAR - 3
        parts += [
            f'<text class="{"our" if own else ""}" x="{LABELS - 8}" y="{middle}" text-anchor="end">{escape(title(name))}</text>',
            f'<rect class="{"ours" if own else "peer"}" x="{LABELS}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>',
            f'<text x="{LABELS + length + 6:.1f}" y="{middle}">{value:.3g}{cut}</text>',
        ]
        top += BAR + GAP
    return parts, top + 8
