"""The two model directories of the comparison, below target/bench/models."""

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Of BERT models trained for Chinese.
VOCABULARY = 21_128
MOST_TOKENS = 512
NAMES = {"minilm": "all-MiniLM-L6-v2", "bge-shape": "random weights of bge-small-zh's shape"}


def prepare(name: str, minilm: Path, out: Path) -> Path:
    """Directory of the model, which is created if it is missing."""
    directory = out / name
    if not (directory / "model.safetensors").exists():
        shutil.rmtree(directory, ignore_errors=True)
        {"minilm": lambda: _copy_minilm(minilm, directory), "bge-shape": lambda: _random(directory)}[name]()
    return directory


def _copy_minilm(source: Path, directory: Path) -> None:
    """The model with a limit of 512 tokens, the size of its position table, instead of 256."""
    shutil.copytree(source, directory)
    _change(directory / "sentence_bert_config.json", max_seq_length=MOST_TOKENS)


def _random(directory: Path) -> None:
    """The test model of this shape, with the vocabulary size and number of weights of the real model."""
    sys.path.insert(0, str(ROOT / "tests/fixtures"))
    import random_models
    from prng import values
    from safetensors.numpy import save_file

    shape = next(model for model in random_models.MODELS if model.name == "bert-zh-cls")
    shutil.copytree(ROOT / "tests/fixtures/models" / shape.name, directory)
    (directory / "tensors.json").unlink()
    _change(directory / "config.json", vocab_size=VOCABULARY)
    tensors = {
        name: values(name, dims, *random_models.scale_and_offset(name, dims))
        for name, dims in random_models.tensor_shapes(shape, VOCABULARY)
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values, indent=2))


def mflop(model: Path) -> tuple[float, float]:
    """MFLOP of the products of one token, and of its attention per token of its sequence."""
    config = json.loads((model / "config.json").read_text())
    width, wide, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    return layers * 2 * (4 * width * width + 2 * width * wide) / 1e6, layers * 4 * width / 1e6
