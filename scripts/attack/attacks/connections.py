"""Connections that send nothing or very little."""

import contextlib
import socket
import time

from http2 import DATA, EMBED, PREFACE, Closed, Connection, frame, headers, inputs, message, settings
from server import Server

from .registry import attack, until

# Further addresses of this machine. The polite callers have 127.0.0.1.
OTHERS = tuple(f"127.0.0.{last}" for last in range(2, 21))


def open_silent(port: int, count: int, said: bytes = b"", source: str = "127.0.0.1") -> list[socket.socket]:
    held = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), 5, (source, 0))
            connection.sendall(said)
            held.append(connection)
    return held


def hold(server: Server, seconds: float, said: bytes, count: int = 600, sources: tuple[str, ...] = ("127.0.0.1",)) -> None:
    for _ in until(seconds):
        held = [one for source in sources for one in open_silent(server.port, count // len(sources), said, source)]
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


@attack("descriptors-1024", descriptors=1024)
def _(server, seconds):
    """a server that may open 1,024 files, and 1,400 connections from four addresses"""
    hold(server, seconds, b"", 1400, OTHERS[:4])


def crowd(server: Server, seconds: float, said: bytes) -> tuple[int, str | None]:
    """Takes all connections: 700 from one address and 60 from each of 18 others, and more of them all the time.

    Meanwhile newcomers from 127.0.0.1 embed by new connections. Returns how many were refused, and what failed: a
    newcomer that was let in or refused only after 1 s, or limits that were not met.
    """
    held = open_silent(server.port, 700, said, OTHERS[0])
    held += [one for source in OTHERS[1:] for one in open_silent(server.port, 60, said, source)]
    for _ in until(2):
        if (taken := server.metric("assay_connections_open")) >= 1000:
            break
    worst, refused = 0.0, 0
    for tried in until(seconds):
        started = time.monotonic()
        status = None
        with contextlib.suppress(Closed, OSError):
            newcomer = Connection(server.port)
            newcomer.call(EMBED, inputs("a"))
            status = newcomer.status
        worst = max(worst, time.monotonic() - started)
        refused += status != 0
        held += open_silent(server.port, 20, said, OTHERS[tried % len(OTHERS)])
        time.sleep(0.1)
    [connection.close() for connection in held]
    if taken < 1000:
        return refused, f"only {taken:.0f} connections were open"
    return refused, f"a newcomer waited {worst:.1f} s" if worst > 1 else None


@attack("crowd-silent")
def _(server, seconds):
    """more than max-connections from 19 addresses that send nothing; newcomers get in within 1 s"""
    refused, failed = crowd(server, seconds, b"")
    return failed or (f"{refused} newcomers were refused" if refused else None)


@attack("crowd-preface", quick=True)
def _(server, seconds):
    """more than max-connections from 19 addresses that send the preface alone; newcomers get in within 1 s"""
    refused, failed = crowd(server, seconds, PREFACE + settings())
    return failed or (f"{refused} newcomers were refused" if refused else None)


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
