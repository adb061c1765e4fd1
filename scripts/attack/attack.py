#!/usr/bin/env python3
"""Attacks a local server and measures the effect on a well-behaved client and on the probes.

Each attack gets a fresh server in a memory cgroup of 1 GiB, where cgroups can be made. Beside it run a caller that embeds
one short text after another, a stream that does the same, and a prober that asks for liveness and health by new
connections, as a kubelet does. First they run alone, then beside the attack.

A row fails where the server died, refused the polite caller, or broke what the attack itself checks. With --strict it
also fails where health took more than 250 ms, the caller's p99 more than three times that of before (and more than
--floor milliseconds), the event loop stalled, or memory went above --max-rss or did not come back within 10 %.
"""

import argparse
import contextlib
import json
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from attacks import ATTACKS, Attack  # noqa: E402
from server import Server  # noqa: E402

MIB = 1 << 20


class Polite:
    """The well-behaved clients and probes that run during an attack."""

    def __init__(self, server: Server, tls: bool):
        # Over TLS they would measure Python's handshakes.
        roles = [("prober", server.admin)] + ([] if tls else [("caller", server.port), ("stream", server.port)])
        command = [sys.executable, str(HERE / "polite.py")]
        self.processes = {
            role: subprocess.Popen([*command, role, *map(str, ports)], stdout=subprocess.PIPE) for role, *ports in roles
        }

    def __enter__(self) -> "Polite":
        return self

    def __exit__(self, *_: object) -> None:
        [process.kill() for process in self.processes.values()]

    def end(self) -> dict:
        for process in self.processes.values():
            process.terminate()
        ended = {}
        for role, process in self.processes.items():
            try:
                ended[role] = json.loads(process.communicate(timeout=30)[0])
            except (subprocess.TimeoutExpired, json.JSONDecodeError):
                process.kill()
                ended[role] = {"seconds": [], "failed": 1, "livez": [], "health": []}
        return ended


def quantile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else float("nan")


class Sampler(threading.Thread):
    """The maximum resident memory."""

    def __init__(self, server: Server):
        super().__init__(daemon=True)
        self.server, self.peak, self.running = server, 0, True

    def run(self) -> None:
        while self.running:
            self.peak = max(self.peak, self.server.resident())
            time.sleep(0.05)


def certificate(folder: str) -> list[str]:
    key, cert = Path(folder) / "key.pem", Path(folder) / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    subprocess.run([*command, "-subj", "/CN=localhost", "-keyout", key, "-out", cert], check=True, capture_output=True)
    return ["--tls-cert", str(cert), "--tls-key", str(key)]


def run(attack: Attack, options: argparse.Namespace) -> dict:
    """Runs one attack on a new server. All processes are stopped afterwards; the log of a failed attack is kept."""
    with contextlib.ExitStack() as stack:
        further = list(attack.arguments)
        if attack.tls:
            further += certificate(stack.enter_context(tempfile.TemporaryDirectory(prefix="assay-attack-")))
        judge = attack.judge() if attack.judge else None
        if judge:
            stack.callback(judge.close)
            further += judge.arguments
        server = Server(options.binary, options.model, *further, descriptors=attack.descriptors)
        server.judge, row = judge, {"hard": True}
        stack.callback(lambda: server.close(keep_log=row["hard"]))
        polite = stack.enter_context(Polite(server, attack.tls))
        row |= measure(attack, options, server, polite)
        row["verdict"] = verdict(row, options)
    if row["hard"]:
        print(f"{attack.name}: the server's log is {server.log.name}", file=sys.stderr)
    return row


def measure(attack: Attack, options: argparse.Namespace, server: Server, polite: Polite) -> dict:
    alone_seconds, settle = (2, 5) if options.quick else (4, 60 if options.settle is None else options.settle)
    time.sleep(alone_seconds + 1)
    before, stalls = server.resident(), server.metric("assay_reactor_stalls_total")
    sampler = Sampler(server)
    sampler.start()
    begun = time.monotonic()
    try:
        failed = attack.run(server, options.seconds)
    except OSError as error:
        failed = f"the attack could not go on: {error}"
    ended = time.monotonic()
    seen = polite.end()
    alive = server.alive() or server.process.returncode == 0
    row = {"attack": attack.name, "about": attack.about, "alive": alive, "failed": failed}
    calls = [took for at, took in seen.get("caller", {}).get("seconds", []) if begun <= at <= ended]
    alone = [took for at, took in seen.get("caller", {}).get("seconds", []) if at < begun]
    stream = [took for at, took in seen.get("stream", {}).get("seconds", []) if begun <= at <= ended]
    row["alone"], row["p99"], row["stream"] = quantile(alone, 0.99), quantile(calls, 0.99), quantile(stream, 0.99)
    row["refused"] = seen.get("caller", {}).get("failed", 0) + seen.get("stream", {}).get("failed", 0)
    for probe in ("livez", "health"):
        row[probe] = max((took for at, took in seen["prober"][probe] if begun <= at <= ended), default=0.0)
    row["stalls"] = server.metric("assay_reactor_stalls_total") - stalls if server.alive() else 0
    if server.alive():
        until = time.monotonic() + settle
        while time.monotonic() < until and server.resident() > 1.1 * before:
            time.sleep(0.5)
    sampler.running = False
    row["before"], row["peak"], row["after"] = before, sampler.peak, server.resident()
    if server.alive():
        code, _ = server.stop()
        row["failed"] = row["failed"] or (f"exit code {code} at SIGTERM" if code != 0 else None)
    elif not attack.shuts_down:
        row["failed"] = f"the server ended with {server.process.returncode}"
    else:
        # The shutdown ends the callers' and the probes' connections.
        row["refused"], row["livez"], row["health"] = 0, float("nan"), float("nan")
    return row


def verdict(row: dict, options: argparse.Namespace) -> str:
    hard = ([] if row["alive"] else ["dead"]) + ([row["failed"]] if row["failed"] else [])
    hard += [f"{row['refused']} refused"] if row["refused"] else []
    soft = [f"{probe} {row[probe] * 1e3:.0f} ms" for probe in ("livez", "health") if row[probe] > 0.25]
    if row["p99"] > max(3 * row["alone"], options.floor / 1e3):
        soft.append(f"p99 x {row['p99'] / row['alone']:.1f}")
    soft += [f"{row['stalls']:.0f} stalls"] if row["stalls"] else []
    soft += ["memory above its maximum"] if row["peak"] > options.max_rss * MIB else []
    soft += ["memory stays up"] if row["after"] > 1.1 * row["before"] else []
    row["hard"], row["soft"] = bool(hard), bool(soft)
    return ", ".join(hard + soft) or "ok"


HEADER = (
    "| attack | p99 alone, ms | p99 beside | stream p99 | refused | livez max | health max | stalls | RSS before, peak, after (MiB) | verdict |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def line(row: dict) -> str:
    ms = {name: f"{row[name] * 1e3:.1f}" for name in ("alone", "p99", "stream")}
    probes = {name: f"{row[name] * 1e3:.0f}" for name in ("livez", "health")}
    memory = " / ".join(f"{row[name] / MIB:.0f}" for name in ("before", "peak", "after"))
    return (
        f"| `{row['attack']}` | {ms['alone']} | {ms['p99']} | {ms['stream']} | {row['refused']} | {probes['livez']} | "
        f"{probes['health']} | {row['stalls']:.0f} | {memory} | {row['verdict']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", default="target/release/assay", help="the server's binary")
    parser.add_argument("model", nargs="?", default="models/all-MiniLM-L6-v2", help="the directory of its model")
    parser.add_argument("--list", action="store_true", help="list the attacks and end")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these attacks alone; a prefix will do")
    parser.add_argument("--quick", action="store_true", help="a short form: the most telling attacks, 4 s each")
    parser.add_argument("--seconds", type=float, help="length of each attack (default 10, with --quick 4)")
    parser.add_argument("--settle", type=float, help="seconds in which memory may come back (default 60, with --quick 5)")
    parser.add_argument("--max-rss", type=float, default=850, help="documented maximum of resident memory, in MiB")
    parser.add_argument("--floor", type=float, default=25, help="p99 below this many milliseconds always passes")
    parser.add_argument("--strict", action="store_true", help="fail for times and memory too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to this file")
    options = parser.parse_args()
    # Some attacks open more connections than the soft limit allows.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    options.seconds = options.seconds or (4 if options.quick else 10)
    chosen = [a for a in ATTACKS.values() if a.quick or not options.quick]
    if options.only:
        chosen = [a for a in ATTACKS.values() if any(a.name.startswith(name) for name in options.only)]
    if options.list:
        print("\n".join(f"{a.name:28} {a.about}" for a in chosen))
        return
    # A suite that is told to end cleans up as at its own end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(HEADER, flush=True)
    rows = []
    for attack in chosen:
        rows.append(run(attack, options))
        print(line(rows[-1]), flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join([HEADER, *map(line, rows)]) + "\n")
    ratios = [row["p99"] / row["alone"] for row in rows if row["alone"] > 0 and row["p99"] > 0]
    if ratios:
        print(f"\np99 beside an attack over p99 alone: median {statistics.median(ratios):.2f}, most {max(ratios):.2f}")
    failed = [row for row in rows if row["hard"] or (options.strict and row["soft"])]
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
