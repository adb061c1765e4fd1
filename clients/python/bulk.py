"""A job of many rows on an engine that has many workers: what ray_*.py and spark_*.py have in common.

    PYTHONPATH=gen python DRIVER INPUT OUTPUT ADDRESS [ADDRESS ...]

INPUT is a parquet file, or a directory of them, with a column `id` that has each value once, and `text` to embed or
`user_input`, `response`, `reference` and `retrieved_contexts` to evaluate. OUTPUT is a parquet file with the columns
`id`, `status`, `message`, and `vector` or `results`. OUTPUT.parts has what is done: the same
command goes on from there.
"""

import argparse
import asyncio
import functools
import time
from collections import Counter
from dataclasses import dataclass

import pyarrow.dataset
from bulk_calls import open_channel, outcomes_of
from bulk_parts import Parts


@dataclass(frozen=True)
class Job:
    task: type
    input: str
    output: str
    addresses: tuple
    metrics: tuple
    workers: int
    batch_rows: int
    cluster: str | None

    @property
    def parts(self):
        return f"{self.output}.parts"


class Worker:
    """Holds one channel for all batches that it is given."""

    def __init__(self, job):
        self.job = job
        self.parts = Parts(job.parts)
        self.loop = asyncio.new_event_loop()
        self.task = self.loop.run_until_complete(self.open())

    async def open(self):
        return self.job.task(open_channel(self.job.addresses), self.job.metrics)

    def do(self, table):
        """Writes a part with the rows of a batch that are not done yet, and gives their number."""
        began = time.time()
        done = self.parts.ids()
        rows = [row for row in table.to_pylist() if row["id"] not in done]
        if rows:
            outcomes = self.loop.run_until_complete(outcomes_of(self.task, rows))
            columns = {
                "id": [row["id"] for row in rows],
                "status": [outcome.status for outcome in outcomes],
                "message": [outcome.message for outcome in outcomes],
                **self.task.column([outcome.value for outcome in outcomes]),
            }
            self.parts.write(columns, began)
        return len(rows)


@functools.cache
def worker_of(job):
    """The worker of this process, however many tasks it is given."""
    return Worker(job)


def run(task, engine):
    """`engine` hands every row of the input to a Worker."""
    job = job_of(task)
    parts = Parts(job.parts)
    before = len(parts.ids())
    ids = pyarrow.dataset.dataset(job.input).to_table(columns=["id"])["id"].to_pylist()
    if not ids:
        raise SystemExit("the input has no rows")
    [(id, count)] = Counter(ids).most_common(1)
    if count > 1:
        raise SystemExit(f"the id {id} is in {count} rows of the input")
    engine(job)
    statuses, twice = parts.seal(job.output, set(ids))
    counts = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    print(f"{len(ids)} rows: {counts}; new: {len(parts.ids()) - before}; left out, as they were twice: {twice}")


def job_of(task):
    parser = argparse.ArgumentParser(description=task.__doc__)
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS", help="of a sidecar, with an IPv4 address")
    parser.add_argument("--metrics", default="lexical", help="names of metrics or groups, with commas")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-rows", type=int, default=1000, help="rows of one part")
    parser.add_argument("--cluster", help="an address of Ray, or a master of Spark; default: one of this machine")
    given = parser.parse_args()
    given.addresses, given.metrics = tuple(given.addresses), tuple(given.metrics.split(","))
    return Job(task, **vars(given))
