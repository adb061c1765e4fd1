"""Replicas that are replaced under load."""

import time

import grpc
from network import PODS
from pod import Pod, start_replica
from watch import Load, call_of, report

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


def targets(pods):
    return "ipv4:" + ",".join(f"{pod.address}:50051" for pod in pods)
