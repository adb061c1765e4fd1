"""Attacks by a malicious judge or hub that the server connects to."""

import contextlib
import itertools
import json
import subprocess
import tempfile
import time
from pathlib import Path

from http2 import EVALUATE, Closed, Connection, evaluation, fields
from server import Server
from stand_in import Handler, StandIn

from .registry import MIB, attack, side_by_side, until

# These stand in each sample and in each request to the judge, and in nothing else.
TEXT, KEY = "cobalt-7731", "key-of-the-judge-5528"
OK, FAILED = 1, range(5, 12)


# Judges

def evaluate(server: Server, seconds: float) -> str | None:
    """Evaluates again and again for so long, from two callers, each time with a deadline of 4 s.

    Each call must be answered in time, with a failed status for at least one metric, and with no score.
    """
    payload = evaluation(["judged"], f"It is a {TEXT}.", [f"The {TEXT} is a fox."], f"A {TEXT}.")
    wrong: list[str] = []

    def work(_: int) -> None:
        for _ in until(seconds):
            started = time.monotonic()
            answer = None
            with contextlib.suppress(Closed, OSError):
                answer = Connection(server.port, timeout=10).call(EVALUATE, payload, grpc_timeout="4S")
            took = time.monotonic() - started
            if took > 4:
                wrong.append(f"an evaluation took {took:.2f} s")
            if answer is None:
                wrong.append("an evaluation was not answered")
                continue
            results = [dict(fields(result)) for number, result in fields(answer[5:]) if number == 1]
            statuses = [result.get(4, 0) for result in results]
            if OK in statuses or not any(status in FAILED for status in statuses):
                wrong.append(f"the metrics have the statuses {statuses}")
            time.sleep(0.2)

    side_by_side(2, work)
    return wrong[0] if wrong else None


class Judge(StandIn):
    """A judge that gives each of these answers in turn."""

    def __init__(self, *answers):
        self.turns = itertools.cycle(answers)
        super().__init__(lambda handler: next(self.turns)(handler))
        self.arguments = ["--judge-url", self.url, "--judge-model", "stand-in", "--judge-key", KEY, "--judge-cache", "0"]


def redirecting_judge() -> Judge:
    verdict = {"choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}]}
    target = StandIn(lambda handler: handler.reply(200, json.dumps(verdict).encode()))

    def redirect(status: int):
        return lambda handler: handler.reply(status, location=f"{target.url}{handler.path}")

    judge = Judge(*map(redirect, (307, 308, 301, 302, 303)))
    judge.target = target
    return judge


@attack("judge-redirect", judge=redirecting_judge, quick=True)
def _(server, seconds):
    """a judge that leads each request to another origin, which may see neither text nor key"""
    failed = evaluate(server, seconds)
    judge = server.judge
    judge.target.close()
    if len(judge.requests) < 5 or not all(TEXT.encode() in request for request in judge.requests[:5]):
        return f"the judge was asked {len(judge.requests)} times"
    if judge.target.requests:
        seen = [name for name in (TEXT, KEY) if any(name.encode() in request for request in judge.target.requests)]
        return f"the other origin was asked {len(judge.target.requests)} times and saw {' and '.join(seen) or 'no text'}"
    return failed


def endless_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"x-more: and more\r\n" * 100)


ENDLESS = [
    lambda handler: handler.endless(b"{", b" " * 65536),
    lambda handler: handler.endless(b"{", b" "),
    lambda handler: handler.pieces(400, itertools.repeat(b" " * 4096)),
    endless_headers,
]
SLOW = [
    lambda handler: handler.endless(b"{", b" ", pause=1),
    lambda handler: handler.pieces(500, itertools.repeat(b" "), pause=1),
    lambda handler: time.sleep(60),
]


@attack("judge-endless", judge=lambda: Judge(*ENDLESS))
def _(server, seconds):
    """a judge whose answers, errors and headers never end; each evaluation is answered in its 4 s"""
    return evaluate(server, seconds) or asked(server, len(ENDLESS))


@attack("judge-slow", judge=lambda: Judge(*SLOW))
def _(server, seconds):
    """a judge that answers one byte a second or not at all; each evaluation is answered in its 4 s"""
    return evaluate(server, seconds) or asked(server, len(SLOW))


def asked(server: Server, least: int) -> str | None:
    """Fails if the judge was never asked, because the attack then shows nothing."""
    count = len(server.judge.requests)
    return f"the judge was asked {count} times" if count < least else None


# Hubs

ID, COMMIT = "org/name", "a" * 40
FILES = ["config.json", "tokenizer.json", "model.safetensors"]
LISTING = json.dumps({"sha": COMMIT, "siblings": [{"rfilename": file} for file in FILES]}).encode()


def whole_hub(handler: Handler) -> None:
    """A hub that behaves, with a model of nothing but empty JSON objects."""
    if "/api/models/" in handler.path:
        handler.reply(200, LISTING)
    else:
        handler.reply(200, b"{}", etag=f'"{handler.path.rsplit("/")[-1].replace(".", "-")}"')


def endless_listing(handler: Handler) -> None:
    handler.endless(LISTING[:-2] + b",", b'{"rfilename": "one-more"},' * 1000)


def slow_listing(handler: Handler) -> None:
    handler.endless(LISTING[:-2] + b",", b" ", pause=0.5)


def endless_file(handler: Handler, name: str = "tokenizer.json") -> None:
    """The file is announced without a length and sent until the client hangs up."""
    if not handler.path.endswith(name):
        whole_hub(handler)
    elif handler.command == "HEAD":
        handler.close_connection = True
        handler.start(200, etag='"tokenizer"', connection="close")
    else:
        handler.endless(b"{", b" " * 65536)


def file_beyond_its_length(handler: Handler) -> None:
    """The weights are announced with 1 MiB and never end."""
    if not handler.path.endswith("model.safetensors"):
        whole_hub(handler)
    elif handler.command == "HEAD":
        handler.start(200, content_length=str(MIB), x_linked_size=str(MIB), x_linked_etag=f'"{"b" * 64}"')
    else:
        handler.endless(b" ", b" " * 65536)


def pull(server: Server, answer, expected: str) -> str | None:
    """Fetches a model from that hub by `assay pull`, which must give up: what it did instead."""
    hub = StandIn(answer)
    with tempfile.TemporaryDirectory(prefix="assay-attack-") as folder:
        command = [server.binary, "pull", "--model", ID, "--hub-endpoint", hub.url, "--cache-dir", folder]
        command += ["--hub-attempts", "2", "--hub-total-timeout", "5s", "--hub-max-small-file-bytes", "16MiB"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        peak, end = 0, time.monotonic() + 15
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError, IndexError):
                peak = max(peak, int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096)
            time.sleep(0.02)
        process.kill()
        told = process.communicate()[1]
        hub.close()
        left = [str(path.name) for path in Path(folder).rglob("*.incomplete")]
    told = told.strip().splitlines()[-1] if told.strip() else "nothing"
    if process.returncode in (0, -9):
        return f"pull ended with {process.returncode} ({answer.__name__}): {told}"
    if expected not in told:
        return f"pull says {told} ({answer.__name__})"
    if peak > 128 * MIB:
        return f"pull took {peak / MIB:.0f} MiB ({answer.__name__})"
    return f"pull left {left} ({answer.__name__})" if left else None


@attack("hub-endless")
def _(server, seconds):
    """a hub whose list of files or whose files never end: pull gives up by name, in 128 MiB, and leaves no partial file"""
    cases = [
        (endless_listing, "hub-max-listing-bytes"),
        (slow_listing, "5s"),
        (endless_file, "hub-max-small-file-bytes"),
        (file_beyond_its_length, "model.safetensors"),
    ]
    failed = [pull(server, *case) for case in cases]
    return next(filter(None, failed), None)
