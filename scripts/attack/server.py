"""The server under attack: a separate process, in a memory cgroup if available."""

import contextlib
import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

GIB = 1 << 30
PR_SET_PDEATHSIG = 1


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Cgroup:
    """Creates a memory cgroup of 1 GiB; None if that is not possible."""

    def __init__(self) -> None:
        name = f"assay-attack-{os.getpid()}-{time.monotonic_ns()}"
        self.folder = None
        for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
            folder = Path(root) / name
            for stale in folder.parent.glob("assay-attack-*"):
                # Of a suite that was killed.
                if not Path(f"/proc/{stale.name.split('-')[2]}").exists():
                    with contextlib.suppress(OSError):
                        stale.rmdir()
            try:
                folder.mkdir()
                (folder / limit).write_text(str(GIB))
                self.folder = folder
                return
            except OSError:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def enter(self) -> None:
        if self.folder:
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Removes the cgroup. Retries, because processes that have just exited may still use it."""
        end = time.monotonic() + 2
        while self.folder and self.folder.exists() and time.monotonic() < end:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            time.sleep(0.05)


class Server:
    """Starts the binary and waits until it serves. The caller must close it."""

    def __init__(self, binary: str, model: str, *arguments: str, descriptors: int | None = None):
        self.binary = binary
        self.port, self.admin = free_port(), free_port()
        self.log = tempfile.NamedTemporaryFile(prefix="assay-attack-", suffix=".log", delete=False)
        self.cgroup = Cgroup()

        libc = ctypes.CDLL(None)

        def prepare() -> None:
            # Where even the clean-up is killed, the server ends with the suite.
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            self.cgroup.enter()
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        command = [binary, "--model", model, "--listen", f"127.0.0.1:{self.port}"]
        command += ["--admin-listen", f"127.0.0.1:{self.admin}", *arguments]
        self.process = subprocess.Popen(command, stderr=self.log, stdout=self.log, preexec_fn=prepare)
        try:
            self._wait()
        except BaseException:
            self.close(keep_log=True)
            raise

    def _wait(self) -> None:
        until = time.monotonic() + 60
        while not self._ready():
            if time.monotonic() > until or self.process.poll() is not None:
                raise SystemExit(f"the server does not serve: see {self.log.name}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=2).status == 200
        except OSError:
            return False

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5).read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)", text, re.MULTILINE))

    def resident(self) -> int:
        """Resident memory in bytes; 0 after the process has exited."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> tuple[int | None, float]:
        """Sends SIGTERM. Returns the exit code and the duration in seconds; None if it had to be killed."""
        started = time.monotonic()
        code = None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return code, time.monotonic() - started

    def close(self, keep_log: bool) -> None:
        """Stops the process and removes the cgroup, whatever the outcome of the attack."""
        if self.alive():
            self.process.kill()
            self.process.wait()
        self.cgroup.remove()
        self.log.close()
        if not keep_log:
            Path(self.log.name).unlink(missing_ok=True)
