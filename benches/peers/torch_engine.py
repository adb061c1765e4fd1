"""sentence-transformers on PyTorch in its usual configuration, optionally compiled."""

from pathlib import Path

import numpy as np
import sentence_transformers
import torch
from policy import Policy
from sentence_transformers import SentenceTransformer


class SentenceTransformers:
    # The library sorts by length.
    policies = ["one", "sorted8", "sorted32"]

    def __init__(self, precision: str, compiled: bool = False):
        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.compiled = compiled

    def version(self) -> str:
        return f"{sentence_transformers.__version__}, PyTorch {torch.__version__.split('+')[0]}"

    def load(self, model: Path, cache: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = SentenceTransformer(str(model), device="cpu", model_kwargs={"dtype": self.dtype})
        if self.compiled:
            self.model[0].auto_model = torch.compile(self.model[0].auto_model, dynamic=True)
        self.dimensions = len(self.embed(["a text"], "one")[0])

    def embed(self, texts: list[str], policy: str) -> np.ndarray:
        size = Policy.parse(policy).size
        with torch.inference_mode():
            vectors = self.model.encode(
                texts, batch_size=size, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
            )
        return vectors.astype(np.float32)
