"""Replicas of the server that keep their addresses across restarts."""

import asyncio
import re
import signal
import subprocess
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

READY_SECONDS = 60
DRAIN_SECONDS = 3
SERVING = health_pb2.HealthCheckResponse.SERVING
SAMPLE = re.compile(r'^assay_rpc_started_total\{method="([^"]+)"\} (\d+)$', re.MULTILINE)


class Replica:
    def __init__(self, options, name, port, admin_port):
        self.options, self.name = options, name
        self.address, self.admin = f"127.0.0.1:{port}", f"127.0.0.1:{admin_port}"
        self.log = open(options.logs / f"{name}.log", "a")
        self.process = None

    async def start(self):
        """Serves once this returns."""
        self.launch("--model", self.options.model)
        await self.health("")

    async def start_without_model(self):
        """Listens once this returns, and is never ready."""
        # Nothing listens on port 1.
        hub = ["--hub-endpoint", "http://127.0.0.1:1", "--retry-pause", "1s"]
        self.launch("--model", "none/none", "--cache-dir", str(self.options.logs / "none"), *hub)
        await self.health("liveness")

    def launch(self, *flags):
        listen = ["--listen", self.address, "--admin-listen", self.admin, "--threads", "1"]
        judge = ["--judge-url", self.options.judge, "--judge-model", "stand-in"]
        command = [self.options.binary, *listen, *judge, "--drain-wait", f"{DRAIN_SECONDS}s", *flags]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    async def health(self, service):
        """Returns when the service is SERVING."""
        # Its own connection, not that of a process that was here before.
        async with grpc.aio.insecure_channel(self.admin, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            request = health_pb2.HealthCheckRequest(service=service)
            watch = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=READY_SECONDS, wait_for_ready=True)
            async for answer in watch:
                if answer.status == SERVING:
                    return

    async def drain(self):
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.process.wait, READY_SECONDS)
        assert code == 0, f"the exit code of {self.name} after SIGTERM is {code}"

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def started(self, method):
        """Calls of a method that have arrived here."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=5) as answer:
            counts = dict(SAMPLE.findall(answer.read().decode()))
        return int(counts.get(method, 0))
