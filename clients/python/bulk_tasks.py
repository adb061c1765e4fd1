"""What a job of many rows asks of the sidecars: texts to vectors, or samples to scores."""

import numpy as np
import pyarrow as pa
from assay.v1 import embedding_pb2, embedding_pb2_grpc, evaluation_pb2, evaluation_pb2_grpc
from bulk_calls import CALL_TIMEOUT, Later, retry_after

RESULT = pa.struct([("label", pa.string()), ("status", pa.string()), ("score", pa.float64())])


class Embed:
    """Texts to vectors, many rows in one call. A value is the vector's numbers as bytes, 4 each, little-endian."""

    columns = ("id", "text")
    rows_per_call = 32
    calls_in_flight = 8

    def __init__(self, channel, _metrics):
        self.stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        self.options = embedding_pb2.EmbedOptions(encoding=embedding_pb2.ENCODING_FLOAT32_BYTES)

    async def call(self, rows):
        request = embedding_pb2.EmbedRequest(inputs=[row["text"] or "" for row in rows], options=self.options)
        response = await self.stub.Embed(request, timeout=CALL_TIMEOUT)
        return [embedding.raw for embedding in response.embeddings]

    @staticmethod
    def column(values):
        """A row of numbers for each, null where there is none."""
        numbers = np.frombuffer(b"".join(value or b"" for value in values), "<f4")
        ends = np.cumsum([len(value or b"") // 4 for value in values])
        missing = pa.array([value is None for value in values])
        rows = pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), pa.array(numbers), mask=missing)
        return {"vector": rows}


class Evaluate:
    """Samples to scores, one row in a call. A value is a list of label, status and score."""

    columns = ("id", "user_input", "response", "reference", "retrieved_contexts")
    rows_per_call = 1
    calls_in_flight = 32

    def __init__(self, channel, metrics):
        self.stub = evaluation_pb2_grpc.EvaluationServiceStub(channel)
        self.metrics = [evaluation_pb2.MetricSelection(name=name) for name in metrics]

    async def call(self, rows):
        [row] = rows
        sample = evaluation_pb2.Sample(
            user_input=row["user_input"],
            response=row["response"],
            reference=row["reference"],
            retrieved_contexts=[evaluation_pb2.Context(text=text) for text in row["retrieved_contexts"] or []],
        )
        request = evaluation_pb2.EvaluateRequest(sample=sample, metrics=self.metrics)
        response = await self.stub.Evaluate(request, timeout=CALL_TIMEOUT)
        for result in response.results:
            if retry_after(result.error) is not None:
                raise Later(result.error)
        return [[read(result) for result in response.results]]

    @staticmethod
    def column(values):
        return {"results": pa.array(values, pa.list_(RESULT))}


def read(result):
    status = evaluation_pb2.MetricStatus.Name(result.status).removeprefix("METRIC_STATUS_")
    return {"label": result.label, "status": status, "score": result.score if result.HasField("score") else None}
