"""A replica whose process is stopped."""

import signal
import time

from pod import Pod, start_replica
from watch import SLACK, report, until


def freeze(manifest, files):
    """A stopped process becomes unready first, and is restarted after enough failed liveness probes."""
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
    """The time until a probe counts as failed, by its settings."""
    spec = pod.mains[0].spec[kind]
    return spec["failureThreshold"] * (spec["periodSeconds"] + spec["timeoutSeconds"]) + SLACK
