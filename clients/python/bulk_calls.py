"""Calls of a job of many rows: one channel to all sidecars, patience while they are full or away, poison told apart."""

import asyncio
import random
import re
import time
from pathlib import Path
from typing import NamedTuple

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

# Seconds: of one call, of all tries of one call together, and of the pauses between them.
CALL_TIMEOUT, BUDGET = 30, 180
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5

AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
# What may be due to a row. Any other code is the fault of the job, and ends it.
OF_A_ROW = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.INTERNAL}

SERVICE_CONFIG = (Path(__file__).parent.parent / "service_config.json").read_text()
OPTIONS = [
    ("grpc.service_config", SERVICE_CONFIG),
    # The channel's own retries end sooner than a sidecar is back.
    ("grpc.enable_retries", 0),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.default_authority", "localhost"),
]


def open_channel(addresses):
    """One channel whose calls go round all sidecars that serve. To be called where the event loop runs."""
    return grpc.aio.insecure_channel(f"ipv4:{','.join(addresses)}", OPTIONS)


class Outcome(NamedTuple):
    """A value, or the status and message that kept a row from it."""

    value: object = None
    status: str = "OK"
    message: str = ""


class Later(Exception):
    """A metric has no score yet, and its google.rpc.Status says when to ask again."""

    def __init__(self, status):
        super().__init__(status.message)
        self.status = status


async def outcomes_of(task, rows):
    """An outcome for each row, in their order, with as many calls side by side as the task allows."""
    room = asyncio.Semaphore(task.calls_in_flight)

    async def one_call(some):
        async with room:
            return await outcomes_of_call(task, some)

    size = task.rows_per_call
    groups = [rows[at : at + size] for at in range(0, len(rows), size)]
    async with asyncio.TaskGroup() as calls:
        answers = [calls.create_task(one_call(group)) for group in groups]
    return [outcome for answer in answers for outcome in answer.result()]


async def outcomes_of_call(task, rows):
    """Rows that the server names are left out of the next try. Where it names none, the halves are tried."""
    if not rows:
        return []
    try:
        return [Outcome(value) for value in await patiently(lambda: task.call(rows))]
    except grpc.aio.AioRpcError as error:
        if error.code() not in OF_A_ROW:
            # Errors of grpc can't be sent from process to process.
            raise RuntimeError(f"{error.code().name}: {error.details()}") from None
        code, message, poison = error.code().name, error.details(), poison_rows(error)
    if len(rows) == 1:
        return [Outcome(None, code, message)]
    if not poison:
        middle = len(rows) // 2
        return await outcomes_of_call(task, rows[:middle]) + await outcomes_of_call(task, rows[middle:])
    others = iter(await outcomes_of_call(task, [row for at, row in enumerate(rows) if at not in poison]))
    return [Outcome(None, code, poison[at]) if at in poison else next(others) for at in range(len(rows))]


def poison_rows(error):
    """What is wrong with which inputs, by their indices. Ends the job where the mistake is none of a row."""
    mistakes = detail_of(rpc_status.from_call(error), error_details_pb2.BadRequest)
    poison = {}
    for violation in mistakes.field_violations if mistakes else []:
        if re.match(r"metrics|options", violation.field):
            raise RuntimeError(f"{violation.field}: {violation.description}") from None
        if index := re.fullmatch(r"inputs\[(\d+)\]", violation.field):
            poison[int(index[1])] = violation.description
    return poison


async def patiently(call):
    """Makes a call again while a sidecar is full or away: when it says, or else with growing, random pauses."""
    end = time.monotonic() + BUDGET
    longest = FIRST_PAUSE
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN:
                raise
            failure, asked = error, retry_after(rpc_status.from_call(error))
        except Later as later:
            failure, asked = RuntimeError(later.status.message), retry_after(later.status)
        if asked is None:
            pause = random.uniform(0, longest)
            longest = min(2 * longest, LONGEST_PAUSE)
        else:
            # Not all at the same moment.
            pause = asked * random.uniform(1, 1.5)
        if time.monotonic() + pause > end:
            raise failure
        await asyncio.sleep(pause)


def retry_after(status):
    """The seconds of RetryInfo, None without one."""
    retry = detail_of(status, error_details_pb2.RetryInfo)
    return retry and retry.retry_delay.ToNanoseconds() / 1e9


def detail_of(status, kind):
    """The detail of a google.rpc.Status that is a `kind`, or None."""
    for packed in status.details if status else []:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    return None
