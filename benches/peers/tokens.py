"""Tokenization to padded arrays, for peers without tokenization."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer


class Tokens:
    """tokenizer.json of a model directory, with truncation at the limit of the model."""

    def __init__(self, model: Path):
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(json.loads((model / "sentence_bert_config.json").read_text())["max_seq_length"])

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Tokenizes on all threads of the library."""
        return [encoded.ids for encoded in self.tokenizer.encode_batch_fast(texts)]


def padded(sequences: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and mask, both int64 `[sequences, longest]`."""
    longest = max(map(len, sequences))
    ids = np.zeros((len(sequences), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
