"""The kubelet for one pod."""

import threading
import time

import grpc
import yaml
from container import Container
from grpc_health.v1 import health_pb2, health_pb2_grpc
from network import address_of, namespace_of
from watch import get, until

SERVING = health_pb2.HealthCheckResponse.SERVING
# Defaults of Kubernetes.
PERIOD, TIMEOUT, THRESHOLD, GRACE = 10, 1, 3, 30


class Pod:
    """One pod. Starts, probes and stops its containers in the order of the kubelet."""

    def __init__(self, manifest, index, files):
        documents = yaml.safe_load_all(manifest.read_text())
        deployment = next(document for document in documents if document and document["kind"] == "Deployment")
        self.spec = deployment["spec"]["template"]["spec"]
        self.namespace, self.address = namespace_of(index), address_of(index)
        self.files, self.volume, self.secrets = files, files.volume(), None
        self.sidecars = [Container(spec, self) for spec in self.spec.get("initContainers", [])]
        self.mains = [Container(spec, self) for spec in self.spec["containers"]]
        self.failed_startups = 0
        self.ready = {}
        self.mistakes = []
        self.ended = threading.Event()

    @property
    def containers(self):
        return self.sidecars + self.mains

    def start(self):
        for sidecar in self.sidecars:
            assert sidecar.spec["restartPolicy"] == "Always"
            sidecar.start()
            self.await_startup(sidecar)
            self.probe_from_now_on(sidecar)
        for main in self.mains:
            main.start()
            self.probe_from_now_on(main)

    def await_startup(self, container):
        spec = container.spec["startupProbe"]
        for _ in range(spec.get("failureThreshold", THRESHOLD)):
            began = time.monotonic()
            if self.passes(spec):
                return
            self.failed_startups += 1
            assert container.process.poll() is None, container.text()
            time.sleep(max(0, began + spec.get("periodSeconds", PERIOD) - time.monotonic()))
        raise AssertionError(f"{container.name} did not start in time: {container.text()}")

    def probe_from_now_on(self, container):
        for kind in ("readinessProbe", "livenessProbe"):
            if kind in container.spec:
                threading.Thread(target=self.probe, args=(container, kind), daemon=True).start()

    def probe(self, container, kind):
        spec = container.spec[kind]
        self.ready.setdefault(container.name, kind != "readinessProbe")
        failures = 0
        while not self.ended.is_set():
            passed = self.passes(spec)
            failures = 0 if passed else failures + 1
            if kind == "readinessProbe":
                self.ready[container.name] = passed
            elif failures >= spec.get("failureThreshold", THRESHOLD) and not self.ended.is_set():
                self.mistakes.append(f"liveness would restart {container.name}")
            self.ended.wait(spec.get("periodSeconds", PERIOD))

    def passes(self, spec):
        timeout = spec.get("timeoutSeconds", TIMEOUT)
        if "httpGet" in spec:
            return get(f"http://{self.address}:8080{spec['httpGet']['path']}", timeout) is not None
        with grpc.insecure_channel(f"{self.address}:{spec['grpc']['port']}") as channel:
            request = health_pb2.HealthCheckRequest(service=spec["grpc"].get("service", ""))
            try:
                return health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout).status == SERVING
            except grpc.RpcError:
                return False

    def is_ready(self):
        return len(self.ready) == len(self.containers) and all(self.ready.values())

    def end(self):
        """The grace is for all: the pause and the end of the app, then its sidecars in turn."""
        self.ended.set()
        deadline = time.monotonic() + self.spec.get("terminationGracePeriodSeconds", GRACE)
        for main in self.mains:
            pause = main.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            time.sleep(pause)
            main.tell_to_stop()
        for main in self.mains:
            main.wait(deadline)
        for sidecar in reversed(self.sidecars):
            sidecar.tell_to_stop()
            sidecar.wait(deadline)
        assert not self.mistakes, self.mistakes

    def kill(self):
        self.ended.set()
        for container in self.containers:
            if container.process and container.process.poll() is None:
                container.process.kill()
                container.process.wait()
            container.log.close()


def start_replica(pod):
    pod.start()
    until("the replica is ready", pod.is_ready)
