"""Starts the server with test judges, makes calls of every kind, and writes the output of /metrics.

    PYTHONPATH=gen python scrape.py BINARY MODEL_DIR METRICS_FILE

Counters with labels appear once they have counted, so calls succeed here, fail, are left by their callers and are
refused by a judge. The names of health that probes ask for are asked for too.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
from assay.v1 import embedding_pb2, embedding_pb2_grpc, evaluation_pb2, evaluation_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

READY_SECONDS = 60
# Of readiness and of liveness.
SERVICES = ("", "liveness")


def main():
    binary, model, target = sys.argv[1:]
    with ExitStack() as stack:
        judge = stack.enter_context(stand_in())
        picky = stack.enter_context(refusing())
        address, admin = stack.enter_context(server(binary, model, judge, picky))
        health(address, admin)
        with grpc.insecure_channel(address) as channel:
            use(channel, admin)
        metrics = scrape(admin) + guarded(binary, model, judge, picky)
    Path(target).write_text(metrics)
    print(f"{len(re.findall('^# TYPE', metrics, re.MULTILINE))} metrics are served")


@contextmanager
def stand_in():
    program = Path(__file__).parents[2] / "clients" / "judge.py"
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextmanager
def refusing():
    """A judge that takes no temperature, and nothing else either."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            error = {"message": "Unsupported parameter: 'temperature'", "param": "temperature"}
            body = json.dumps({"error": {**error, "code": "unsupported_parameter"}}).encode()
            self.send_response(400)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/v1"
        http.shutdown()


def guarded(binary, model, judge, picky):
    """What is served where callers need tokens and the collector is away, beside the rest."""
    with tempfile.NamedTemporaryFile("w", suffix=".tokens") as tokens:
        tokens.write("backend:6mVn0c2Zq3JkT1yW8sLx5A\n")
        tokens.flush()
        flags = ["--token-file", tokens.name, "--otlp-endpoint", "http://127.0.0.1:1"]
        flags += ["--otlp-signals", "metrics", "--otlp-metrics-every", "100ms"]
        with server(binary, model, judge, picky, *flags) as (_, admin):
            for _ in until_served(admin, "assay_otlp_dropped_total"):
                time.sleep(0.1)
            lines = [line for line in scrape(admin).splitlines() if re.search("assay_(reloads|otlp)", line)]
    return "\n".join(lines) + "\n"


@contextmanager
def server(binary, model, judge, picky, *more):
    with tempfile.TemporaryDirectory() as work:
        config, log = Path(work, "assay.toml"), Path(work, "log")
        config.write_text(
            f'judge_url = "{judge}"\njudge_model = "stand-in"\n[judges.picky]\nurl = "{picky}"\nmodel = "picky"\n'
        )
        flags = ["--config", config, "--model", model, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        flags += ["--threads", "1", "--queue-tokens", "16384", "--embed-cache", "1MiB", "--log-format", "json", *more]
        with log.open("w") as stderr, subprocess.Popen([binary, *flags], stderr=stderr) as process:
            try:
                yield announced(process, log)
            finally:
                process.terminate()
                process.wait(40)


def announced(process, log):
    """Its addresses, once it is ready."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        told = next((line for line in lines if line["message"].startswith("listening")), None)
        if told and any(line["message"] == "serving" for line in lines):
            return told["listen"], told["admin"]
        time.sleep(0.1)
    sys.exit(f"the server is not ready:\n{log.read_text()}")


def health(address, admin):
    for target in (address, admin):
        with grpc.insecure_channel(target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in SERVICES:
                answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
    print(f"health knows {' and '.join(repr(service) for service in SERVICES)}")


def use(channel, admin):
    embed = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    for _ in range(2):
        embed.Embed(embedding_pb2.EmbedRequest(inputs=["A red fox."]), timeout=10)
    expect(grpc.StatusCode.INVALID_ARGUMENT, embed.Embed, embedding_pb2.EmbedRequest(inputs=[""]))
    evaluate = evaluation_pb2_grpc.EvaluationServiceStub(channel)
    for judge in ("default", "picky"):
        evaluate.Evaluate(request(judge), timeout=30)
    # Callers that leave as their inputs wait, sooner and later until that was seen; enough of them fill the queue.
    for attempt, _ in enumerate(until_served(admin, "assay_dropped_total")):
        texts = [[f"{attempt} {call} {n} " + "a long text " * 50 for n in range(16)] for call in range(6)]
        calls = [embed.Embed.future(embedding_pb2.EmbedRequest(inputs=inputs), timeout=10) for inputs in texts]
        time.sleep(attempt % 10 / 100)
        for call in calls:
            call.cancel()


def until_served(admin, metric):
    """Goes on until the metric has counted."""
    deadline = time.monotonic() + READY_SECONDS
    while f"\n{metric}" not in scrape(admin):
        assert time.monotonic() < deadline, f"{metric} has not counted"
        yield


def expect(code, method, message):
    try:
        method(message, timeout=10)
    except grpc.RpcError as error:
        assert error.code() == code, error
    else:
        raise AssertionError(f"{code} was expected")


def request(judge):
    sample = evaluation_pb2.Sample(
        user_input="When did the Halden Bridge open?",
        response="The Halden Bridge opened in 1962. It is painted green.",
        retrieved_contexts=[evaluation_pb2.Context(text="The Halden Bridge opened on 4 May 1962.")],
    )
    metrics = [evaluation_pb2.MetricSelection(name="faithfulness")]
    options = evaluation_pb2.EvaluateOptions(judge=judge)
    return evaluation_pb2.EvaluateRequest(sample=sample, metrics=metrics, options=options)


def scrape(admin):
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=5) as answer:
        return answer.read().decode()


if __name__ == "__main__":
    main()
