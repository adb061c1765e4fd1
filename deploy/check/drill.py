"""The drill of ../drill.sh: a kubelet in a few lines, against the real binary.

    PYTHONPATH=gen python drill.py BINARY MODEL_DIR DIRECTORY

The directory has the rendered manifests. What a pod's volume would bring, the model, is a directory that appears when
the drill wants it to. The server runs as the user of its manifest, without capabilities, and with nothing but the
manifest's environment. One namespace is the node, from which probes come; each pod has another.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import yaml
from assay.v1 import embedding_pb2, embedding_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

NODE = "assay-drill-node"
NETWORK = "10.231.0"
PODS = 4
APP = Path(__file__).parents[1] / "kubernetes" / "sidecar" / "app" / "app.py"
SERVING = health_pb2.HealthCheckResponse.SERVING
# Between the start of the pod and the appearance of its model.
MODEL_LATE = 3.0
# What a process takes to begin, and a probe to answer.
SLACK = 1.0
# Defaults of Kubernetes.
PERIOD, TIMEOUT, THRESHOLD, GRACE = 10, 1, 3, 30


def main():
    if os.environ.get("ASSAY_DRILL") == "node":
        drill(*sys.argv[1:])
        return
    try:
        lay_network()
        inside = ["ip", "netns", "exec", NODE, sys.executable, *sys.argv]
        sys.exit(subprocess.run(inside, env={**os.environ, "ASSAY_DRILL": "node"}).returncode)
    finally:
        for namespace in (NODE, *map(namespace_of, range(PODS))):
            subprocess.run(["ip", "netns", "delete", namespace], stderr=subprocess.DEVNULL)


def drill(binary, model, directory):
    with tempfile.TemporaryDirectory(prefix="assay-drill.") as work:
        Path(work).chmod(0o755)
        files = Files(Path(work), binary, model)
        gate(Path(directory, "sidecar-overlays-gate.yaml"), files)
        overlap(Path(directory, "sidecar-overlays-overlap.yaml"), files)
        rollout(Path(directory, "standalone-base.yaml"), files)
        freeze(Path(directory, "standalone-base.yaml"), files)
    print("drill passed")


# The network


def namespace_of(index):
    return f"assay-drill-pod-{index}"


def address_of(index):
    return f"{NETWORK}.{10 + index}"


def lay_network():
    """A bridge on the node, and a pair of interfaces for each pod."""
    ip(f"netns add {NODE}")
    ip(f"-n {NODE} link set lo up")
    ip(f"-n {NODE} link add bridge type bridge")
    ip(f"-n {NODE} address add {NETWORK}.1/24 dev bridge")
    ip(f"-n {NODE} link set bridge up")
    for index in range(PODS):
        pod = namespace_of(index)
        ip(f"netns add {pod}")
        ip(f"-n {pod} link set lo up")
        ip(f"-n {NODE} link add pod{index} type veth peer name eth0 netns {pod}")
        ip(f"-n {NODE} link set pod{index} master bridge up")
        ip(f"-n {pod} address add {address_of(index)}/24 dev eth0")
        ip(f"-n {pod} link set eth0 up")


def ip(command):
    subprocess.run(["ip", *command.split()], check=True)


# Processes in the place of containers


class Files:
    """What images and volumes would bring, where the user of the manifests can read it."""

    def __init__(self, work, binary, model):
        self.work = work
        self.binary = work / "assay"
        shutil.copy(binary, self.binary)
        self.source = work / "source"
        shutil.copytree(model, self.source, copy_function=copy_readable)
        self.volumes = 0

    def volume(self):
        """Where a model will be."""
        self.volumes += 1
        return self.work / f"volume-{self.volumes}"

    def fill(self, volume):
        volume.symlink_to(self.source)


def copy_readable(source, target):
    shutil.copyfile(source, target)
    os.chmod(target, 0o644)


class Container:
    def __init__(self, spec, pod):
        self.spec, self.pod, self.name = spec, pod, spec["name"]
        self.log = open(pod.files.work / f"{pod.namespace}-{self.name}.log", "w+")
        self.process = None
        self.started_at = self.told_at = self.ended_at = None

    def start(self):
        env = {variable["name"]: variable["value"] for variable in self.spec.get("env", [])}
        if self.name == "assay":
            env.pop("ASSAY_CACHE_DIR", None)
            env["ASSAY_MODEL"] = str(self.pod.volume)
            command = [*confined(self.pod.spec["securityContext"]), str(self.pod.files.binary), *self.spec.get("args", [])]
        else:
            env["PYTHONPATH"] = os.environ["PYTHONPATH"]
            command = [sys.executable, str(APP)]
        command = [shutil.which("ip"), "netns", "exec", self.pod.namespace, *command]
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log)
        self.started_at = time.monotonic()

    def tell_to_stop(self):
        self.told_at = time.monotonic()
        self.process.send_signal(signal.SIGTERM)

    def wait(self, deadline):
        try:
            self.process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} outlived the grace and would be killed") from None
        self.ended_at = time.monotonic()
        assert self.process.returncode == 0, f"{self.name} ended with {self.process.returncode}: {self.text()}"

    def text(self):
        self.log.flush()
        return Path(self.log.name).read_text()


def confined(context):
    user, group = context["runAsUser"], context["runAsGroup"]
    return [
        *[shutil.which("setpriv"), f"--reuid={user}", f"--regid={group}", "--clear-groups"],
        *["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"],
    ]


# The kubelet


class Pod:
    """One pod, in the order in which the kubelet starts, probes and ends its containers."""

    def __init__(self, manifest, index, files):
        documents = yaml.safe_load_all(manifest.read_text())
        deployment = next(document for document in documents if document and document["kind"] == "Deployment")
        self.spec = deployment["spec"]["template"]["spec"]
        self.namespace, self.address = namespace_of(index), address_of(index)
        self.files, self.volume = files, files.volume()
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


def get(url, timeout):
    """The body of an answer with status 200, else None."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.read()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


# Watchers, who see what the kubelet does not


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
                        if answer.status == SERVING:
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


def until(what, fact, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)


def embed_through_the_app(pod, timeout=20):
    return get(f"http://{pod.address}:8080/embed?text=A%20red%20fox.", timeout)


def request_of(pod):
    return lambda: None if embed_through_the_app(pod) else "an answer other than 200"


def is_open(address, port):
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


# The stories


def gate(manifest, files):
    """The app starts when the model is warm, not before and not much later."""
    pod = Pod(manifest, 0, files)
    try:
        began = time.monotonic()
        threading.Timer(MODEL_LATE, files.fill, [pod.volume]).start()
        warmth = Warmth(pod)
        pod.start()
        app = pod.mains[0]
        assert warmth.at and warmth.at >= began + MODEL_LATE, "the model was warm before it was there"
        late = app.started_at - warmth.at
        assert -0.05 <= late <= pod.sidecars[0].spec["startupProbe"]["periodSeconds"] + SLACK, f"the app starts {late} s after"
        assert pod.failed_startups >= 2, pod.failed_startups
        until("the app listens", lambda: is_open(pod.address, 8080))
        assert embed_through_the_app(pod, timeout=2), "the first request fails"
        until("the pod is ready", pod.is_ready)
        report("gate", f"model warm {warmth.at - began:.2f} s after the pod's start, app started {late:.2f} s after that, "
               f"{pod.failed_startups} startup probes said no before")
        end_with_its_app(pod, "gate")
    finally:
        pod.kill()


def overlap(manifest, files):
    """The app starts before the model is there, and its first request waits for it."""
    pod = Pod(manifest, 0, files)
    try:
        began = time.monotonic()
        warmth = Warmth(pod)
        pod.start()
        app = pod.mains[0]
        early = app.started_at - began
        assert early <= pod.sidecars[0].spec["startupProbe"]["periodSeconds"] + SLACK, f"the app starts after {early} s"
        until("the app listens", lambda: is_open(pod.address, 8080))
        until("the pod is ready", pod.is_ready)
        assert warmth.at is None, "the model was warm before it was there"
        threading.Timer(MODEL_LATE, files.fill, [pod.volume]).start()
        assert embed_through_the_app(pod), "the first request fails"
        answered = time.monotonic()
        until("the watch has seen the model", lambda: warmth.at, seconds=1)
        waited = answered - warmth.at
        assert -0.05 <= waited <= SLACK, f"the first request is answered {waited} s after the model was warm"
        report("overlap", f"app started {early:.2f} s after the pod, {warmth.at - app.started_at:.2f} s before the model was warm; "
               f"its first request was answered {waited * 1000:.0f} ms after that")
        end_with_its_app(pod, "overlap")
    finally:
        pod.kill()


def end_with_its_app(pod, story):
    assert not is_open(pod.address, 50051), "calls come in from outside of the pod"
    load = Load(request_of(pod))
    time.sleep(1)
    # Endpoints lose the pod within its pause.
    threading.Timer(2, load.stop).start()
    began = time.monotonic()
    pod.end()
    load.hold("requests until the endpoints lose the pod")
    app, assay = pod.mains[0], pod.sidecars[0]
    assert assay.told_at >= app.ended_at, "Assay was told to stop before the app had ended"
    report(story, f"{load.answered} requests without a failure; app ended {app.ended_at - began:.2f} s after the pod was told to, "
           f"Assay {assay.ended_at - app.ended_at:.2f} s after the app, of a grace of {pod.spec['terminationGracePeriodSeconds']} s")


def rollout(manifest, files):
    """Two replicas are replaced under load; clients with round_robin and health checks, without retries, see nothing."""
    pods = [Pod(manifest, index, files) for index in range(PODS)]
    try:
        for pod in pods:
            files.fill(pod.volume)
        old, new = pods[:2], pods[2:]
        for pod in old:
            start_replica(pod)
        with grpc.insecure_channel(targets(pods), options=CLIENT) as channel:
            grpc.channel_ready_future(channel).result(10)
            load = Load(call_of(channel))
            time.sleep(1)
            for leaving, coming in zip(old, new, strict=True):
                start_replica(coming)
                told = time.monotonic()
                leaving.end()
                report("rollout", f"a replica was replaced, and ended {time.monotonic() - told:.2f} s after it was told to, "
                       f"of a grace of {leaving.spec['terminationGracePeriodSeconds']} s")
            time.sleep(1)
            load.stop()
        load.hold("calls during the rollout")
        report("rollout", f"{load.answered} calls without a failure")
        for pod in new:
            pod.end()
    finally:
        for pod in pods:
            pod.kill()


CLIENT = [
    (
        "grpc.service_config",
        '{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "assay.v1.EmbeddingService"}}',
    ),
    # A list of addresses is no authority that a server could take.
    ("grpc.default_authority", "assay"),
    # Replicas that come later are found soon.
    ("grpc.max_reconnect_backoff_ms", 500),
]


def freeze(manifest, files):
    """A process that stands still loses its calls first, and its life when liveness has failed often enough."""
    pod = Pod(manifest, 0, files)
    try:
        files.fill(pod.volume)
        start_replica(pod)
        began = time.monotonic()
        pod.mains[0].process.send_signal(signal.SIGSTOP)
        until("the replica is unready", lambda: not pod.is_ready(), seconds=allowed(pod, "readinessProbe"))
        unready = time.monotonic() - began
        assert not pod.mistakes, pod.mistakes
        until("liveness has failed", lambda: pod.mistakes, seconds=allowed(pod, "livenessProbe"))
        report("freeze", f"a process that stands still is unready after {unready:.1f} s, "
               f"and would be restarted after {time.monotonic() - began:.1f} s")
    finally:
        pod.kill()


def allowed(pod, kind):
    """What the probe's settings let pass until it counts as failed."""
    spec = pod.mains[0].spec[kind]
    return spec["failureThreshold"] * (spec["periodSeconds"] + spec["timeoutSeconds"]) + SLACK


def targets(pods):
    return "ipv4:" + ",".join(f"{pod.address}:50051" for pod in pods)


def start_replica(pod):
    pod.start()
    until("the replica is ready", pod.is_ready)


def call_of(channel):
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)

    def call():
        try:
            stub.Embed(embedding_pb2.EmbedRequest(inputs=["A red fox."]), timeout=10)
        except grpc.RpcError as error:
            return f"{error.code()}: {error.details()}"
        return None

    return call


def report(story, fact):
    print(f"{story}: {fact}", flush=True)


if __name__ == "__main__":
    main()
