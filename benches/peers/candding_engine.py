"""candding, a Python binding of candle. It loads models only from the hub cache, so the directory has that layout."""

import json
import os
from pathlib import Path

import numpy as np
from policy import Policy

# Shape -> model of its catalogue with this shape.
MODELS = {384: "sentence-transformers/all-MiniLM-L6-v2", 512: "BAAI/bge-small-zh-v1.5"}
REVISION = "0" * 40


class Candding:
    policies = ["one", "sorted8", "sorted32"]

    def version(self) -> str:
        import candding

        return candding.__version__

    def load(self, model: Path, cache: Path, threads: int) -> None:
        self.dimensions = json.loads((model / "config.json").read_text())["hidden_size"]
        name = MODELS[self.dimensions]
        os.environ |= {"HF_HOME": str(cache / "hub"), "HF_HUB_OFFLINE": "1", "RAYON_NUM_THREADS": str(threads)}
        _lay_out(model, cache / "hub/hub" / f"models--{name.replace('/', '--')}")
        import candding

        self.model = candding.TextEmbedding(name, device="cpu", dtype="f32", max_length=512)

    def embed(self, texts: list[str], policy: str) -> np.ndarray:
        policy = Policy.parse(policy)
        if not policy.by_length:
            return self.model.embed(texts, batch_size=policy.size)
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        vectors[order] = self.model.embed([texts[index] for index in order], batch_size=policy.size)
        return vectors


def _lay_out(model: Path, repository: Path) -> None:
    snapshot = repository / "snapshots" / REVISION
    if not snapshot.exists():
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(REVISION)
        for file in model.rglob("*"):
            if file.is_file():
                link = snapshot / file.relative_to(model)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.resolve())
