"""Assay as a sidecar: start of the app, available calls, and order of the shutdown."""

import threading
import time

from pod import Pod
from watch import SLACK, Load, Warmth, get, is_open, report, until

# Between the start of the pod and the appearance of its model.
MODEL_LATE = 3.0


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


def embed_through_the_app(pod, timeout=20):
    return get(f"http://{pod.address}:8080/embed?text=A%20red%20fox.", timeout)


def request_of(pod):
    return lambda: None if embed_through_the_app(pod) else "an answer other than 200"
