"""The engines in Rust: the bench target `engine`, built by cargo, or any other program that speaks protocol.py."""

import json
import subprocess

from models import ROOT

ENGINES = {
    "assay": ["--engine", "assay"],
    "candle-f32": ["--engine", "candle"],
    "machine": ["--engine", "machine"],
}


def executable() -> str:
    """Builds the bench target and returns its path."""
    command = ["cargo", "bench", "--locked", "--no-run", "--bench", "engine", "--message-format", "json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    messages = map(json.loads, built.stdout.splitlines())
    return next(
        message["executable"]
        for message in messages
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "engine"
    )


def command(program: str, name: str) -> list[str]:
    """Name of an engine, such as `assay-bf16` for Assay in bf16."""
    if name in ENGINES:
        return [program, *ENGINES[name]]
    family, _, precision = name.partition("-")
    return [program, *ENGINES[family], "--precision", precision]
