"""Texts of the comparison, one per line. Equal for all runs with the same package versions.

English comes from the prose in the docstrings of pinned packages, Chinese from tests/fixtures/texts.jsonl. Sentences
are strung together until a text has the tokens wanted, then cut word by word (Chinese: character by character).
"""

import ast
import json
import math
import random
import re
import sysconfig
from pathlib import Path

from models import MOST_TOKENS, ROOT
from tokenizers import Tokenizer
from tokens import Tokens

SEED = 42
PACKAGES = ("sklearn", "scipy", "networkx", "nncf")
PROSE = re.compile(r"[A-Z][A-Za-z ,;'()-]{30,240}[a-z)]\.")
QUERY_TOKENS, PASSAGE_TOKENS, ACCURACY_TEXTS = 11, 127, 1000
# Parameters of the log-normal lengths of bulk work.
MEDIAN, MEAN = 35, 61
SCALING_TEXTS = (1, 3, 10, 32, 100, 316, 1000, 3162, 10_000)
SCALING_TOKENS = (8, 16, 32, 64, 128, 256, 512)


def write(model: Path, chinese: bool, out: Path) -> dict[str, dict]:
    """Writes every workload below `out`. Returns its file and the tokens per text."""
    maker = _Maker(Tokens(model), chinese)
    made = {
        "w1": [maker.text(QUERY_TOKENS)],
        "w2": [maker.text(PASSAGE_TOKENS)],
        "w3": maker.varied(256),
        "w4": [maker.text(MOST_TOKENS) for _ in range(64)],
        "accuracy": maker.varied(ACCURACY_TEXTS),
    }
    calibration = maker.varied(256)
    scaled = maker.varied(1000)
    made |= {f"texts-{count}": (scaled * 10)[:count] for count in SCALING_TEXTS}
    # Similar work in each, so that fluctuations of the machine have similar effects.
    made |= {f"tokens-{size}": [maker.text(size) for _ in range(16_384 // size)] for size in SCALING_TOKENS}
    out.mkdir(parents=True, exist_ok=True)
    (out / "calibration.txt").write_text("\n".join(calibration) + "\n", encoding="utf-8")
    return {name: _describe(out / f"{name}.txt", texts, maker.tokens) for name, texts in made.items()}


def _describe(file: Path, texts: list[str], tokens: Tokens) -> dict:
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    lengths = [len(ids) for ids in tokens.ids(texts)]
    return {"path": str(file), "texts": len(texts), "tokens": sum(lengths), "lengths": lengths}


class _Maker:
    def __init__(self, tokens: Tokens, chinese: bool):
        self.tokens = tokens
        self.whole = Tokenizer.from_str(tokens.tokenizer.to_str())
        self.whole.no_truncation()
        self.random = random.Random(SEED)
        pool = _english()
        if chinese:
            pool = [sentence for pair in zip(pool, _chinese() * len(pool)) for sentence in pair]
        self.random.shuffle(pool)
        lengths = [len(ids) - 2 for ids in tokens.ids(pool)]
        self.pool = list(zip(pool, lengths))
        self.next = 0

    def varied(self, count: int) -> list[str]:
        """Texts with log-normal lengths."""
        sigma = math.sqrt(2 * math.log(MEAN / MEDIAN))
        drawn = (round(self.random.lognormvariate(math.log(MEDIAN), sigma)) for _ in range(count))
        return [self.text(min(max(tokens, 4), MOST_TOKENS)) for tokens in drawn]

    def text(self, tokens: int) -> str:
        """A text with this many tokens, or a few less if no cut fits."""
        sentences, have = [], 2
        while have < tokens:
            sentence, length = self.pool[self.next % len(self.pool)]
            self.next += 1
            sentences.append(sentence)
            have += length
        return self._cut(" ".join(sentences), tokens)

    def _cut(self, text: str, tokens: int) -> str:
        """Longest prefix that ends with a word or Chinese character and has at most this many tokens."""
        ends = [match.end() for match in re.finditer(r"[㐀-鿿]|[^\s㐀-鿿]+", text)]
        low, high = 0, len(ends) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if len(self.whole.encode(text[: ends[middle]]).ids) <= tokens:
                low = middle
            else:
                high = middle - 1
        return text[: ends[low]]


def _english() -> list[str]:
    site = Path(sysconfig.get_path("purelib"))
    found: dict[str, None] = {}
    for package in PACKAGES:
        for file in sorted((site / package).rglob("*.py")):
            for prose in _docstrings(file.read_text(encoding="utf-8")):
                sentences = PROSE.findall(re.sub(r"\s+", " ", prose))
                # A row of dashes marks a heading.
                found |= dict.fromkeys(sentence for sentence in sentences if "--" not in sentence)
    return list(found)


def _docstrings(source: str) -> list[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, documented))
    return [text for text in map(ast.get_docstring, nodes) if text]


def _chinese() -> list[str]:
    lines = (ROOT / "tests/fixtures/texts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = (json.loads(line) for line in lines)
    return [row["text"] for row in rows if row["kind"].startswith("zh-") and len(row["text"]) >= 10]
