"""Messages that never become whole, and answers that nobody reads."""

import contextlib
import time

from http2 import EMBED, Closed, Connection, inputs, message

from .registry import attack, side_by_side


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
    """answers without deadline that are never read, while the server shuts down"""
    payload = message(inputs(*["a"] * 64))
    held = [Connection(server.port, window=0, timeout=5) for _ in range(20)]
    for connection in held:
        connection.body(connection.begin(EMBED), payload)
    time.sleep(2)
    code, took = server.stop()
    return None if code == 0 else f"exit code {code} after {took:.0f} s"
