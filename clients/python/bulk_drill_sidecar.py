"""The sidecars of bulk_drill.py, and what their /metrics say meanwhile."""

import contextlib
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

# Tokens that may wait, half of them of calls: less than all workers send to one sidecar while the other is away.
QUEUE_TOKENS = 16384
READY_SECONDS = 60
# Before it is started again.
AWAY_SECONDS = 2
# Between two looks at /metrics.
LOOK_SECONDS = 0.1


class Sidecar:
    """A server that is started again, on the same ports, whenever it ends."""

    def __init__(self, binary, model, log):
        self.command = [binary, "--model", model, "--queue-tokens", str(QUEUE_TOKENS), "--log-format", "json"]
        self.command += ["--threads", "1", "--text-threads", "1", "--score-threads", "1", "--reactor-threads", "1"]
        self.log, self.starts, self.stopping = log, 0, threading.Event()
        self.start("127.0.0.1:0", "127.0.0.1:0")
        self.address, self.admin = self.announced()
        self.wait_until_ready()
        self.keeper = threading.Thread(target=self.keep)
        self.keeper.start()

    def start(self, address, admin):
        with open(self.log, "a") as log:
            command = [*self.command, "--listen", address, "--admin-listen", admin]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.starts += 1

    def announced(self):
        """The addresses in the line that says where it listens."""
        with open(self.log) as log:
            for _ in range(100 * READY_SECONDS):
                if (line := log.readline()) and '"message":"listening' in line:
                    return [re.search(f'"{name}":"([^",]+)', line)[1] for name in ("listen", "admin")]
                with contextlib.suppress(subprocess.TimeoutExpired):
                    raise AssertionError(f"the sidecar ended with {self.process.wait(0.01)}")
        raise AssertionError("the sidecar does not say where it listens")

    def wait_until_ready(self):
        end = time.monotonic() + READY_SECONDS
        while (self.metrics() or {}).get("assay_model_ready") != 1:
            assert time.monotonic() < end, "the sidecar is not ready"
            time.sleep(0.05)

    def keep(self):
        while True:
            self.process.wait()
            if self.stopping.wait(AWAY_SECONDS):
                return
            self.start(self.address, self.admin)

    def kill(self):
        self.kills = self.starts
        self.process.kill()

    def check_started_again(self):
        assert self.starts == self.kills + 1, "the sidecar was not started again"

    def stop(self):
        self.stopping.set()
        self.process.terminate()
        self.keeper.join()

    def metrics(self):
        """Gauges and counters without labels; None while it is away."""
        try:
            with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=5) as page:
                lines = page.read().decode().splitlines()
        except (urllib.error.URLError, OSError):
            return None
        plain = (line.split() for line in lines if re.match(r"\w+ ", line))
        return {name: float(value) for name, value in plain}


class Watch:
    """Looks at all sidecars until the end, and stops them then."""

    def __init__(self, sidecars):
        self.sidecars = sidecars
        self.end = threading.Event()
        self.looks = self.most = self.refusals = 0
        self.limit = None
        self.last = [0.0] * len(sidecars)
        self.thread = threading.Thread(target=self.look)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        self.thread.join()
        for sidecar in self.sidecars:
            sidecar.stop()

    def look(self):
        while not self.end.wait(LOOK_SECONDS):
            for n, sidecar in enumerate(self.sidecars):
                if (metrics := sidecar.metrics()) and "assay_admission_limit_tokens" in metrics:
                    self.note(n, metrics)

    def note(self, n, metrics):
        self.looks += 1
        self.limit = metrics["assay_admission_limit_tokens"]
        self.most = max(self.most, metrics["assay_admitted_call_tokens"], metrics["assay_admitted_stream_tokens"])
        refused = metrics["assay_queue_refusals_total"]
        # A sidecar that was started again counts from 0.
        self.refusals += int(refused - self.last[n] if refused >= self.last[n] else refused)
        self.last[n] = refused

    def check(self):
        assert self.looks > 0 and self.most <= self.limit, self.said()
        print(self.said())

    def said(self):
        return f"at most {self.most:.0f} tokens in a queue whose bound is {self.limit:.0f}, in {self.looks} looks"
