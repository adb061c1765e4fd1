"""ONNX Runtime on the CPU."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import export
import numpy as np
import onnxruntime
from policy import Policy
from tokens import Tokens, padded


class OnnxRuntime:
    policies = ["one", "sorted8", "sorted32", "given32", "onex2", "sorted8x2"]

    def __init__(self, precision: str):
        self.precision = precision

    def version(self) -> str:
        return onnxruntime.__version__

    def load(self, model: Path, cache: Path, threads: int) -> None:
        self.tokens = Tokens(model)
        self.path = (export.onnx_int8 if self.precision == "int8" else export.onnx_f32)(model, cache)
        self.threads = threads
        self.sessions: dict[int, onnxruntime.InferenceSession] = {}
        self.pool = ThreadPoolExecutor(threads)
        self.dimensions = self._session(1).run(None, self._feed([[0, 0]]))[0].shape[1]

    def embed(self, texts: list[str], policy: str) -> np.ndarray:
        policy = Policy.parse(policy)
        session = self._session(policy.lanes)
        ids = self.tokens.ids(texts)
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)

        def compute(batch: list[int]) -> None:
            vectors[batch] = session.run(None, self._feed([ids[index] for index in batch]))[0]

        batches = policy.batches([len(sequence) for sequence in ids])
        # Several threads can share one session, each with its own computation.
        list(self.pool.map(compute, batches) if policy.lanes > 1 else map(compute, batches))
        return vectors

    def _feed(self, sequences: list[list[int]]) -> dict[str, np.ndarray]:
        return dict(zip(("input_ids", "attention_mask"), padded(sequences)))

    def _session(self, lanes: int) -> onnxruntime.InferenceSession:
        if lanes not in self.sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads // lanes
            options.inter_op_num_threads = 1
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
            self.sessions[lanes] = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        return self.sessions[lanes]
