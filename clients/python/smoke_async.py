"""The calls of an asyncio program.

    PYTHONPATH=gen python smoke_async.py ADDRESS unix:PATH JUDGED_ADDRESS FULL_ADDRESS COLD_ADDRESS

The servers are those of smoke.py and smoke_channel.py.
"""

import asyncio
import contextlib
import sys
import time
from collections import Counter

import grpc
import numpy as np
from assay.v1 import embedding_pb2 as pb
from assay.v1 import embedding_pb2_grpc, evaluation_pb2, evaluation_pb2_grpc, server_pb2, server_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from smoke import decode, detail, field_violations
from smoke_channel import CALLS, LEXICAL, OPTIONS, PUSHBACK_SECONDS, SLOW

TIMEOUT = 60  # seconds


# EmbeddingService


async def calls_run_side_by_side(stub):
    texts = [f"Sentence number {n}." for n in range(8)]
    calls = [stub.Embed(pb.EmbedRequest(inputs=[text]), timeout=TIMEOUT) for text in texts]
    responses = await asyncio.gather(*calls)
    assert all(len(response.embeddings[0].values) == 384 for response in responses)
    return f"{len(responses)} calls side by side"


async def bytes_of_every_encoding_hold_the_values(stub):
    async def embedded(encoding):
        options = pb.EmbedOptions(encoding=encoding)
        response = await stub.Embed(pb.EmbedRequest(inputs=["A red fox."], options=options), timeout=TIMEOUT)
        return decode(response.embeddings[0], encoding)

    values = await embedded(pb.ENCODING_FLOAT32_VALUES)
    for encoding in (pb.ENCODING_FLOAT32_BYTES, pb.ENCODING_FLOAT16_BYTES, pb.ENCODING_INT8_BYTES):
        assert np.abs(await embedded(encoding) - values).max() < 2e-3, encoding
    signs = await embedded(pb.ENCODING_BINARY_BYTES)
    assert np.mean(signs == (values > 0)) > 0.99
    return "f32, f16, int8, bits"


async def a_stream_answers_every_input_under_its_id(stub):
    async def requests():
        for n in range(200):
            yield pb.EmbedStreamRequest(id=str(n), input="" if n == 7 else f"Sentence number {n}.")

    answers = {answer.id: answer async for answer in stub.EmbedStream(requests(), timeout=TIMEOUT)}
    assert answers.keys() == {str(n) for n in range(200)}
    assert [id for id, answer in answers.items() if answer.HasField("error")] == ["7"]
    return f"{len(answers)} ids of 200"


async def a_stream_can_be_a_conversation(stub):
    stream = stub.EmbedStream(timeout=TIMEOUT)
    for n in range(3):
        await stream.write(pb.EmbedStreamRequest(id=str(n), input=f"Question {n}"))
        answer = await stream.read()
        assert answer.id == str(n) and len(answer.embedding.values) == 384
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def a_deadline_ends_the_call(stub):
    try:
        await stub.Embed(pb.EmbedRequest(inputs=["a long text " * 60] * 64), timeout=0.005)
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        return error.code().name
    raise AssertionError("the call outlived its deadline")


async def a_cancelled_task_cancels_its_call(stub):
    call = stub.Embed(pb.EmbedRequest(inputs=["a long text " * 60] * 64), timeout=TIMEOUT)
    task = asyncio.ensure_future(call)
    await asyncio.wait([task], timeout=0.01)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    else:
        raise AssertionError("the call was faster than its cancellation")
    assert call.cancelled()
    await stub.Embed(pb.EmbedRequest(inputs=["Still there?"]), timeout=TIMEOUT)
    return "CANCELLED"


async def an_empty_input_is_named(stub):
    try:
        await stub.Embed(pb.EmbedRequest(inputs=["fine", "", "fine"]), timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        status = rpc_status.from_call(error)
    else:
        raise AssertionError("the call succeeded")
    [violation] = field_violations(status)
    info = detail(status, error_details_pb2.ErrorInfo)
    assert (violation.field, info.reason) == ("inputs[1]", "INVALID_REQUEST")
    return f"BadRequest {violation.field}, ErrorInfo {info.reason}"


# EvaluationService


def evaluate_request(n):
    """Every second response is supported by its context."""
    sample = evaluation_pb2.Sample(
        user_input="When did the bridge open?",
        response=f"Bridge number {n} opened in spring.",
        retrieved_contexts=[evaluation_pb2.Context(text=f"Bridge number {n + n % 2} opened in spring.")],
    )
    metrics = [evaluation_pb2.MetricSelection(name="faithfulness")]
    return evaluation_pb2.EvaluateRequest(sample=sample, metrics=metrics)


async def samples_are_evaluated_side_by_side(stub):
    calls = [stub.Evaluate(evaluate_request(n), timeout=TIMEOUT) for n in range(8)]
    responses = await asyncio.gather(*calls)
    assert [response.results[0].score for response in responses] == [1, 0] * 4
    return f"{len(responses)} samples side by side"


async def a_stream_tells_metrics_samples_and_their_summary(stub):
    async def requests():
        for n in range(100):
            yield evaluation_pb2.EvaluateStreamRequest(id=str(n), request=evaluate_request(n))

    scores = {}
    async for event in stub.EvaluateStream(requests(), timeout=TIMEOUT):
        match event.WhichOneof("event"):
            case "result":  # One metric, as soon as it is known.
                scores[event.id] = event.result.score
            case "sample":  # All metrics of one sample.
                assert event.sample.results[0].score == scores[event.id]
            case "error":
                raise AssertionError(event)
            case "summary":
                summary = event.summary
    assert scores == {str(n): 1 - n % 2 for n in range(100)}
    [metric] = summary.metrics
    assert (summary.samples, metric.scored, metric.coverage) == (100, 100, 1)
    # Samples end in any order, so the last digits of the mean are not always the same.
    assert abs(metric.mean - 0.5) < 1e-9
    return f"{summary.samples} samples, {summary.refused} refused"


# Channels


async def a_unix_socket_serves_the_same_vectors(stub, address):
    request = pb.EmbedRequest(inputs=["A red fox."])
    expected = await stub.Embed(request, timeout=TIMEOUT)
    # Without it the authority is the path, which is none by the rules of HTTP.
    options = [("grpc.default_authority", "localhost")]
    async with grpc.aio.insecure_channel(address, options) as channel:
        response = await embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(request, timeout=TIMEOUT)
    assert np.abs(np.array(response.embeddings[0].values) - expected.embeddings[0].values).max() < 1e-5
    return "with the authority localhost"


async def a_refused_call_is_made_again_when_the_server_says(address):
    async with (
        grpc.aio.insecure_channel(address) as once,
        grpc.aio.insecure_channel(address, OPTIONS) as again,
    ):
        # Connect before time counts.
        await asyncio.wait_for(again.channel_ready(), TIMEOUT)
        stub = evaluation_pb2_grpc.EvaluationServiceStub(once)
        async with evaluation_under_way(stub):
            await check_refusal(stub)
            before = time.monotonic()
            response = await evaluation_pb2_grpc.EvaluationServiceStub(again).Evaluate(LEXICAL, timeout=TIMEOUT)
            waited = time.monotonic() - before
    assert response.results[0].HasField("score")
    # By itself it would have come again after a tenth of that.
    assert waited >= 0.95 * PUSHBACK_SECONDS, waited
    return "RESOURCE_EXHAUSTED, OK after its 1 s"


@contextlib.asynccontextmanager
async def evaluation_under_way(stub):
    """A sample that keeps the server busy for three seconds."""
    events = stub.EvaluateStream(iter([evaluation_pb2.EvaluateStreamRequest(request=SLOW)]), timeout=3)
    # The first event is the metric that needs no judge.
    assert (await events.read()).result.metric == "token_f1"
    yield
    events.cancel()


async def check_refusal(stub):
    try:
        await stub.Evaluate(LEXICAL, timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
        retry_info = detail(rpc_status.from_call(error), error_details_pb2.RetryInfo)
        assert retry_info.retry_delay.seconds == PUSHBACK_SECONDS, retry_info
    else:
        raise AssertionError("there was room for another sample")


async def calls_go_round_the_replicas(*addresses):
    answered = await answers(addresses)
    assert sorted(answered.values()) == [CALLS // 2] * 2, answered
    return f"{CALLS // 2} and {CALLS // 2} calls"


async def a_replica_that_does_not_serve_gets_no_calls(*addresses):
    answered = await answers(addresses)
    assert sorted(answered.values()) == [CALLS // 2] * 2, answered
    return f"0 calls of {CALLS}"


async def answers(addresses):
    """How many calls each server answered, by the time at which it started."""
    # Without it the authority is the whole list, which is none by the rules of HTTP.
    options = [*OPTIONS, ("grpc.default_authority", "localhost")]
    async with grpc.aio.insecure_channel(f"ipv4:{','.join(addresses)}", options) as channel:
        stub = server_pb2_grpc.ServerServiceStub(channel)
        await asyncio.wait_for(await_replicas(stub, 2), TIMEOUT)
        return Counter([await started(stub) for _ in range(CALLS)])


async def await_replicas(stub, count):
    """Calls until so many servers have answered, for the first calls go to whatever is connected first."""
    seen = set()
    while len(seen) < count:
        seen.add(await started(stub))


async def started(stub):
    info = await stub.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=TIMEOUT)
    return info.start_time.ToNanoseconds()


EMBEDDING = [
    calls_run_side_by_side,
    bytes_of_every_encoding_hold_the_values,
    a_stream_answers_every_input_under_its_id,
    a_stream_can_be_a_conversation,
    a_deadline_ends_the_call,
    a_cancelled_task_cancels_its_call,
    an_empty_input_is_named,
]
EVALUATION = [samples_are_evaluated_side_by_side, a_stream_tells_metrics_samples_and_their_summary]


async def run(function, *arguments):
    seen = await function(*arguments)
    print(f"ok      {function.__name__}" + (f": {seen}" if seen else ""))


async def main(address, unix_address, judged, full, cold):
    print("library grpcio", grpc.__version__)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        for function in EMBEDDING:
            await run(function, stub)
        await run(a_unix_socket_serves_the_same_vectors, stub, unix_address)
    async with grpc.aio.insecure_channel(judged) as channel:
        for function in EVALUATION:
            await run(function, evaluation_pb2_grpc.EvaluationServiceStub(channel))
    await run(a_refused_call_is_made_again_when_the_server_says, full)
    await run(calls_go_round_the_replicas, address, judged)
    await run(a_replica_that_does_not_serve_gets_no_calls, address, judged, cold)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
