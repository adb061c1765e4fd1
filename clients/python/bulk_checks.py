"""What bulk_drill.py doesn't bring about: errors without a name, mistakes that are none of a row, parts that overlap.

    PYTHONPATH=gen python bulk_checks.py
"""

import asyncio
import tempfile
import time
from pathlib import Path

import bulk_calls
import grpc
import pyarrow.parquet as pq
from bulk_calls import Later, outcomes_of
from bulk_parts import Parts
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError, Metadata
from grpc_status import rpc_status
from smoke import run


class Task:
    """Doubles numbers, as `answer` says."""

    rows_per_call, calls_in_flight = 8, 2

    def __init__(self, answer):
        self.answer, self.calls = answer, 0

    async def call(self, rows):
        self.calls += 1
        return self.answer(self.calls, rows) or [2 * row for row in rows]


def outcomes(task, rows=range(20)):
    return asyncio.run(outcomes_of(task, list(rows)))


def error(code, *details):
    """As the server would send it."""
    packed = [any_pb2.Any() for _ in details]
    for any, detail in zip(packed, details):
        any.Pack(detail)
    status = rpc_status.to_status(status_pb2.Status(code=code.value[0], message="no", details=packed))
    return AioRpcError(code, Metadata(), Metadata(*status.trailing_metadata), "no")


def violation(field):
    violations = [error_details_pb2.BadRequest.FieldViolation(field=field, description="wrong")]
    return error(grpc.StatusCode.INVALID_ARGUMENT, error_details_pb2.BadRequest(field_violations=violations))


def retry_in(seconds):
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=int(seconds * 1e9)))


def an_error_that_names_no_row_is_narrowed_down_to_one():
    def answer(_, rows):
        if 11 in rows:
            raise error(grpc.StatusCode.INTERNAL)

    told = outcomes(Task(answer))
    assert [outcome.status for outcome in told] == ["INTERNAL" if n == 11 else "OK" for n in range(20)]
    assert all(outcome.value == 2 * n for n, outcome in enumerate(told) if n != 11)


def a_call_that_is_too_large_is_halved():
    for field in ("inputs", "message"):

        def answer(_, rows):
            if len(rows) > 2:
                raise violation(field)

        assert [outcome.value for outcome in outcomes(Task(answer))] == [2 * n for n in range(20)]


def a_named_row_costs_one_more_call():
    def answer(_, rows):
        if 3 in rows:
            raise violation(f"inputs[{rows.index(3)}]")

    task = Task(answer)
    told = outcomes(task, range(8))
    assert [outcome.status for outcome in told] == ["INVALID_ARGUMENT" if n == 3 else "OK" for n in range(8)]
    assert task.calls == 2


def a_mistake_of_the_job_ends_it():
    for failure in (violation("metrics[0].name"), error(grpc.StatusCode.UNAUTHENTICATED)):

        def answer(_, rows):
            raise failure

        try:
            outcomes(Task(answer))
        except ExceptionGroup as group:
            assert all(type(one) is RuntimeError for one in group.exceptions), group
        else:
            raise AssertionError("the job went on")


def retry_info_is_waited_for():
    full = error(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_in(0.3))
    for failure in (full, Later(rpc_status.from_call(full))):

        def answer(calls, _):
            if calls == 1:
                raise failure

        before = time.monotonic()
        assert [outcome.value for outcome in outcomes(Task(answer), [1])] == [2]
        assert time.monotonic() - before >= 0.3


def patience_ends_with_its_budget():
    def answer(*_):
        raise error(grpc.StatusCode.UNAVAILABLE)

    budget, bulk_calls.BUDGET = bulk_calls.BUDGET, 0.5
    try:
        outcomes(Task(answer), [1])
    except ExceptionGroup as group:
        assert "UNAVAILABLE" in str(group.exceptions[0])
    else:
        raise AssertionError("it is still patient")
    finally:
        bulk_calls.BUDGET = budget


def parts_that_overlap_give_each_row_once():
    with tempfile.TemporaryDirectory() as directory:
        parts = Parts(f"{directory}/parts")
        for ids in (["a", "b"], ["b", "c"], ["b", "c"]):
            parts.write({"id": ids, "status": ["OK"] * len(ids)}, time.time())
        output = Path(directory, "all.parquet")
        assert parts.seal(output, {"a", "b", "c"}) == ({"OK": 3}, 1)
        assert sorted(pq.read_table(output)["id"].to_pylist()) == ["a", "b", "c"]


def nothing_is_sealed_while_a_row_is_missing():
    with tempfile.TemporaryDirectory() as directory:
        parts = Parts(f"{directory}/parts")
        parts.write({"id": ["a"], "status": ["OK"]}, time.time())
        output = Path(directory, "all.parquet")
        try:
            parts.seal(output, {"a", "b"})
        except RuntimeError as error:
            assert "1 rows are missing" in str(error), error
        else:
            raise AssertionError("a row is missing")
        assert not output.exists()


CHECKS = [
    an_error_that_names_no_row_is_narrowed_down_to_one,
    a_call_that_is_too_large_is_halved,
    a_named_row_costs_one_more_call,
    a_mistake_of_the_job_ends_it,
    retry_info_is_waited_for,
    patience_ends_with_its_budget,
    parts_that_overlap_give_each_row_once,
    nothing_is_sealed_while_a_row_is_missing,
]

if __name__ == "__main__":
    passed = [run(check.__name__, check) for check in CHECKS]
    raise SystemExit(0 if all(passed) else 1)
