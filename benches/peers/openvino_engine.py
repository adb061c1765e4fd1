"""OpenVINO on the CPU, with the precision of inference as a hint."""

from pathlib import Path

import export
import numpy as np
import openvino
from policy import Policy
from tokens import Tokens, padded


class OpenVino:
    policies = ["one", "sorted8", "sorted32", "given32", "onex2", "sorted8x2", "sorted32x2"]

    def __init__(self, precision: str):
        self.precision = precision

    def version(self) -> str:
        return openvino.__version__.split("-")[0]

    def load(self, model: Path, cache: Path, threads: int) -> None:
        self.tokens = Tokens(model)
        make = export.openvino_int8 if self.precision == "int8" else export.openvino_f32
        self.core = openvino.Core()
        self.graph = self.core.read_model(make(model, cache))
        self.threads = threads
        self.queues: dict[int, openvino.AsyncInferQueue] = {}
        self.dimensions = self.graph.output(0).partial_shape[1].get_length()
        self._queue(1)

    def embed(self, texts: list[str], policy: str) -> np.ndarray:
        policy = Policy.parse(policy)
        queue = self._queue(policy.lanes)
        ids = self.tokens.ids(texts)
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)

        for batch in policy.batches([len(sequence) for sequence in ids]):
            feed = list(padded([ids[index] for index in batch]))
            if policy.lanes > 1:
                queue.start_async(feed, (vectors, batch))
            else:
                queue[0].infer(feed, share_inputs=True)
                vectors[batch] = queue[0].get_output_tensor(0).data
        if policy.lanes > 1:
            queue.wait_all()
        return vectors

    def _queue(self, lanes: int) -> openvino.AsyncInferQueue:
        if lanes not in self.queues:
            settings = {
                "INFERENCE_NUM_THREADS": self.threads,
                "NUM_STREAMS": lanes,
                "INFERENCE_PRECISION_HINT": "f32" if self.precision == "int8" else self.precision,
            }
            compiled = self.core.compile_model(self.graph, "CPU", settings)
            self.queues[lanes] = openvino.AsyncInferQueue(compiled, lanes)
            self.queues[lanes].set_callback(_keep)
        return self.queues[lanes]


def _keep(request, place: tuple[np.ndarray, list[int]]) -> None:
    vectors, batch = place
    vectors[batch] = request.get_output_tensor(0).data
