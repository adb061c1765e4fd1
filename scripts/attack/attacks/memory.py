"""Incomplete messages and unread responses."""

import contextlib
import time

from http2 import DATA, EMBED, EMBED_STREAM, WINDOW_UPDATE, Closed, Connection, field, frame, inputs, message

from .registry import attack, side_by_side, until


@attack("unfinished-bodies", quick=True)
def _(server, seconds):
    """200 bodies of 15.9 MiB that lack their last byte"""
    body = message(inputs("a" * (16_600_000)))[:-1]
    end = time.monotonic() + seconds

    def work(_: int) -> None:
        connection = Connection(server.port, timeout=seconds, end=end)
        streams = [connection.begin(EMBED) for _ in range(20)]
        for stream in streams:
            connection.body(stream, body, end=False)
        connection.drain()

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


@attack("unread-answers-at-shutdown", quick=True, shuts_down=True)
def _(server, seconds):
    """143 calls of 512 inputs whose answers are never read, and SIGTERM meanwhile: exit code 0 within 10 s"""
    payload = message(inputs(*["a"] * 512))
    held = [Connection(server.port, window=0, timeout=5) for _ in range(143)]
    for connection in held:
        connection.body(connection.begin(EMBED, grpc_timeout="2S"), payload)
    time.sleep(0.5)
    left = server.metric("assay_rpc_open")
    code, took = server.stop()
    if left < 100:
        return f"only {left:.0f} calls were open at SIGTERM"
    return None if code == 0 and took < 10 else f"exit code {code} after {took:.0f} s"


def widen(held: list[tuple[Connection, int]]) -> None:
    """Makes room for four more bytes of each answer, and takes in what has come."""
    for connection, stream in held:
        with contextlib.suppress(Closed):
            connection.send(frame(WINDOW_UPDATE, 0, stream, b"\0\0\0\4"))
            connection.arrived()


@attack("slow-readers")
def _(server, seconds):
    """100 calls of 512 inputs whose answers are read at 4 bytes a second, with a deadline of 2 s; then none may be open"""
    payload, held = message(inputs(*["a"] * 512)), []
    for _ in range(100):
        with contextlib.suppress(Closed, OSError):
            connection = Connection(server.port, window=0, timeout=5)
            held.append((connection, connection.begin(EMBED, grpc_timeout="2S")))
            connection.body(held[-1][1], payload)
    for _ in until(max(seconds, 6)):
        widen(held)
        time.sleep(1)
    left = server.metric("assay_rpc_open")
    [connection.close() for connection, _ in held]
    return f"{left:.0f} calls are open after their deadline" if left > 4 else None


@attack("slow-stream-readers")
def _(server, seconds):
    """100 streams without a deadline that send all they may, and read 4 bytes a second: the server takes no more inputs"""
    one, sent = message(field(2, "word " * 200)), 0
    held = [(connection := Connection(server.port, window=0), connection.begin(EMBED_STREAM)) for _ in range(100)]
    for _ in until(seconds):
        for connection, stream in held:
            while min(connection.sendable, connection.stream_window) >= len(one):
                connection.send(frame(DATA, 0, stream, one))
                connection.sendable -= len(one)
                connection.stream_window -= len(one)
                sent += 1
        widen(held)
        time.sleep(1)
    [connection.close() for connection, _ in held]
    # 64 inputs in flight and 128 KiB that wait to be read, with as much again to spare.
    return f"the server took {sent / 100:.0f} inputs of each stream" if sent / 100 > 400 else None
