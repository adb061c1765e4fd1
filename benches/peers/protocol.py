"""Line protocol between the orchestrator and an engine: one JSON object per line, one response per request.

    {"op": "load", "model": DIR, "cache": DIR, "threads": 2}  -> {"dimensions", "version", "policies"}
    {"op": "texts", "workload": "w3", "path": FILE}           -> {"texts"}            one text a line
    {"op": "run", "workload", "policy", "seconds", "repeats"} -> {"seconds", "min_seconds", "repeats"}
    {"op": "vectors", "workload", "policy", "path"}           -> {"rows", "dimensions"}    raw little-endian f32
    {"op": "rss"}                                             -> {"bytes", "peak_bytes"}

`run` embeds the workload again and again, until both `repeats` runs and `seconds` are reached (at most 2,000 runs);
its answer is the median and the least time of one. A request that fails is answered by {"error"}. The end of the
input ends the engine. Any program that speaks this can take part; benches/engine is the one in Rust.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from threading import Thread

MOST_REPEATS = 2_000


class EngineFailed(Exception):
    """The engine returned an error or ended."""


class EngineProcess:
    """Client side of an engine."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]):
        self.name = name
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.log: deque[str] = deque(maxlen=12)
        Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def ask(self, op: str, **arguments) -> dict:
        """Sends a request and returns the response."""
        try:
            self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            raise EngineFailed(f"{self.name} ended: " + "".join(self.log)[-800:])
        answer = json.loads(line)
        if "error" in answer:
            raise EngineFailed(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Stops the engine and waits for it."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def serve(engine) -> None:
    """Responds to requests with `engine` until the input ends. Output of libraries goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    workloads: dict[str, list[str]] = {}
    for line in sys.stdin:
        try:
            answer = _answer(engine, workloads, json.loads(line))
        except Exception as error:  # whatever a library throws is the answer
            answer = {"error": f"{type(error).__name__}: {error}"[:800]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(engine, workloads: dict[str, list[str]], request: dict) -> dict:
    match request.pop("op"):
        case "load":
            engine.load(Path(request["model"]), Path(request["cache"]), request["threads"])
            return {"dimensions": engine.dimensions, "version": engine.version(), "policies": engine.policies}
        case "texts":
            lines = Path(request["path"]).read_text(encoding="utf-8").split("\n")
            workloads[request["workload"]] = lines[:-1]
            return {"texts": len(lines) - 1}
        case "run":
            return _run(engine, workloads[request["workload"]], request)
        case "vectors":
            vectors = engine.embed(workloads[request["workload"]], request["policy"])
            vectors.astype("<f4").tofile(request["path"])
            return {"rows": vectors.shape[0], "dimensions": vectors.shape[1]}
        case "rss":
            return memory()
        case op:
            raise ValueError(f"unknown op {op!r}")


def _run(engine, texts: list[str], request: dict) -> dict:
    times: list[float] = []
    while len(times) < request["repeats"] or (sum(times) < request["seconds"] and len(times) < MOST_REPEATS):
        begun = time.perf_counter()
        engine.embed(texts, request["policy"])
        times.append(time.perf_counter() - begun)
    return {"seconds": statistics.median(times), "min_seconds": min(times), "repeats": len(times)}


def memory() -> dict:
    """Current and peak resident memory of this process, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kibibytes = {key: int(status[key].split()[0]) for key in ("VmRSS", "VmHWM")}
    return {"bytes": kibibytes["VmRSS"] * 1024, "peak_bytes": kibibytes["VmHWM"] * 1024}
