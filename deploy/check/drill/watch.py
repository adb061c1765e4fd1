"""Watchers of health and pods, and clients."""

import socket
import threading
import time
import urllib.error
import urllib.request

import grpc
from assay.v1 import embedding_pb2, embedding_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

# What a process takes to begin, and a probe to answer.
SLACK = 1.0


class Warmth:
    """When the model of a pod began to serve, by a watch on its admin port."""

    def __init__(self, pod):
        self.at = None
        threading.Thread(target=self.watch, args=(pod.address,), daemon=True).start()

    def watch(self, address):
        while self.at is None:
            with grpc.insecure_channel(f"{address}:9090") as channel:
                try:
                    for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60):
                        if answer.status == health_pb2.HealthCheckResponse.SERVING:
                            self.at = time.monotonic()
                            return
                except grpc.RpcError:
                    time.sleep(0.02)


class Load:
    """Callers who never try again, from now on; each failure is kept."""

    def __init__(self, call, callers=4, pause=0.05):
        self.call, self.pause = call, pause
        self.answered, self.failures = 0, []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(callers)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.stopped.wait(self.pause):
            failure = self.call()
            if failure is None:
                self.answered += 1
            else:
                self.failures.append(failure)

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def hold(self, what):
        assert not self.failures, f"{what}: {len(self.failures)} failures: {self.failures[:3]}"
        assert self.answered > 20, f"{what}: only {self.answered} calls"


def call_of(channel):
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)

    def call():
        try:
            stub.Embed(embedding_pb2.EmbedRequest(inputs=["A red fox."]), timeout=10)
        except grpc.RpcError as error:
            return f"{error.code()}: {error.details()}"
        return None

    return call


def until(what, fact, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)


def is_open(address, port):
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def get(url, timeout):
    """The body of an answer with status 200, else None."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.read()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def report(story, fact):
    print(f"{story}: {fact}", flush=True)
