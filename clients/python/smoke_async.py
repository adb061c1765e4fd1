"""The calls of an asyncio program.

    PYTHONPATH=gen python smoke_async.py 127.0.0.1:50051
"""

import asyncio
import sys

import grpc
from assay.v1 import embedding_pb2 as pb
from assay.v1 import embedding_pb2_grpc

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


async def main(address):
    async with grpc.aio.insecure_channel(address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        for function in [
            calls_run_side_by_side,
            a_stream_answers_every_input_under_its_id,
            a_stream_can_be_a_conversation,
            a_deadline_ends_the_call,
            a_cancelled_task_cancels_its_call,
        ]:
            await function(stub)
            print(f"ok      {function.__name__}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
