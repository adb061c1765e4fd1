"""Runs two servers under varied load for the dashboard, scraped by Prometheus.

    PYTHONPATH=gen python load.py BINARY MODEL_DIR WORK_DIR SECONDS

Each part of the load is there for a panel: short and long calls, streams, texts that come again, mistakes, deadlines that
are too short, callers that leave, a burst that fills the queue, a judge that is well and one that is not. The model comes
from a hub, and one server is replaced in the middle. When the servers have ended, Prometheus serves until stdin does; it
prints its URL, the seconds between two scrapes, and from when to when there is something to see.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
from assay.v1 import embedding_pb2, embedding_pb2_grpc, evaluation_pb2, evaluation_pb2_grpc

HERE = Path(__file__).parent
DEPLOY = HERE.parents[1]
SCRAPE_SECONDS = 5
PORTS = {"assay-0": (50161, 9161), "assay-1": (50162, 9162)}
PROMETHEUS = "127.0.0.1:9163"
HUB_BYTES_PER_SECOND = 12_000_000
NOUNS = "bridge river tower harbour garden engine letter winter market orchard lantern glacier".split()


def main():
    binary, model, work, seconds = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    with prometheus(work):
        start = int(time.time())
        end = serve(binary, model, work, seconds)
        print(f"http://{PROMETHEUS}", SCRAPE_SECONDS, start, end, flush=True)
        sys.stdin.read()


def serve(binary, model, work, seconds):
    with contextlib.ExitStack() as stack:
        judge = stack.enter_context(process([sys.executable, DEPLOY.parent / "clients" / "judge.py", "--delay", "0.05"]))
        well = judge.stdout.readline().strip()
        settings = work / "assay.toml"
        ill = stack.enter_context(served(flaky(well)))
        settings.write_text(
            f'judge_url = "{well}"\njudge_model = "stand-in"\n[judges.flaky]\nurl = "{ill}/v1"\nmodel = "flaky"\n'
        )
        hub = stack.enter_context(served(hub_of(model)))
        pods = [Pod(name, binary, hub, work) for name in PORTS]
        for pod in pods:
            stack.callback(pod.stop)
        asyncio.run(story(pods, seconds))
        return int(time.time())


@contextlib.contextmanager
def process(command):
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.terminate()


@contextlib.contextmanager
def served(handler):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def prometheus(work):
    targets = [
        {"targets": [f"127.0.0.1:{admin}"], "labels": {"namespace": "assay", "pod": pod, "container": "assay"}}
        for pod, (_, admin) in PORTS.items()
    ]
    settings = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "rule_files": [str(DEPLOY / "prometheus" / "alerts.yaml")],
        "scrape_configs": [{"job_name": "assay", "static_configs": targets}],
    }
    (work / "prometheus.yml").write_text(json.dumps(settings))
    flags = [f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/data"]
    flags += [f"--web.listen-address={PROMETHEUS}", "--log.level=warn"]
    return process(["prometheus", *flags])


class Pod:
    def __init__(self, name, binary, hub, work):
        self.name, self.binary, self.hub, self.work = name, binary, hub, work
        self.starts = itertools.count()
        self.start()

    def start(self):
        port, admin = PORTS[self.name]
        command = [self.binary, "--config", self.work / "assay.toml", "--model", "sentence-transformers/all-MiniLM-L6-v2"]
        command += ["--hub-endpoint", self.hub, "--cache-dir", self.work / f"{self.name}-{next(self.starts)}"]
        command += ["--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}", "--threads", "1"]
        command += ["--embed-cache", "1MiB", "--queue-tokens", "16384", "--drain-wait", "5s"]
        with (self.work / f"{self.name}.log").open("a") as log:
            self.child = subprocess.Popen([str(part) for part in command], stderr=log)

    def ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{PORTS[self.name][1]}/readyz", timeout=5).status == 200
        except OSError:
            return False

    def stop(self):
        self.child.terminate()
        self.child.wait(60)


# Stand-ins


def hub_of(model):
    """The few requests of the hub's that a fetch makes, at a speed that a person can watch."""
    files = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    commit = hashlib.sha1(b"".join(files.values())).hexdigest()

    class Hub(Quiet):
        def do_GET(self, body=True):
            if self.path.startswith("/api/"):
                listing = {"sha": commit, "siblings": [{"rfilename": name} for name in files]}
                return self.answer(200, json.dumps(listing).encode(), body)
            content = files.get(self.path.partition(f"/resolve/{commit}/")[2])
            return self.answer(200 if content else 404, content or b"", body)

        def do_HEAD(self):
            self.do_GET(body=False)

        def answer(self, status, content, body):
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.send_header("x-repo-commit", commit)
            self.send_header("x-linked-etag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.end_headers()
            for start in range(0, len(content) if body else 0, 1 << 20):
                self.wfile.write(content[start : start + (1 << 20)])
                time.sleep((1 << 20) / HUB_BYTES_PER_SECOND if len(content) > 1 << 20 else 0)

    return Hub


def flaky(judge):
    """A judge behind a limit, which now and then says nothing that can be read, and is slow otherwise."""
    url = f"{judge}/chat/completions"

    class Flaky(Quiet):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if b'"temperature"' in body:
                return self.answer(400, {"error": {"message": "no temperature", "param": "temperature", "code": "unsupported_parameter"}})
            if random.random() < 0.2:
                return self.answer(429, {"error": {"message": "too many requests", "code": "rate_limit_exceeded"}})
            time.sleep(random.uniform(0.2, 0.8))
            request = urllib.request.Request(url, body, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as upstream:
                answer = json.load(upstream)
            if random.random() < 0.15:
                answer["choices"][0]["message"]["content"] = "Certainly! Let me think about"
            return self.answer(200, answer)

        def answer(self, status, content):
            content = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Flaky


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self):
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *_):
        pass


# The load


async def story(pods, seconds):
    while not all(pod.ready() for pod in pods):
        await asyncio.sleep(1)
    start = time.monotonic()
    addresses = ",".join(f"127.0.0.1:{port}" for port, _ in PORTS.values())
    config = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})
    options = [("grpc.service_config", config), ("grpc.default_authority", "localhost")]
    async with grpc.aio.insecure_channel(f"ipv4:{addresses}", options=options) as channel:
        embed = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        evaluate = evaluation_pb2_grpc.EvaluationServiceStub(channel)
        endless = [
            *(every(0.03, lambda: embed.Embed(request(1, 8), timeout=5)) for _ in range(3)),
            *(every(0.4, lambda: embed.Embed(request(8, 150), timeout=5)) for _ in range(2)),
            every(2, lambda: streamed(embed, 60)),
            every(0.7, lambda: embed.Embed(embedding_pb2.EmbedRequest(inputs=[""]), timeout=5)),
            every(1.1, lambda: embed.Embed(request(32, 200), timeout=0.05)),
            every(1.3, lambda: left(embed)),
            every(0.5, lambda: embed.Tokenize(embedding_pb2.TokenizeRequest(inputs=[text(30)]), timeout=5)),
            *(every(0.3, lambda: evaluate.Evaluate(evaluation("default"), timeout=20)) for _ in range(2)),
            *(every(0.5, lambda: evaluate.Evaluate(evaluation("flaky"), timeout=20)) for _ in range(3)),
            every(4, lambda: evaluated(evaluate, 12)),
        ]
        tasks = [asyncio.create_task(part) for part in endless]
        await asyncio.sleep(0.35 * seconds)
        await asyncio.gather(*(burst(embed, 0.15 * seconds) for _ in range(24)))
        await asyncio.to_thread(pods[1].stop)
        pods[1].start()
        await asyncio.sleep(max(0, start + seconds - time.monotonic()))
        for task in tasks:
            task.cancel()


async def every(pause, call):
    while True:
        with contextlib.suppress(grpc.RpcError):
            await call()
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))


async def burst(embed, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            await embed.Embed(request(8, 120), timeout=10)
        except grpc.RpcError:
            await asyncio.sleep(0.2)


async def left(embed):
    call = embed.Embed(request(16, 150), timeout=5)
    await asyncio.sleep(0.05)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call


async def streamed(embed, count):
    inputs = (embedding_pb2.EmbedStreamRequest(id=str(n), input=text(120)) for n in range(count))
    async for _ in embed.EmbedStream(inputs, timeout=60):
        pass


async def evaluated(evaluate, count):
    samples = (evaluation_pb2.EvaluateStreamRequest(request=evaluation("default")) for _ in range(count))
    async for _ in evaluate.EvaluateStream(samples, timeout=60):
        pass


def request(count, words):
    return embedding_pb2.EmbedRequest(inputs=[text(words) for _ in range(count)])


def text(words):
    """Some texts come again and again, most never."""
    seed = int(random.paretovariate(0.6)) if words < 10 else random.random()
    source = random.Random(seed)
    return " ".join(f"{source.choice(NOUNS)} {source.randrange(100)}" for _ in range(words // 2))


def evaluation(judge):
    year = random.randrange(1900, 2000)
    bridge = f"Halden Bridge {random.randrange(200)}"
    sample = evaluation_pb2.Sample(
        user_input=f"When did the {bridge} open?",
        response=f"The {bridge} opened in {year}. It is painted green.",
        reference=f"The {bridge} opened in {year}.",
        retrieved_contexts=[evaluation_pb2.Context(text=f"It is 412 m long. The {bridge} opened in {year}.")],
    )
    names = ("faithfulness", "context_recall", "semantic_similarity", "token_f1")
    metrics = [evaluation_pb2.MetricSelection(name=name) for name in names]
    return evaluation_pb2.EvaluateRequest(sample=sample, metrics=metrics, options=evaluation_pb2.EvaluateOptions(judge=judge))


if __name__ == "__main__":
    main()
