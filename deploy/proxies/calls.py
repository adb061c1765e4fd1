"""Clients that call through a proxy, and the outcomes of their calls."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import grpc
from assay.v1 import embedding_pb2, embedding_pb2_grpc, evaluation_pb2, evaluation_pb2_grpc

TIMEOUT = 30  # seconds; every call has one
EMBED = "assay.v1.EmbeddingService/Embed"
SERVICE_CONFIG = Path(__file__).parents[2] / "clients" / "service_config.json"
# A stream whose answers have begun can only be reset by a proxy. While it is being written, grpcio 1.82 says INTERNAL too,
# whatever the status was that came.
CUT_STREAM = ("embed_stream", "INTERNAL")

SAMPLE = evaluation_pb2.Sample(
    user_input="When did the Halden Bridge open?",
    response="The Halden Bridge opened in 1962.",
    retrieved_contexts=[evaluation_pb2.Context(text="The Halden Bridge opened on 4 May 1962.")],
)


def once(address):
    """A channel on which every failure is seen."""
    return grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)])


def patient(address):
    """A channel with the published service config, less what belongs to the proxy now: replicas and their health."""
    config = json.loads(SERVICE_CONFIG.read_text())
    del config["healthCheckConfig"]
    return grpc.aio.insecure_channel(address, [("grpc.service_config", json.dumps(config))])


async def embed(channel, inputs=("A red fox.",), **call):
    request = embedding_pb2.EmbedRequest(inputs=inputs)
    return await embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(request, **{"timeout": TIMEOUT, **call})


async def evaluate(channel):
    metrics = [evaluation_pb2.MetricSelection(name="faithfulness")]
    # Without the cache, so that the call takes its time.
    options = evaluation_pb2.EvaluateOptions(use_cache=False)
    request = evaluation_pb2.EvaluateRequest(sample=SAMPLE, metrics=metrics, options=options)
    response = await evaluation_pb2_grpc.EvaluationServiceStub(channel).Evaluate(request, timeout=TIMEOUT)
    assert response.results[0].score == 1, response


async def embed_stream(channel, inputs=10):
    requests = (embedding_pb2.EmbedStreamRequest(id=str(index), input=f"Fox {index}.") for index in range(inputs))
    ids = set()
    async for answer in embedding_pb2_grpc.EmbeddingServiceStub(channel).EmbedStream(requests, timeout=TIMEOUT):
        if answer.HasField("error"):
            raise InputError(answer.error)
        ids.add(answer.id)
    assert len(ids) == inputs, f"{len(ids)} ids of {inputs}"


class InputError(Exception):
    """An input of a stream that failed, while the stream itself goes on."""

    def __init__(self, status):
        self.status = status

    def code(self):
        return next(code for code in grpc.StatusCode if code.value[0] == self.status.code)

    def details(self):
        return self.status.message


class Load:
    """Callers of every kind, one call after the other until `stop`."""

    def __init__(self, channel, kinds=(embed, evaluate, embed_stream), callers=2):
        self.channel = channel
        self.answered = 0
        # By kind, status code and message.
        self.failures = Counter()
        self.ended = asyncio.Condition()
        self.stopping = False
        self.callers = [asyncio.create_task(self.run(kind)) for kind in kinds for _ in range(callers)]

    async def run(self, kind):
        while not self.stopping:
            try:
                await kind(self.channel)
                self.answered += 1
            except (grpc.aio.AioRpcError, InputError) as error:
                self.failures[kind.__name__, error.code().name, error.details()] += 1
            async with self.ended:
                self.ended.notify_all()

    async def more(self, calls):
        """Returns when so many more calls have been answered."""
        goal = self.answered + calls
        async with self.ended, asyncio.timeout(2 * TIMEOUT):
            await self.ended.wait_for(lambda: self.answered >= goal)

    async def stop(self):
        self.stopping = True
        await asyncio.gather(*self.callers)
        await self.channel.close()
        return self

    def failed(self, kind=None):
        return sum(count for (name, _, _), count in self.failures.items() if kind in (None, name))

    def hold_none(self):
        assert not self.failures, self.failures

    def hold_retryable(self):
        for kind, code, _ in self.failures:
            assert code == "UNAVAILABLE" or (kind, code) == CUT_STREAM, self.failures

    def __str__(self):
        codes = sorted({code for _, code, _ in self.failures})
        return " ".join([f"{self.failed()} of {self.answered + self.failed()} failed", *codes])
