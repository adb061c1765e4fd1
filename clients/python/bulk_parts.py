"""Checkpoints of a job of many rows: parts, parquet files with the rows of one batch each, which end as one file."""

import hashlib
import os
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


class Parts:
    """A directory that all workers see. A part appears there whole, or not at all."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.read = set()
        self.known = set()

    def files(self):
        return sorted(self.directory.glob("*.parquet"))

    def ids(self):
        """The ids of all rows that are done, by this worker or another."""
        for file in self.files():
            if file.name not in self.read:
                self.known.update(pq.read_table(file, columns=["id"])["id"].to_pylist())
                self.read.add(file.name)
        return self.known

    def write(self, columns, began):
        """`began` is for who wants to know how fast it went."""
        told = {"began": str(began), "ended": str(time.time()), "worker": str(os.getpid())}
        table = pa.table(columns).replace_schema_metadata(told)
        # The same rows have the same name, so that a batch that is done twice is there once.
        name = hashlib.sha256("\n".join(map(str, columns["id"])).encode()).hexdigest()[:32]
        replace(self.directory / f"{name}.parquet", lambda file: pq.write_table(table, file))

    def seal(self, path, expected):
        """All parts as one file, each row once. Gives how many have which status, and how many were there twice."""
        seen, statuses, twice = set(), Counter(), 0

        def copy(file):
            nonlocal twice
            files = self.files()
            with pq.ParquetWriter(file, pq.read_schema(files[0]).remove_metadata()) as writer:
                for part in map(pq.read_table, files):
                    fresh = [id not in seen for id in part["id"].to_pylist()]
                    twice += fresh.count(False)
                    part = part.filter(fresh).replace_schema_metadata()
                    seen.update(part["id"].to_pylist())
                    statuses.update(part["status"].to_pylist())
                    writer.write_table(part)
            if seen != expected:
                missing, foreign = len(expected - seen), len(seen - expected)
                raise RuntimeError(f"{missing} rows are missing, {foreign} are none of the input")

        replace(Path(path), copy)
        return statuses, twice


def replace(path, write):
    """Writes a file beside its place, and moves it there once it is on the disk."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(draft, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
