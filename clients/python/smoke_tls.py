"""TLS, tokens and client certificates. Each function is an example of its own.

    PYTHONPATH=gen python smoke_tls.py TLS_ADDRESS MUTUAL_ADDRESS DIRECTORY

Both servers have a certificate and want a token; the second wants a client's certificate, too. The directory is that of
../certificates.sh.
"""

import sys
from pathlib import Path

import grpc
import numpy as np
from assay.v1 import embedding_pb2 as pb
from assay.v1 import embedding_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from smoke import detail, run

TIMEOUT = 60  # seconds; every call has one
REQUEST = pb.EmbedRequest(inputs=["A red fox."])


class Files:
    def __init__(self, directory):
        self.directory = Path(directory)

    def read(self, name):
        return (self.directory / name).read_bytes()

    def tls(self, authority="ca", client=None):
        """The server must have a certificate of `authority`; `client` names the certificate that is shown to it."""
        shown = (self.read(f"{client}.key"), self.read(f"{client}.pem")) if client else (None, None)
        return grpc.ssl_channel_credentials(self.read(f"{authority}.pem"), *shown)

    def tls_and_token(self, **tls):
        """Each call has `authorization: Bearer TOKEN`; without TLS grpc would refuse to send it."""
        token = grpc.access_token_call_credentials(self.read("token").decode().strip())
        return grpc.composite_channel_credentials(self.tls(**tls), token)


def embed(address, credentials):
    with grpc.secure_channel(address, credentials) as channel:
        response = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(REQUEST, timeout=TIMEOUT)
    check_response(response)


def check_response(response):
    assert abs(np.linalg.norm(response.embeddings[0].values) - 1) < 1e-5


def refused(address, credentials):
    try:
        embed(address, credentials)
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call succeeded")


def check_token_missing(error):
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
    info = detail(rpc_status.from_call(error), error_details_pb2.ErrorInfo)
    assert info.reason == "TOKEN_MISSING", info


def check_not_connected(error):
    # A deadline would tell that the channel waits for a server that it can never trust.
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error


def a_token_lets_a_call_in(address, files):
    embed(address, files.tls_and_token())
    without_token = refused(address, files.tls())
    check_token_missing(without_token)
    of_another = refused(address, files.tls_and_token(authority="other-ca"))
    check_not_connected(of_another)
    return f"OK; without it {without_token.code().name}; another authority: {of_another.code().name}"


def a_client_certificate_lets_a_call_in(address, files):
    embed(address, files.tls_and_token(client="client"))
    check_token_missing(refused(address, files.tls(client="client")))
    without_certificate = refused(address, files.tls_and_token())
    check_not_connected(without_certificate)
    return f"OK; without it {without_certificate.code().name}"


def main(tls, mutual, directory):
    files = Files(directory)
    checks = [(a_token_lets_a_call_in, tls), (a_client_certificate_lets_a_call_in, mutual)]
    passed = [run(function.__name__, lambda: function(address, files)) for function, address in checks]
    print(f"{sum(passed)} of {len(passed)} passed")
    return all(passed)


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
