"""Floods of frames."""

import itertools
import time
from collections.abc import Callable, Iterator

from http2 import (
    CONTINUATION, DATA, EMBED, EMBED_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, WINDOW_UPDATE, Closed, Connection,
    Late, frame, headers, settings,
)
from server import Server

from .registry import attack, before

OPEN_STREAMS = b"".join(headers(2 * n + 1, EMBED_STREAM) for n in range(250))


def until_thrown_out(seconds: float, connect: Callable[[float], Connection], rounds: Callable[[], Iterator[bytes]]) -> str | None:
    """Connects and sends `rounds` one after the other at full rate, and reads what comes.

    Connects again when it is thrown out, by GOAWAY or by a reset, and fails where it never is.
    """
    end, thrown_out = time.monotonic() + seconds, 0
    for _ in before(end):
        try:
            connection = connect(end)
            for frames in rounds():
                connection.send(frames)
                connection.arrived()
        except Late:
            pass
        except (Closed, OSError):
            thrown_out += 1
        time.sleep(0.05)
    return None if thrown_out else "the flood was never thrown out"


def flood(server: Server, seconds: float, frames: bytes, begin: bytes = OPEN_STREAMS) -> str | None:
    """Sends `begin`, which opens streams that stay open, then `frames` again and again."""
    many = frames * max(1, 60_000 // len(frames))

    def connect(end: float) -> Connection:
        connection = Connection(server.port, window=0, timeout=5, end=end)
        connection.send(begin)
        return connection

    return until_thrown_out(seconds, connect, lambda: itertools.repeat(many))


@attack("flood-settings", quick=True)
def _(server, seconds):
    """SETTINGS frames that move the windows of 250 open streams"""
    return flood(server, seconds, settings(1) + settings(65535))


@attack("flood-ping")
def _(server, seconds):
    """PING frames at full rate"""
    return flood(server, seconds, frame(PING, 0, 0, bytes(8)))


@attack("flood-priority")
def _(server, seconds):
    """PRIORITY frames at full rate"""
    return flood(server, seconds, frame(PRIORITY, 0, 1, bytes(5)))


@attack("flood-window-update")
def _(server, seconds):
    """WINDOW_UPDATE frames at full rate"""
    return flood(server, seconds, frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"))


@attack("flood-unknown")
def _(server, seconds):
    """frames of an unknown kind at full rate"""
    return flood(server, seconds, frame(0xFA, 0, 0, b"unknown"))


@attack("flood-empty-data")
def _(server, seconds):
    """DATA frames without data at full rate"""
    return flood(server, seconds, frame(DATA, 0, 1))


@attack("flood-continuation")
def _(server, seconds):
    """a header block that never ends"""
    return flood(server, seconds, frame(CONTINUATION, 0, 1, b"\0\1a\1b" * 100), begin=frame(HEADERS, 0, 1))


@attack("flood-resets")
def _(server, seconds):
    """calls that are reset as soon as they begin"""

    def rounds() -> Iterator[bytes]:
        for first in range(1, 200_000, 200):
            streams = range(first, first + 200, 2)
            yield b"".join(headers(n, EMBED) + frame(RST_STREAM, 0, n, b"\0\0\0\x08") for n in streams)

    return until_thrown_out(seconds, lambda end: Connection(server.port, timeout=5, end=end), rounds)
