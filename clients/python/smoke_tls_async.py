"""The checks of smoke_tls.py in an asyncio program.

    PYTHONPATH=gen python smoke_tls_async.py TLS_ADDRESS MUTUAL_ADDRESS DIRECTORY
"""

import asyncio
import sys

import grpc
from assay.v1 import embedding_pb2_grpc
from smoke_async import run
from smoke_tls import REQUEST, TIMEOUT, Files, check_not_connected, check_response, check_token_missing


async def embed(address, credentials):
    async with grpc.aio.secure_channel(address, credentials) as channel:
        response = await embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(REQUEST, timeout=TIMEOUT)
    check_response(response)


async def refused(address, credentials):
    try:
        await embed(address, credentials)
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")


async def a_token_lets_a_call_in(address, files):
    await embed(address, files.tls_and_token())
    without_token = await refused(address, files.tls())
    check_token_missing(without_token)
    of_another = await refused(address, files.tls_and_token(authority="other-ca"))
    check_not_connected(of_another)
    return f"OK; without it {without_token.code().name}; another authority: {of_another.code().name}"


async def a_client_certificate_lets_a_call_in(address, files):
    await embed(address, files.tls_and_token(client="client"))
    check_token_missing(await refused(address, files.tls(client="client")))
    without_certificate = await refused(address, files.tls_and_token())
    check_not_connected(without_certificate)
    return f"OK; without it {without_certificate.code().name}"


async def main(tls, mutual, directory):
    files = Files(directory)
    await run(a_token_lets_a_call_in, tls, files)
    await run(a_client_certificate_lets_a_call_in, mutual, files)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
