"""Comparison of the engines for one model: first each alone, then all in turns."""

import sys
import time
from pathlib import Path

import accuracy
import host
import native
import numpy as np
from engines import PEERS
from protocol import EngineFailed, EngineProcess

REFERENCE = "st-f32"
# Minimum seconds and runs of one measurement: many for a single text, one per round for bulk work.
BUDGET = {"w1": {"seconds": 1.5, "repeats": 20}, "w2": {"seconds": 1.5, "repeats": 20}}
BULK = {"seconds": 0, "repeats": 1}
# A policy is not tried again if its first run takes this many times as long as the best one.
HOPELESS = 1.5
# The gauge varies by less on an idle machine.
DISTURBED = 0.15


class Contest:
    def __init__(self, options, program: str, model: Path, out: Path, works: dict, accuracy_work: dict, locked):
        self.options, self.program, self.model, self.out = options, program, model, out
        self.works, self.accuracy_work, self.locked = works, accuracy_work, locked
        self.cache = out / "cache" / model.name
        self.cache.mkdir(parents=True, exist_ok=True)
        calibration = out / "workloads" / model.name / "calibration.txt"
        (self.cache / "calibration.txt").write_bytes(calibration.read_bytes())
        self.machine = self._process("machine")

    def audition(self, name: str) -> dict:
        """Accuracy and the best batch policy per workload, in a separate process."""
        say(f"{self.model.name}: {name} is tried")
        engine = self._process(name)
        try:
            with self.locked():
                entry = self._loaded(engine)
                entry |= self._agreement(engine, name)
                if entry.get("mean_cosine", 1.0) < accuracy.LEAST_COSINE:
                    return entry | {"why_not": "its vectors differ"}
            tried = {}
            for work in self.works:
                with self.locked():
                    tried[work] = self._try_policies(engine, work, entry["offers"])
            best = {work: min(times, key=times.get) for work, times in tried.items()}
            return entry | {"tried": tried, "policies": best, "rounds": []}
        except EngineFailed as error:
            say(str(error))
            return {"why_not": str(error)[:300]}
        finally:
            engine.close()

    def play(self, entries: dict[str, dict]) -> None:
        """Each round measures every engine once, starting with a different one."""
        running = {}
        for name, entry in entries.items():
            with self.locked():
                running[name] = self._process(name)
                self._loaded(running[name])
                for work in self.works:
                    for policy in self._policies(entry, work):
                        running[name].ask("run", workload=work, policy=policy, seconds=0, repeats=1)
        names = list(running)
        for number in range(self.options.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                with self.locked():
                    entries[name]["rounds"].append(self._measure(running[name], entries[name]))
            say(f"{self.model.name}: round {number + 1} of {self.options.rounds}")
        for name, engine in running.items():
            entries[name]["memory"] = engine.ask("rss")
            engine.close()

    def machine_peaks(self) -> dict:
        """Measures the limits of arithmetic units and memory."""
        with self.locked():
            return self.machine.ask("peaks", threads=self.options.threads)

    def timed(self, engine: EngineProcess, work: str, policy: str) -> dict:
        """One measurement between two readings of the gauge."""
        before = self.gauge()
        answer = engine.ask("run", workload=work, policy=policy, **BUDGET.get(work, BULK))
        after = self.gauge()
        return {"seconds": answer["seconds"], "min": answer["min_seconds"], "gauge": [before, after]}

    def gauge(self) -> float:
        """Seconds of a fixed loop on as many threads as the engines use."""
        # Threads of the previous engine may spin for a while.
        time.sleep(0.05)
        return self.machine.ask("gauge", threads=self.options.threads)["seconds"]

    def start(self, name: str, works: dict) -> EngineProcess:
        """Starts the process of an engine that has loaded the model and the workloads."""
        engine = self._process(name)
        self._loaded(engine, works)
        return engine

    def _process(self, name: str) -> EngineProcess:
        python = [sys.executable, str(Path(__file__).with_name("worker.py")), name]
        command = python if name in PEERS else native.command(self.program, name)
        return EngineProcess(name, command, host.environment(self.options.threads, self.options.avx2))

    def _loaded(self, engine: EngineProcess, works: dict | None = None) -> dict:
        begun = time.perf_counter()
        answer = engine.ask("load", model=str(self.model), cache=str(self.cache), threads=self.options.threads)
        took = time.perf_counter() - begun
        for name, work in (works or self.works | {"accuracy": self.accuracy_work}).items():
            engine.ask("texts", workload=name, path=work["path"])
        asked = self.options.policies
        offers = [policy for policy in answer["policies"] if not asked or policy in asked] or answer["policies"]
        return {"version": answer["version"], "offers": offers, "load_seconds": took}

    def _agreement(self, engine: EngineProcess, name: str) -> dict:
        directory = self.out / "vectors" / self.model.name
        directory.mkdir(parents=True, exist_ok=True)
        file, reference = directory / f"{name}.f32", directory / f"{REFERENCE}.f32"
        offers = ("sorted8", "whole", "one")
        answer = engine.ask("vectors", workload="accuracy", policy=offers[name.startswith("assay")], path=str(file))
        shape = (answer["rows"], answer["dimensions"])
        if not reference.exists():
            return {}
        return accuracy.compare(*(np.fromfile(path, dtype="<f4").reshape(shape) for path in (file, reference)))

    def _try_policies(self, engine: EngineProcess, work: str, offers: list[str]) -> dict[str, float]:
        # A single text has only one policy.
        single = self.works[work]["texts"] == 1
        tried: dict[str, float] = {}
        for policy in offers[:1] if single else offers:
            first = engine.ask("run", workload=work, policy=policy, **BULK)["seconds"]
            hopeless = tried and first > HOPELESS * min(tried.values())
            again = first if hopeless or single else engine.ask("run", workload=work, policy=policy, **BULK)["seconds"]
            tried[policy] = min(first, again)
        return tried

    def _policies(self, entry: dict, work: str) -> list[str]:
        """The best policy, and for W3 also the most common one."""
        best = entry["policies"][work]
        usual = ["sorted32"] if work == "w3" and best != "sorted32" and "sorted32" in entry["offers"] else []
        return [best, *usual]

    def _measure(self, engine: EngineProcess, entry: dict) -> dict[str, dict]:
        measured = {}
        for work in self.works:
            best, *usual = self._policies(entry, work)
            measured[work] = self.timed(engine, work, best)
            for policy in usual:
                measured[f"{work}-{policy}"] = self.timed(engine, work, policy)
        return measured


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
