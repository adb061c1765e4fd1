"""The list of attacks, and helpers to run them."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field as attribute

from http2 import Closed, Connection
from server import Server
from stand_in import StandIn

MIB = 1 << 20
ATTACKS: dict[str, "Attack"] = {}


@dataclass
class Attack:
    name: str
    run: Callable[[Server, float], str | None]
    arguments: list[str] = attribute(default_factory=list)
    # The server may open this many files.
    descriptors: int | None = None
    quick: bool = False
    tls: bool = False
    # The judge that the server asks.
    judge: Callable[[], StandIn] | None = None
    # Whether the attack itself ends the server.
    shuts_down: bool = False

    @property
    def about(self) -> str:
        return (self.run.__doc__ or "").strip().splitlines()[0]


def attack(name: str, **options):
    """Registers an attack. The function gets the server and its duration in seconds, and returns the failure, if any."""

    def add(run):
        ATTACKS[name] = Attack(name, run, **options)
        return run

    return add


def before(end: float) -> Iterator[int]:
    """Counts rounds until an instant of the monotonic clock."""
    count = 0
    while time.monotonic() < end:
        yield count
        count += 1


def until(seconds: float) -> Iterator[int]:
    """Counts rounds for a duration."""
    return before(time.monotonic() + seconds)


def side_by_side(count: int, work: Callable[[int], None]) -> None:
    """Runs `work` on several threads. Connections closed by the server are not failures."""

    def guarded(index: int) -> None:
        with contextlib.suppress(Closed, OSError):
            work(index)

    threads = [threading.Thread(target=guarded, args=(index,), daemon=True) for index in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


def calls(server: Server, seconds: float, path: str, payload: bytes, count: int = 1, **further: str) -> None:
    """Repeats a call over several connections."""
    end = time.monotonic() + seconds

    def work(_: int) -> None:
        for _ in before(end):
            with contextlib.suppress(Closed, OSError):
                Connection(server.port, timeout=15).call(path, payload, **further)

    side_by_side(count, work)
