"""Ray and Spark beside a bare asyncio client, and what is left of a job when a worker and a sidecar are killed in it.

    PYTHONPATH=gen python bulk_drill.py BINARY MODEL_DIR

Two sidecars on ports of their own, one compute thread each, are started again when they end, as a kubelet does.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from bulk_calls import open_channel, outcomes_of
from bulk_drill_rows import check_statuses, f1, name, number, sample_row, text_row
from bulk_drill_sidecar import Sidecar, Watch
from bulk_parts import Parts
from bulk_tasks import Embed, Evaluate

HERE = Path(__file__).parent
METRICS = ("token_f1", "rouge", "semantic_similarity")
WORKERS = 2
# When what is killed, as a share of all rows.
WORKER_DIES, SIDECAR_DIES = 0.25, 0.5
# The share of the bare client's throughput that an engine must reach.
LEAST_RATIO = 0.85
# Of the page, around what was seen.
BEGIN, END = "<!-- bulk:begin -->\n", "<!-- bulk:end -->\n"

DRIVERS = {"ray_embed": Embed, "spark_embed": Embed, "ray_evaluate": Evaluate, "spark_evaluate": Evaluate}


def main():
    given = arguments()
    # What was started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    with tempfile.TemporaryDirectory(prefix="assay-bulk.") as work, contextlib.ExitStack() as stack:
        work = Path(work)
        sidecars = [Sidecar(given.binary, given.model, work / f"sidecar-{n}.log") for n in range(2)]
        watch = stack.enter_context(Watch(sidecars))
        drill = stack.enter_context(Drill(work, sidecars, watch, given.rows))
        ratios = drill.throughput(given.rounds)
        for driver in DRIVERS if given.only is None else given.only:
            drill.kill_and_go_on(driver)
        watch.check()
        assert watch.refusals > 0, "no queue was ever full"
    if given.docs:
        write_page(given, drill, watch)
    slow = {engine: ratio for engine, ratio in ratios.items() if ratio < LEAST_RATIO}
    if slow:
        sys.exit(f"slower than {LEAST_RATIO} of the bare client: {slow}")
    print("drill passed")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=DRIVERS, help="of these drivers, what is killed")
    parser.add_argument("--docs", type=Path, help="a page that gets the figures")
    return parser.parse_args()


def write_page(given, drill, watch):
    lines = ["", "| what | Ray Data | PySpark |", "| --- | --- | --- |"]
    for what in dict.fromkeys(what for what, _ in drill.seen):
        cells = [drill.seen.get((what, engine), "") for engine in ("ray", "spark")]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    lines += ["", f"{given.rows} rows, {given.rounds} rounds; {watch.said()}.", ""]
    before, rest = given.docs.read_text().split(BEGIN)
    _, after = rest.split(END)
    given.docs.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after)


class Drill:
    def __init__(self, work, sidecars, watch, rows):
        self.work, self.sidecars, self.watch, self.rows = work, sidecars, watch, rows
        self.addresses = [sidecar.address for sidecar in sidecars]
        self.inputs = {Embed: work / "texts.parquet", Evaluate: work / "samples.parquet"}
        self.vectors = self.job = None
        # By what and by engine.
        self.seen = {}

    def __enter__(self):
        pq.write_table(pa.Table.from_pylist([text_row(n) for n in range(self.rows)]), self.inputs[Embed])
        pq.write_table(pa.Table.from_pylist([sample_row(n) for n in range(self.rows)]), self.inputs[Evaluate])
        return self

    def __exit__(self, *_):
        """Leaves no driver behind where a check failed."""
        if self.job and self.job.process.poll() is None:
            self.job.process.terminate()
            self.job.process.wait()

    def note(self, driver, what, value):
        print(f"{driver}: {what}: {value}", flush=True)
        self.seen[what, driver.split("_")[0]] = value

    # Throughput

    def throughput(self, rounds):
        """The median ratio of each engine to the bare client, which runs before and after it."""
        bare, rates, wholes, ratios = [], defaultdict(list), defaultdict(list), defaultdict(list)
        bare.append(self.bare())
        for turn in range(rounds):
            for driver in ("ray_embed", "spark_embed"):
                output = self.work / f"{driver}-{turn}.parquet"
                before = time.monotonic()
                self.start(driver, output).check()
                wholes[driver].append(self.rows / (time.monotonic() - before))
                rates[driver].append(flow(output))
                self.check_output(driver, output)
                bare.append(self.bare())
                ratios[driver].append(rates[driver][-1] / statistics.mean(bare[-2:]))
        for driver in rates:
            self.note(driver, "Embed, rows/s of the bare client", figures(bare, 0))
            self.note(driver, "rows/s from the first batch's begin to the last one's end", figures(rates[driver], 0))
            self.note(driver, "ratio to the bare client before and after", figures(ratios[driver], 2))
            # Of what else runs on the machine, the best runs saw the least.
            self.note(driver, "ratio of the best runs", f"{max(rates[driver]) / max(bare):.2f}")
            self.note(driver, "rows/s with the engine's own start and end", figures(wholes[driver], 0))
        return {driver: statistics.median(ratios[driver]) for driver in ratios}

    def bare(self):
        """Rows in a second of the same calls from one asyncio program, without engine and checkpoints."""
        rows = pq.read_table(self.inputs[Embed]).to_pylist()

        async def embed():
            async with open_channel(self.addresses) as channel:
                task = Embed(channel, ())
                # As many calls at one time as all workers together.
                task.calls_in_flight *= WORKERS
                before = time.monotonic()
                outcomes = await outcomes_of(task, rows)
                return outcomes, time.monotonic() - before

        outcomes, seconds = asyncio.run(embed())
        answers = list(zip((row["id"] for row in rows), outcomes))
        check_statuses({id: outcome.status for id, outcome in answers})
        self.vectors = {id: np.frombuffer(outcome.value, "<f4") for id, outcome in answers if outcome.value}
        return self.rows / seconds

    # What is killed, and what is left

    def kill_and_go_on(self, driver):
        kind = DRIVERS[driver].__name__
        output = self.work / f"{driver}.parquet"
        refusals = self.watch.refusals
        job = self.start(driver, output)
        job.wait_for_rows(WORKER_DIES * self.rows)
        pid, killed_at = job.kill_a_worker()
        job.wait_for_rows(SIDECAR_DIES * self.rows)
        self.sidecars[0].kill()
        said = job.check()
        self.sidecars[0].check_started_again()
        job.check_worker_replaced(pid, killed_at)
        self.check_output(driver, output)
        self.note(driver, f"{kind}, a worker and a sidecar killed", said)
        self.note(driver, f"{kind}, calls refused and made again", str(self.watch.refusals - refusals))
        self.note(driver, f"{kind} again, without a third of the parts", self.go_on(driver, output))

    def go_on(self, driver, output):
        """Without some of the parts, the same command computes their rows, and no others."""
        parts = Parts(f"{output}.parts").files()
        lost = parts[::3]
        missing = sum(pq.read_metadata(part).num_rows for part in lost)
        for part in lost:
            part.unlink()
        kept = {part: part.stat().st_mtime_ns for part in parts if part not in lost}
        said = self.start(driver, output).check()
        assert f"new: {missing};" in said, (missing, said)
        assert all(part.stat().st_mtime_ns == changed for part, changed in kept.items())
        self.check_output(driver, output)
        return said

    def start(self, driver, output):
        command = [sys.executable, HERE / f"{driver}.py", self.inputs[DRIVERS[driver]], output, *self.addresses]
        command += ["--workers", str(WORKERS), "--metrics", ",".join(METRICS)]
        self.job = Running(command, output, self.work)
        return self.job

    def check_output(self, driver, output):
        """Every row once, poison rows with their status, the others with what belongs to them."""
        table = pq.read_table(output)
        ids = table["id"].to_pylist()
        assert Counter(ids) == Counter(name(n) for n in range(self.rows)), "not every row is there once"
        check_statuses(dict(zip(ids, table["status"].to_pylist())))
        good = table.filter(pc.equal(table["status"], "OK"))
        if DRIVERS[driver] is Embed:
            for id, vector in zip(good["id"].to_pylist(), good["vector"].to_numpy()):
                assert np.abs(vector - self.vectors[id]).max() < 1e-4, id
        else:
            for id, results in zip(good["id"].to_pylist(), good["results"].to_pylist()):
                assert [result["label"] for result in results] == list(METRICS), id
                assert {result["status"] for result in results} == {"OK"}, (id, results)
                assert abs(results[0]["score"] - f1(number(id))) < 1e-9, (id, results)


class Running:
    """A driver in a process of its own, whose parts are looked at as they come."""

    def __init__(self, command, output, work):
        self.parts, self.log = Parts(f"{output}.parts"), work / "driver.log"
        environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE / 'gen'}", "PYTHONUNBUFFERED": "1"}
        environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(work)}
        environment |= {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": str(work)}
        with open(self.log, "w") as said:
            self.process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)

    def wait_for_rows(self, rows):
        while len(self.parts.ids()) < rows:
            assert self.process.poll() is None, f"the driver ended before the time\n{self.tail()}"
            time.sleep(0.02)

    def kill_a_worker(self):
        """The one that wrote last."""
        last = max(self.parts.files(), key=lambda file: file.stat().st_mtime_ns)
        pid = int(told(last)["worker"])
        os.kill(pid, signal.SIGKILL)
        return pid, time.time()

    def check_worker_replaced(self, pid, killed_at):
        parts = [told(part) for part in self.parts.files()]
        before = {part["worker"] for part in parts if float(part["began"]) < killed_at}
        after = {part["worker"] for part in parts if float(part["began"]) > killed_at}
        assert str(pid) in before and str(pid) not in after, "the worker is alive"
        assert after - before, "no worker came in its place"

    def check(self):
        """Waits for the end, and gives the last line that the driver said."""
        code = self.process.wait()
        assert code == 0, f"the driver's exit code is {code}\n{self.tail()}"
        [line] = [line for line in self.log.read_text().splitlines() if "; new: " in line]
        return line.partition(" rows: ")[2]

    def tail(self):
        return "\n".join(self.log.read_text().splitlines()[-40:])


def told(part):
    return {key.decode(): value.decode() for key, value in pq.read_schema(part).metadata.items()}


def flow(output):
    """Rows in a second from the begin of the first batch to the end of the last."""
    files = Parts(f"{output}.parts").files()
    spans = [told(file) for file in files]
    seconds = max(float(span["ended"]) for span in spans) - min(float(span["began"]) for span in spans)
    return sum(pq.read_metadata(file).num_rows for file in files) / seconds


def figures(values, digits):
    least, most = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


if __name__ == "__main__":
    main()
