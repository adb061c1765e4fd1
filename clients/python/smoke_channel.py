"""What a channel does by itself with ../service_config.json: calls made again, replicas, health.

    PYTHONPATH=gen python smoke_channel.py ADDRESS JUDGED_ADDRESS FULL_ADDRESS COLD_ADDRESS

The first two are replicas that serve. The third evaluates one sample at a time, by the judge of ../judge.py and, under
the name "slow", by one that takes its time. The fourth has no model yet.
"""

import contextlib
import sys
import time
from collections import Counter
from pathlib import Path

import grpc
from assay.v1 import evaluation_pb2 as pb
from assay.v1 import evaluation_pb2_grpc, server_pb2, server_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from smoke import detail, run

TIMEOUT = 60  # seconds; every call has one
CALLS = 24
PUSHBACK_SECONDS = 1

SERVICE_CONFIG = (Path(__file__).parent.parent / "service_config.json").read_text()
OPTIONS = [("grpc.service_config", SERVICE_CONFIG)]
SAMPLE = pb.Sample(
    user_input="When did the Halden Bridge open?",
    response="The Halden Bridge opened in 1962.",
    retrieved_contexts=[pb.Context(text="The Halden Bridge opened on 4 May 1962.")],
    reference="The Halden Bridge opened on 4 May 1962.",
)
LEXICAL = pb.EvaluateRequest(sample=SAMPLE, metrics=[pb.MetricSelection(name="token_f1")])
SLOW = pb.EvaluateRequest(
    sample=SAMPLE,
    metrics=[pb.MetricSelection(name=name) for name in ("token_f1", "faithfulness")],
    options=pb.EvaluateOptions(judge="slow"),
)


def a_refused_call_is_made_again_when_the_server_says(full):
    with grpc.insecure_channel(full) as once, grpc.insecure_channel(full, OPTIONS) as again:
        # Connect before time counts.
        grpc.channel_ready_future(again).result(timeout=TIMEOUT)
        stub = evaluation_pb2_grpc.EvaluationServiceStub(once)
        with evaluation_under_way(stub):
            check_refusal(stub)
            before = time.monotonic()
            response = evaluation_pb2_grpc.EvaluationServiceStub(again).Evaluate(LEXICAL, timeout=TIMEOUT)
            waited = time.monotonic() - before
    assert response.results[0].HasField("score")
    # By itself it would have come again after a tenth of that.
    assert waited >= 0.95 * PUSHBACK_SECONDS, waited
    return "RESOURCE_EXHAUSTED, OK after its 1 s"


@contextlib.contextmanager
def evaluation_under_way(stub):
    """A sample that keeps the server busy for three seconds."""
    events = stub.EvaluateStream(iter([pb.EvaluateStreamRequest(request=SLOW)]), timeout=3)
    # The first event is the metric that needs no judge.
    assert next(events).result.metric == "token_f1"
    yield
    events.cancel()


def check_refusal(stub):
    try:
        stub.Evaluate(LEXICAL, timeout=TIMEOUT)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
        retry_info = detail(rpc_status.from_call(error), error_details_pb2.RetryInfo)
        assert retry_info.retry_delay.seconds == PUSHBACK_SECONDS, retry_info
        assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == str(1000 * PUSHBACK_SECONDS)
    else:
        raise AssertionError("there was room for another sample")


def calls_go_round_the_replicas(*addresses):
    answered = answers(addresses)
    assert sorted(answered.values()) == [CALLS // 2] * 2, answered
    return f"{CALLS // 2} and {CALLS // 2} calls"


def a_replica_that_does_not_serve_gets_no_calls(*addresses):
    answered = answers(addresses)
    # GetServerInfo is answered at all times, so it is the channel that keeps away from the third.
    assert sorted(answered.values()) == [CALLS // 2] * 2, answered
    return f"0 calls of {CALLS}"


def answers(addresses):
    """How many calls each server answered, by the time at which it started."""
    # Without it the authority is the whole list, which is none by the rules of HTTP.
    options = [*OPTIONS, ("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"ipv4:{','.join(addresses)}", options) as channel:
        stub = server_pb2_grpc.ServerServiceStub(channel)
        await_replicas(stub, 2)
        return Counter(started(stub) for _ in range(CALLS))


def await_replicas(stub, count):
    """Calls until so many servers have answered, for the first calls go to whatever is connected first."""
    seen = set()
    deadline = time.monotonic() + TIMEOUT
    while len(seen) < count:
        assert time.monotonic() < deadline, seen
        seen.add(started(stub))


def started(stub):
    info = stub.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=TIMEOUT)
    return info.start_time.ToNanoseconds()


def main(address, judged, full, cold):
    checks = [
        (a_refused_call_is_made_again_when_the_server_says, [full]),
        (calls_go_round_the_replicas, [address, judged]),
        (a_replica_that_does_not_serve_gets_no_calls, [address, judged, cold]),
    ]
    passed = [run(function.__name__, lambda: function(*arguments)) for function, arguments in checks]
    print(f"{sum(passed)} of {len(passed)} passed")
    return all(passed)


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
