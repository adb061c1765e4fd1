"""The scenarios of run.sh: outcomes of calls through each proxy while replicas stop and start.

    PYTHONPATH=gen python drive.py --binary FILE --model DIR --judge URL --logs DIR [--browser CHROMIUM] envoy nginx haproxy
"""

import argparse
import asyncio
import os
import socket
import subprocess
import time
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
from assay.v1 import embedding_pb2, embedding_pb2_grpc
from calls import EMBED, TIMEOUT, Load, embed, embed_stream, evaluate, once, patient
from fronts import Front
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from replicas import READY_SECONDS, Replica

ROOT = Path(__file__).parents[2]
# Those of the examples: calls of the replicas, their admin ports, the proxy, its admin port, the page.
PORTS = [50051, 50052, 50053, 9091, 9092, 9093, 8080, 9901, 8081]
SPREAD_CALLS = 300
# Longer than what cuts streams by default: 15 s in Envoy, 60 s in nginx.
SILENCE = 65
LONG_TEXT = "a red fox and a blue bird " * 30


async def main(options):
    table = {}
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    replicas = [Replica(options, f"assay-{index}", ports[50050 + index], ports[9090 + index]) for index in (1, 2, 3)]
    async with AsyncExitStack() as stack:
        for replica in replicas:
            stack.callback(replica.kill)
        await asyncio.gather(*(replica.start() for replica in replicas))
        fronts = []
        for name in options.proxies:
            # The page of the browser expects the first of them.
            mine = ports if name == "envoy" else {**ports, **dict(zip((8080, 9901), free_ports(2), strict=True))}
            front = Front(name, mine, options.logs)
            stack.callback(front.stop)
            column = f"{name} {front.start()}"
            table[column] = await stories(front, replicas)
            fronts.append((front, column))
        silences = asyncio.gather(*(silence(front) for front, _ in fronts))
        if options.browser:
            await asyncio.to_thread(browse, options.browser, ports)
        for (_, column), fact in zip(fronts, await silences, strict=True):
            table[column]["a stream is silent, then goes on"] = fact
        show(table)


async def stories(front, replicas):
    print(f"\n== {front.name}", flush=True)
    await settled(front, replicas)
    facts = {}
    for story in (spread, passing, deadlines, without_model, draining, killed, none_left):
        began = time.monotonic()
        facts[story.__doc__] = await story(front, replicas)
        print(f"{story.__doc__}: {facts[story.__doc__]} ({time.monotonic() - began:.1f} s)", flush=True)
    return facts


# The stories; each leaves the replicas as it found them.


async def spread(front, replicas):
    """calls of each replica"""
    before = [replica.started(EMBED) for replica in replicas]
    async with once(front.address) as channel:
        for _ in range(SPREAD_CALLS // 6):
            await asyncio.gather(*(embed(channel) for _ in range(6)))
    calls = [replica.started(EMBED) - count for replica, count in zip(replicas, before, strict=True)]
    assert sum(calls) == SPREAD_CALLS, calls
    even = SPREAD_CALLS / len(replicas)
    assert all(0.75 * even <= count <= 1.25 * even for count in calls), calls
    return " ".join(map(str, calls))


async def passing(front, replicas):
    """error details, ids, 2 MiB, 200 inputs of a stream"""
    async with once(front.address) as channel:
        assert await violations(channel, ["A red fox.", ""]) == ["inputs[1]"]
        # Refused for the length of each, by the server: so all of it came through.
        assert len(await violations(channel, ["a" * (129 << 10)] * 16)) == 16
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        call = stub.Embed(embedding_pb2.EmbedRequest(inputs=["A red fox."]), timeout=TIMEOUT, metadata=[("x-request-id", "fox-1")])
        assert dict(await call.initial_metadata())["x-request-id"] == "fox-1"
        await call
        await embed_stream(channel, 200)
    return "pass"


async def violations(channel, inputs):
    """The fields that the server finds fault with."""
    try:
        await embed(channel, inputs)
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        for packed in rpc_status.from_call(error).details:
            found = error_details_pb2.BadRequest()
            if packed.Unpack(found):
                return [violation.field for violation in found.field_violations]
    raise AssertionError("there is no BadRequest")


async def deadlines(front, replicas):
    """40 calls too slow for their deadline"""
    async with once(front.address) as channel:
        for _ in range(40):
            try:
                # The server's own answer, which the proxy sees; with the client's deadline, the client would leave first.
                await embed(channel, [LONG_TEXT] * 4, timeout=None, metadata=[("grpc-timeout", "1m")])
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
            else:
                raise AssertionError("a call was answered within a millisecond")
    await spread(front, replicas)
    return "DEADLINE_EXCEEDED; all replicas stay"


async def without_model(front, replicas):
    """one replica NOT_SERVING"""
    cold = replicas[2]
    await cold.drain()
    await cold.start_without_model()
    load = Load(once(front.address))
    await load.more(200)
    await load.stop()
    if front.name == "nginx":
        load.hold_retryable()
    else:
        load.hold_none()
        assert cold.started(EMBED) == 0, f"{cold.started(EMBED)} calls went to it"
    cold.kill()
    await cold.start()
    await settled(front, replicas)
    return str(load)


async def draining(front, replicas):
    """one replica draining"""
    load = Load(once(front.address))
    await load.more(50)
    await replicas[1].drain()
    await load.more(50)
    await load.stop()
    load.hold_none()
    await replicas[1].start()
    await settled(front, replicas)
    return str(load)


async def killed(front, replicas):
    """one replica killed, and back"""
    load = Load(once(front.address))
    patient_load = Load(patient(front.address), kinds=(embed, evaluate))
    await load.more(50)
    replicas[0].kill()
    await load.more(200)
    await replicas[0].start()
    await settled(front, replicas)
    await asyncio.gather(load.stop(), patient_load.stop())
    load.hold_retryable()
    patient_load.hold_none()
    # nginx makes no call again that was sent.
    assert front.name == "nginx" or load.failed("embed") == 0, load.failures
    return f"{load}; with the service config {patient_load}"


async def none_left(front, replicas):
    """all replicas killed"""
    for replica in replicas:
        replica.kill()
    async with once(front.address) as channel:
        began = time.monotonic()
        for kind in (embed, evaluate):
            try:
                await kind(channel)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            else:
                raise AssertionError("there was an answer")
        took = time.monotonic() - began
    assert took < TIMEOUT / 3, f"after {took} s"
    await asyncio.gather(*(replica.start() for replica in replicas))
    await settled(front, replicas)
    return "UNAVAILABLE at once"


async def silence(front):
    """A stream that says nothing for a while is there all the same."""
    async with once(front.address) as channel:
        stream = embedding_pb2_grpc.EmbeddingServiceStub(channel).EmbedStream(timeout=SILENCE + TIMEOUT)
        for pause in (0, SILENCE):
            await asyncio.sleep(pause)
            await stream.write(embedding_pb2.EmbedStreamRequest(id="fox", input="A red fox."))
            assert (await stream.read()).HasField("embedding")
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
    return f"{SILENCE} s"


async def settled(front, replicas):
    """Returns when every replica gets calls."""
    before = {replica: replica.started(EMBED) for replica in replicas}
    deadline = time.monotonic() + READY_SECONDS
    async with once(front.address) as channel:
        while missing := [replica.name for replica, count in before.items() if replica.started(EMBED) == count]:
            assert time.monotonic() < deadline, f"{front.name} gives no calls to {missing}"
            await asyncio.gather(*(embed(channel, wait_for_ready=True) for _ in range(3)), return_exceptions=True)


# The browser, and the rest


def browse(chromium, ports):
    print("\n== gRPC-Web in Chromium, through envoy", flush=True)
    command = ["node", str(ROOT / "tests/browser/grpc_web.cjs"), f"http://127.0.0.1:{ports[8080]}", str(ports[8081])]
    paths = {"CHROMIUM": chromium, "NODE_PATH": str(ROOT / "target/browser/node_modules")}
    subprocess.run([*command, str(ROOT / "target/browser/web")], env={**os.environ, **paths}, check=True)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def show(table):
    print("\n|  | " + " | ".join(table) + " |")
    print("| --- |" + " --- |" * len(table))
    for fact in next(iter(table.values())):
        print(f"| {fact} | " + " | ".join(column[fact] for column in table.values()) + " |")


def arguments():
    parser = argparse.ArgumentParser()
    for flag in ("binary", "model", "judge"):
        parser.add_argument(f"--{flag}", required=True)
    parser.add_argument("--logs", required=True, type=Path)
    parser.add_argument("--browser")
    parser.add_argument("proxies", nargs="+")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(arguments()))
