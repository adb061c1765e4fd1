"""Writes the results of all clients into a page, between its markers.

    python3 matrix.py PAGE DIRECTORY

DIRECTORY/NAME.said is what the client of that name printed: `library NAME VERSION`, and `ok      CHECK: what it saw`
for each check.
"""

import sys
from pathlib import Path

BEGIN, END = "<!-- made by make clients -->\n", "<!-- end -->\n"
CLIENTS = {"python": "Python", "asyncio": "Python, asyncio", "go": "Go", "node": "Node", "java": "Java"}
# Each feature with the checks that show it, by the names that they have here or there.
FEATURES = {
    "Embed": ["embed gives vectors of unit length", "calls run side by side"],
    "raw bytes decoded": ["bytes of every encoding hold the values"],
    "EmbedStream": ["a stream answers every input under its id"],
    "Evaluate": ["a claim comes with its evidence", "samples are evaluated side by side"],
    "EvaluateStream": ["a stream tells metrics samples and their summary"],
    "deadline": ["a deadline ends the call"],
    "cancelled midway, the next call served": [
        "a stream cancelled midway leaves the server free",
        "a cancelled task cancels its call",
    ],
    "error details": ["an empty input is named"],
    "retry, when the server says": ["a refused call is made again when the server says"],
    "TLS and token": ["a token lets a call in"],
    "TLS, token and client certificate": ["a client certificate lets a call in"],
    "Unix socket": ["a unix socket serves the same vectors"],
    "`round_robin` over two replicas": ["calls go round the replicas"],
    "health: calls to a third, NOT_SERVING": [
        "a replica that does not serve gets no calls",
        "a replica that does not serve gets calls without health checking",
    ],
}


def main(page, directory):
    page = Path(page)
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    said = {client: read(Path(directory) / f"{client}.said") for client in CLIENTS}
    page.write_text(before + BEGIN + table(said) + END + after)


def read(file):
    """The library, and the result of each check by name."""
    library, seen = "", {}
    for line in file.read_text().splitlines():
        if line.startswith("library "):
            library = line.removeprefix("library ")
        elif line.startswith("ok      "):
            name, _, what = line.removeprefix("ok      ").partition(": ")
            seen[name.replace("_", " ").replace(",", "")] = what
    return library, seen


def table(said):
    rows = [["", *CLIENTS.values()], ["---"] * (len(CLIENTS) + 1)]
    rows.append(["library", *(said[client][0] for client in CLIENTS)])
    for feature, checks in FEATURES.items():
        rows.append([feature, *(cell(said[client][1], checks) for client in CLIENTS)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cell(seen, checks):
    [what] = [seen[check] for check in checks if check in seen]
    return what


if __name__ == "__main__":
    main(*sys.argv[1:])
