"""Well-behaved clients and probes that run during an attack. Each is a separate process and prints its results as JSON."""

import json
import os
import signal
import sys
import time
import urllib.request

from http2 import EMBED, EMBED_STREAM, HEALTH, Closed, Connection, field, inputs, message

stopped = False


def stop(*_: object) -> None:
    global stopped
    stopped = True


def running(parent: int = os.getppid()) -> bool:
    """True until the process is asked to stop or the suite has exited."""
    return not stopped and os.getppid() == parent


def caller(port: int) -> dict:
    """Embeds a short text repeatedly over one connection."""
    seconds, failed, connection = [], 0, None
    while running():
        started = time.monotonic()
        try:
            connection = connection or Connection(port)
            answer = connection.call(EMBED, inputs("what is a fox?"), grpc_timeout="10S")
            failed += answer is None
        except (Closed, OSError):
            failed, connection = failed + 1, None
        seconds.append((started, time.monotonic() - started))
        time.sleep(0.005)
    return {"seconds": seconds, "failed": failed}


def stream(port: int) -> dict:
    """Sends one text at a time on an open stream."""
    seconds, failed = [], 0
    connection = Connection(port)
    on = connection.begin(EMBED_STREAM)
    while running():
        started = time.monotonic()
        try:
            connection.body(on, message(field(2, "what is a fox?")), end=False)
            while (got := connection.receive())[2] != on or got[0] != 0:
                if got[0] == 7 or (got[2] == on and got[1] & 1):
                    raise Closed("the stream ended")
        except (Closed, OSError):
            failed += 1
            break
        seconds.append((started, time.monotonic() - started))
        time.sleep(0.005)
    return {"seconds": seconds, "failed": failed}


def prober(admin: int) -> dict:
    """Probes liveness and health on the admin port like the kubelet, with a new connection each time."""
    livez, health = [], []
    while running():
        for times, ask in ((livez, lambda: probe_livez(admin)), (health, lambda: probe_health(admin))):
            started = time.monotonic()
            passed = ask()
            times.append((started, time.monotonic() - started if passed else 99.0))
        time.sleep(0.25)
    return {"livez": livez, "health": health}


def probe_livez(admin: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{admin}/livez", timeout=5).status == 200
    except OSError:
        return False


def probe_health(port: int) -> bool:
    try:
        connection = Connection(port, timeout=5)
        answer = connection.call(HEALTH, b"", grpc_timeout="5S")
        connection.close()
        return answer is not None
    except (Closed, OSError):
        return False


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    role, *ports = sys.argv[1:]
    print(json.dumps({"caller": caller, "stream": stream, "prober": prober}[role](*map(int, ports))))
