"""The attacks: each gets a running server, and returns when it has done its worst."""

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field as attribute

from http2 import (
    CONTINUATION, DATA, EMBED, EMBED_STREAM, END_STREAM, EVALUATE, HEADERS, PING, PREFACE,
    PRIORITY, RST_STREAM, TOKENIZE, WINDOW_UPDATE, Closed, Connection, evaluation, frame, headers, inputs,
    message, settings,
)
from server import Server

MIB = 1 << 20
ATTACKS: dict[str, "Attack"] = {}


@dataclass
class Attack:
    name: str
    run: Callable[[Server, float], str | None]
    arguments: list[str] = attribute(default_factory=list)
    descriptors: int | None = None
    quick: bool = False
    tls: bool = False

    @property
    def about(self) -> str:
        return (self.run.__doc__ or "").strip().splitlines()[0]


def attack(name: str, **options):
    """Puts a function into the list. It gets the server and the seconds that it may take, and returns what failed."""

    def add(run):
        ATTACKS[name] = Attack(name, run, **options)
        return run

    return add


def until(seconds: float) -> Iterator[int]:
    """Counts rounds until the time is over."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        yield count
        count += 1


def side_by_side(count: int, work: Callable[[int], None]) -> None:
    """Runs `work` on so many threads; a connection that the server ends is no failure of the attack."""

    def guarded(index: int) -> None:
        with contextlib.suppress(Closed, OSError):
            work(index)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


def calls(server: Server, seconds: float, path: str, payload: bytes, count: int = 1, **further: str) -> None:
    """The same call again and again, over so many connections."""

    def work(_: int) -> None:
        for _ in until(seconds):
            with contextlib.suppress(Closed, OSError):
                Connection(server.port, timeout=15).call(path, payload, **further)

    side_by_side(count, work)


# Evaluate

@attack("evaluate-sentences", quick=True)
def _(server, seconds):
    """embedding_groundedness of 200 by 6,000 sentences, from two callers"""
    response = " ".join(f"Fox {n}." for n in range(200))
    contexts = [" ".join(f"Dog {n}." for n in range(part, part + 750)) for part in range(0, 6000, 750)]
    payload = evaluation(["embedding_groundedness"], response, contexts)
    calls(server, seconds, EVALUATE, payload, 2, grpc_timeout="8S")


@attack("evaluate-250000-sentences")
def _(server, seconds):
    """a sample of 1 MiB of "Ok. ", by all metrics that need no judge"""
    contexts = ["Ok. " * 32000] * 7
    payload = evaluation(["no_judge"], "Ok. " * 32000, contexts, "Ok. " * 100)
    calls(server, seconds, EVALUATE, payload, 2, grpc_timeout="8S")


@attack("evaluate-64-callers")
def _(server, seconds):
    """64 callers with large samples, by all metrics that need no judge"""
    contexts = [(f"context {n} " + "word and another word, " * 300) for n in range(64)]
    payload = evaluation(["no_judge"], "It is so. " * 3000, contexts, "It is not so. " * 3000)
    calls(server, seconds, EVALUATE, payload, 64, grpc_timeout="4S")


# Bombs

@attack("bomb-metrics", quick=True)
def _(server, seconds):
    """16 KB of gzip that unpack to 8 Mi empty metric selections"""
    calls(server, seconds, EVALUATE, gzip.compress(b"\x12\0" * (8 * MIB - 1)), 4, compressed="gzip")


@attack("bomb-unknown-metrics")
def _(server, seconds):
    """619 bytes of gzip that unpack to 300,000 empty metric selections"""
    calls(server, seconds, EVALUATE, gzip.compress(b"\x12\0" * 300_000), 4, compressed="gzip")


@attack("bomb-contexts")
def _(server, seconds):
    """16 MiB of two-byte elements: empty contexts"""
    contexts = b"\x1a\0" * (8 * MIB - 16)
    payload = b"\x0a" + bytes([len(contexts) >> shift & 127 | (128 if shift < 21 else 0) for shift in (0, 7, 14, 21)]) + contexts
    calls(server, seconds, EVALUATE, payload, 2)


@attack("bomb-inputs")
def _(server, seconds):
    """16 MiB of two-byte elements: empty inputs"""
    calls(server, seconds, EMBED, b"\x0a\0" * (8 * MIB - 1), 2)


@attack("bomb-groups")
def _(server, seconds):
    """16 MiB of unknown groups, and messages nested deeper than any"""
    calls(server, seconds / 2, EMBED, b"\x7b\x7c" * (8 * MIB - 1), 2)
    calls(server, seconds / 2, EMBED, b"\x7b" * 100_000, 2)


@attack("tokenize-16MiB")
def _(server, seconds):
    """Tokenize of 15.9 MiB, from four callers"""
    payload = inputs(*["a " * 65_000] * 127)
    calls(server, seconds, TOKENIZE, payload, 4, grpc_timeout="8S")


# Memory

@attack("unfinished-bodies", quick=True)
def _(server, seconds):
    """200 bodies of 15.9 MiB that lack their last byte"""
    body = message(inputs("a" * (16_600_000)))[:-1]

    def work(_: int) -> None:
        connection = Connection(server.port, timeout=seconds)
        streams = [connection.begin(EMBED) for _ in range(20)]
        for stream in streams:
            with contextlib.suppress(Closed):
                connection.body(stream, body, end=False)
        connection.drain(seconds)

    side_by_side(10, work)


@attack("unread-answers", quick=True)
def _(server, seconds):
    """143 calls of 512 inputs whose answers are never read, with a deadline of 2 s; then none may be open"""
    payload, held = message(inputs(*["a"] * 512)), []
    for _ in range(143):
        with contextlib.suppress(Closed, OSError):
            connection = Connection(server.port, window=0, timeout=5)
            connection.body(connection.begin(EMBED, grpc_timeout="2S"), payload)
            held.append(connection)
    time.sleep(max(seconds, 6))
    left = server.metric("assay_rpc_open")
    [connection.close() for connection in held]
    return f"{left:.0f} calls are open after their deadline" if left > 4 else None


@attack("unread-answers-at-shutdown", quick=True)
def _(server, seconds):
    """answers without deadline that are never read, while the server shuts down"""
    payload = message(inputs(*["a"] * 64))
    held = [Connection(server.port, window=0, timeout=5) for _ in range(20)]
    for connection in held:
        connection.body(connection.begin(EMBED), payload)
    time.sleep(2)
    code, took = server.stop()
    return None if code == 0 else f"exit code {code} after {took:.0f} s"


# Connections

def open_silent(port: int, count: int, said: bytes = b"") -> list[socket.socket]:
    held = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), 5)
            connection.sendall(said)
            held.append(connection)
    return held


def hold(server: Server, seconds: float, said: bytes, count: int = 600) -> None:
    for _ in until(seconds):
        held = open_silent(server.port, count, said)
        time.sleep(1)
        [connection.close() for connection in held]


@attack("silent-connections", quick=True)
def _(server, seconds):
    """600 connections that send nothing, again and again"""
    hold(server, seconds, b"")


@attack("half-a-preface")
def _(server, seconds):
    """600 connections that send half of the preface"""
    hold(server, seconds, PREFACE[:12])


@attack("preface-then-silence")
def _(server, seconds):
    """400 connections that send preface and settings, and nothing more"""
    hold(server, seconds, PREFACE + settings(), 400)


@attack("endless-bodies")
def _(server, seconds):
    """100 calls without a deadline whose body never ends"""
    held = []
    for _ in range(100):
        connection = Connection(server.port)
        connection.send(frame(DATA, 0, connection.begin(EMBED), b"\0\0\0\0\x20"))
        held.append(connection)
    time.sleep(max(seconds, 14))
    left = server.metric("assay_rpc_open")
    [connection.close() for connection in held]
    return f"{left:.0f} calls are still open" if left > 4 else None


@attack("descriptors-256", descriptors=256)
def _(server, seconds):
    """a server that may open 256 files, and 400 connections"""
    hold(server, seconds, PREFACE + settings(), 400)


@attack("silent-admin-connections", quick=True)
def _(server, seconds):
    """300 connections to the admin port that send nothing"""
    held = open_silent(server.admin, 300)
    time.sleep(seconds)
    [connection.close() for connection in held]


@attack("half-open-handshakes", tls=True)
def _(server, seconds):
    """600 TLS handshakes that stop after their first bytes; a newcomer's handshake may take 1 s"""
    held = open_silent(server.port, 400, b"\x16\x03\x01\x02\x00\x01")
    worst = 0.0
    for _ in until(seconds):
        started = time.monotonic()
        with contextlib.suppress(OSError, Closed):
            Connection(server.port, tls=True, timeout=10).call(EMBED, inputs("a"))
        worst = max(worst, time.monotonic() - started)
        held += open_silent(server.port, 20, b"\x16\x03\x01\x02\x00\x01")
        time.sleep(0.2)
    [connection.close() for connection in held]
    return f"a newcomer waited {worst:.1f} s" if worst > 1 else None


# Control frames

def flood(server: Server, seconds: float, frames: bytes, streams: int = 250) -> None:
    """Opens streams that stay open, then sends `frames` at full rate; connects again when it is thrown out."""
    many = frames * max(1, 60_000 // len(frames))
    for _ in until(seconds):
        with contextlib.suppress(Closed, OSError):
            connection = Connection(server.port, window=0, timeout=5)
            connection.send(b"".join(headers(2 * n + 1, EMBED_STREAM) for n in range(streams)))
            for _ in until(seconds):
                connection.send(many)
        time.sleep(0.05)


@attack("flood-settings", quick=True)
def _(server, seconds):
    """SETTINGS frames that move the windows of 250 open streams"""
    flood(server, seconds, settings(a=1) + settings(a=65535))


@attack("flood-ping")
def _(server, seconds):
    """PING frames at full rate"""
    flood(server, seconds, frame(PING, 0, 0, bytes(8)))


@attack("flood-priority")
def _(server, seconds):
    """PRIORITY frames at full rate"""
    flood(server, seconds, frame(PRIORITY, 0, 1, bytes(5)))


@attack("flood-window-update")
def _(server, seconds):
    """WINDOW_UPDATE frames at full rate"""
    flood(server, seconds, frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"))


@attack("flood-unknown")
def _(server, seconds):
    """frames of an unknown kind at full rate"""
    flood(server, seconds, frame(0xFA, 0, 0, b"unknown"))


@attack("flood-empty-data")
def _(server, seconds):
    """DATA frames without data at full rate"""
    flood(server, seconds, frame(DATA, 0, 1))


@attack("flood-continuation")
def _(server, seconds):
    """a header block that never ends"""
    for _ in until(seconds):
        with contextlib.suppress(Closed, OSError):
            connection = Connection(server.port, timeout=5)
            connection.send(frame(HEADERS, 0, 1))
            for _ in until(seconds):
                connection.send(frame(CONTINUATION, 0, 1, b"\0\1a\1b" * 100) * 20)


@attack("flood-resets")
def _(server, seconds):
    """calls that are reset as soon as they begin"""
    for _ in until(seconds):
        with contextlib.suppress(Closed, OSError):
            connection = Connection(server.port, timeout=5)
            for start in range(1, 1_000_000, 200):
                if start > 200_000:
                    break
                streams = range(start, start + 200, 2)
                connection.send(b"".join(headers(n, EMBED) + frame(RST_STREAM, 0, n, b"\0\0\0\x08") for n in streams))
        time.sleep(0.05)


@attack("slow-senders")
def _(server, seconds):
    """100 connections that send a request at one byte a second"""
    request = PREFACE + settings() + headers(1, EMBED) + frame(DATA, 0, 1, message(inputs("a" * 60)))
    held = open_silent(server.port, 100, request[:-60])
    for at in range(int(seconds)):
        for connection in held:
            with contextlib.suppress(OSError):
                connection.sendall(request[-60 + at : -59 + at])
        time.sleep(1)
    [connection.close() for connection in held]


# Errors

@attack("violations", quick=True)
def _(server, seconds):
    """512 empty inputs: INVALID_ARGUMENT, in less than the 8 KiB of metadata that clients take"""
    connection = Connection(server.port)
    stream = connection.begin(EMBED)
    connection.body(stream, message(inputs(*[""] * 512)))
    for _ in range(100):
        kind, flags, on, payload = connection.receive()
        if on == stream and kind == HEADERS and flags & END_STREAM:
            # Huffman's code for the details, which are base64, makes 6 bits of 8; names and overhead are below 1 KiB.
            return f"{len(payload)} bytes of headers" if len(payload) * 8 / 6 + 1024 > 8192 else None
    return "there is no answer"
