"""The calls of an asyncio program.

    PYTHONPATH=gen python smoke_async.py ADDRESS [JUDGED_ADDRESS]

The second server is the one with the judge of ../judge.py.
"""

import asyncio
import sys

import grpc
from assay.v1 import embedding_pb2 as pb
from assay.v1 import embedding_pb2_grpc, evaluation_pb2, evaluation_pb2_grpc

TIMEOUT = 60  # seconds


async def calls_run_side_by_side(stub):
    texts = [f"Sentence number {n}." for n in range(8)]
    calls = [stub.Embed(pb.EmbedRequest(inputs=[text]), timeout=TIMEOUT) for text in texts]
    responses = await asyncio.gather(*calls)
    assert all(len(response.embeddings[0].values) == 384 for response in responses)


async def a_stream_answers_every_input_under_its_id(stub):
    async def requests():
        for n in range(200):
            yield pb.EmbedStreamRequest(id=str(n), input="" if n == 7 else f"Sentence number {n}.")

    answers = {answer.id: answer async for answer in stub.EmbedStream(requests(), timeout=TIMEOUT)}
    assert answers.keys() == {str(n) for n in range(200)}
    assert [id for id, answer in answers.items() if answer.HasField("error")] == ["7"]


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
    else:
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


async def a_stream_of_samples_ends_with_its_summary(stub):
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


EMBEDDING = [
    calls_run_side_by_side,
    a_stream_answers_every_input_under_its_id,
    a_stream_can_be_a_conversation,
    a_deadline_ends_the_call,
    a_cancelled_task_cancels_its_call,
]
EVALUATION = [samples_are_evaluated_side_by_side, a_stream_of_samples_ends_with_its_summary]


async def run(address, stub_class, functions):
    async with grpc.aio.insecure_channel(address) as channel:
        stub = stub_class(channel)
        for function in functions:
            await function(stub)
            print(f"ok      {function.__name__}")


async def main(address, judged_address=None):
    await run(address, embedding_pb2_grpc.EmbeddingServiceStub, EMBEDDING)
    if judged_address:
        await run(judged_address, evaluation_pb2_grpc.EvaluationServiceStub, EVALUATION)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
