"""Every feature of a running server, used and checked. Each function is an example of its own.

    PYTHONPATH=gen python smoke.py 127.0.0.1:50051 unix:/run/assay.sock
"""

import sys
import time
import traceback

import grpc
import numpy as np
from assay.v1 import embedding_pb2 as pb
from assay.v1 import embedding_pb2_grpc, server_pb2, server_pb2_grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

TIMEOUT = 60  # seconds; every call has one
MODEL_DIMENSIONS = 384

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Server:
    """The stubs of one channel."""

    def __init__(self, channel):
        self.embedding = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        self.info = server_pb2_grpc.ServerServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    def embed(self, inputs, **options):
        request = pb.EmbedRequest(inputs=inputs, options=pb.EmbedOptions(**options))
        return self.embedding.Embed(request, timeout=TIMEOUT)

    def vectors(self, inputs, **options):
        """Shape [inputs, dimensions]."""
        return np.array([e.values for e in self.embed(inputs, **options).embeddings], dtype=np.float32)


# Embed


@check
def embed_gives_vectors_of_unit_length(server):
    response = server.embed(["A red fox."])
    [embedding] = response.embeddings
    assert len(embedding.values) == response.dimensions == MODEL_DIMENSIONS
    assert abs(np.linalg.norm(embedding.values) - 1) < 1e-5
    assert response.total_tokens == embedding.token_count > 0 and not embedding.truncated
    return f"{MODEL_DIMENSIONS} numbers of length 1"


@check
def similar_texts_are_nearer_than_unrelated_ones(server):
    kitten, cat, tax = server.vectors(
        ["A kitten sleeps on the sofa.", "The cat naps on the couch.", "The tax return is due in April."]
    )
    assert kitten @ cat > kitten @ tax + 0.2, (kitten @ cat, kitten @ tax)


@check
def chinese_text_is_embedded(server):
    one, same, other = server.vectors(["今天天气很好。", "今天天气很好。", "股票下跌"])
    assert np.abs(one - same).max() < 1e-5
    assert one @ other < 0.99


@check
def a_batch_keeps_the_order_of_its_inputs(server):
    # Lengths differ, so the server computes them in another order.
    texts = ["word " * (1 + 37 * n % 50) + str(n) for n in range(24)]
    alone = [server.vectors([text])[0] for text in texts[:6]]
    batch = server.vectors(texts)
    assert len(batch) == len(texts)
    assert np.abs(batch[:6] - alone).max() < 1e-5


@check
def truncation_makes_long_texts_fit(server):
    text = "alpha " * 400 + "omega " * 400
    [end] = server.embed([text], truncation=pb.TRUNCATION_END).embeddings
    [start] = server.embed([text], truncation=pb.TRUNCATION_START).embeddings
    assert end.truncated and start.truncated
    assert end.token_count == start.token_count == server_info(server).model.max_tokens
    assert np.dot(end.values, start.values) < 0.99


@check
def dimensions_keep_the_leading_numbers(server):
    full, cut = server.vectors(["A red fox."])[0], server.vectors(["A red fox."], dimensions=64)[0]
    assert cut.shape == (64,)
    assert np.abs(cut - full[:64] / np.linalg.norm(full[:64])).max() < 1e-5


@check
def normalize_can_be_switched_off(server):
    [raw], [unit] = server.vectors(["A red fox."], normalize=False), server.vectors(["A red fox."])
    assert np.abs(raw / np.linalg.norm(raw) - unit).max() < 1e-5


# Encodings: the bytes are little-endian, whatever this machine is.


def decode(embedding, encoding):
    if encoding == pb.ENCODING_FLOAT32_BYTES:
        return np.frombuffer(embedding.raw, dtype="<f4")
    if encoding == pb.ENCODING_FLOAT16_BYTES:
        return np.frombuffer(embedding.raw, dtype="<f2").astype(np.float32)
    if encoding == pb.ENCODING_INT8_BYTES:
        return np.frombuffer(embedding.raw, dtype=np.int8) * np.float32(embedding.scale)
    if encoding == pb.ENCODING_BINARY_BYTES:
        return np.unpackbits(np.frombuffer(embedding.raw, dtype=np.uint8))[:MODEL_DIMENSIONS]
    return np.array(embedding.values, dtype=np.float32)


def check_bytes(server, encoding, values, number_bits):
    [embedding] = server.embed(["A red fox."], encoding=encoding).embeddings
    assert not embedding.values and len(embedding.raw) == MODEL_DIMENSIONS * number_bits // 8
    vector = decode(embedding, encoding)
    if encoding == pb.ENCODING_BINARY_BYTES:
        # A number that is all but zero may fall on either side of it.
        certain = np.abs(values) > 1e-5
        assert (vector[certain] == (values > 0)[certain]).all()
        return
    tolerance = {pb.ENCODING_FLOAT16_BYTES: 2e-4, pb.ENCODING_INT8_BYTES: embedding.scale / 2 + 1e-5}
    assert np.abs(vector - values).max() <= tolerance.get(encoding, 1e-5), encoding


@check
def bytes_of_every_encoding_hold_the_values(server):
    [values] = server.vectors(["A red fox."])
    check_bytes(server, pb.ENCODING_FLOAT32_BYTES, values, number_bits=32)
    check_bytes(server, pb.ENCODING_FLOAT16_BYTES, values, number_bits=16)
    check_bytes(server, pb.ENCODING_INT8_BYTES, values, number_bits=8)
    check_bytes(server, pb.ENCODING_BINARY_BYTES, values, number_bits=1)
    return "f32, f16, int8, bits"


# EmbedStream


@check
def a_stream_answers_every_input_under_its_id(server):
    texts = {f"id-{n}": f"Sentence number {n}." for n in range(200)}
    requests = (pb.EmbedStreamRequest(id=id, input=text) for id, text in texts.items())
    answers = {a.id: a for a in server.embedding.EmbedStream(requests, timeout=TIMEOUT)}
    assert answers.keys() == texts.keys()
    assert all(a.WhichOneof("result") == "embedding" for a in answers.values())
    some = ["id-0", "id-77", "id-199"]
    streamed = np.array([answers[id].embedding.values for id in some])
    assert np.abs(streamed - server.vectors([texts[id] for id in some])).max() < 1e-5
    return f"{len(answers)} ids of {len(texts)}"


@check
def a_bad_input_fails_alone_and_the_stream_goes_on(server):
    texts = ["one", "", "three"]
    requests = (pb.EmbedStreamRequest(id=str(n), input=text) for n, text in enumerate(texts))
    answers = {a.id: a for a in server.embedding.EmbedStream(requests, timeout=TIMEOUT)}
    assert answers["0"].HasField("embedding") and answers["2"].HasField("embedding")
    error = answers["1"].error
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert field_violations(error)[0].field == "input"


@check
def answers_that_share_an_id_keep_their_order(server):
    texts = ["word " * (60 - 3 * n) + str(n) for n in range(20)]
    requests = (pb.EmbedStreamRequest(id="same", input=text) for text in texts)
    answers = list(server.embedding.EmbedStream(requests, timeout=TIMEOUT))
    assert [a.id for a in answers] == ["same"] * len(texts)
    assert np.abs(np.array([a.embedding.values for a in answers]) - server.vectors(texts)).max() < 1e-5


# Deadlines and cancellation

BIG_BATCH = pb.EmbedRequest(inputs=["a long text " * 60] * 64)


@check
def a_deadline_ends_the_call(server):
    try:
        server.embedding.Embed(BIG_BATCH, timeout=0.005)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        return error.code().name
    raise AssertionError("the call outlived its deadline")


@check
def a_cancelled_call_leaves_the_server_free(server):
    call = server.embedding.Embed.future(BIG_BATCH, timeout=TIMEOUT)
    call.cancel()
    assert call.cancelled() and call.code() == grpc.StatusCode.CANCELLED
    assert server.embed(["Still there?"]).embeddings


@check
def a_stream_cancelled_midway_leaves_the_server_free(server):
    requests = (pb.EmbedStreamRequest(id=str(n), input="a long text " * 60) for n in range(200))
    stream = server.embedding.EmbedStream(requests, timeout=TIMEOUT)
    assert next(stream).HasField("embedding")
    stream.cancel()
    try:
        for _ in stream:
            pass
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.CANCELLED, error
    else:
        raise AssertionError("the stream ended as if it had not been cancelled")
    before = time.monotonic()
    assert server.embed(["Still there?"]).embeddings
    # The inputs that were left would have taken far longer.
    assert time.monotonic() - before < 20
    return "CANCELLED"


# Errors


def refused(call):
    """The google.rpc.Status of a call that must fail with INVALID_ARGUMENT."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        return rpc_status.from_call(error)
    raise AssertionError("the call succeeded")


def detail(status, kind):
    """The detail of `status` that is a `kind`, such as BadRequest."""
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            message = kind()
            packed.Unpack(message)
            return message
    raise AssertionError(f"no {kind.__name__} in {status}")


def field_violations(status):
    return detail(status, error_details_pb2.BadRequest).field_violations


@check
def an_empty_input_is_named(server):
    status = refused(lambda: server.embed(["fine", "", "fine"]))
    [violation] = field_violations(status)
    assert violation.field == "inputs[1]" and violation.description
    info = detail(status, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("INVALID_REQUEST", "assay.v1")
    return f"BadRequest {violation.field}, ErrorInfo {info.reason}"


@check
def five_hundred_violations_fit_the_metadata_that_a_client_takes(server):
    status = refused(lambda: server.embed([""] * 512))
    violations = field_violations(status)
    assert violations[0].field == "inputs[0]" and violations[-1].description.startswith("502 more"), violations
    return f"{len(violations)} violations"


@check
def all_mistakes_are_named_at_once(server):
    status = refused(lambda: server.embed(["", "fine", ""], dimensions=0))
    fields = [violation.field for violation in field_violations(status)]
    assert fields == ["inputs[0]", "inputs[2]", "options.dimensions"], fields


@check
def a_text_that_is_too_long_is_named_with_its_tokens_and_the_limit(server):
    status = refused(lambda: server.embed(["fine", "word " * 998]))
    [violation] = field_violations(status)
    assert violation.field == "inputs[1]"
    # 998 words, [CLS] and [SEP].
    limit = server_info(server).model.max_tokens
    assert "1000" in violation.description and str(limit) in violation.description, violation


# Tokenize


@check
def token_offsets_slice_the_utf8_bytes_of_the_text(server):
    text = "Naïve foxes, 你好!"
    response = server.embedding.Tokenize(pb.TokenizeRequest(inputs=[text]), timeout=TIMEOUT)
    [result] = response.results
    assert not result.exceeds_limit and response.max_tokens > 0
    first, *tokens, last = result.tokens
    assert first.special and last.special and first.start == first.end == last.start == last.end == 0
    slices = [text.encode()[token.start : token.end].decode() for token in tokens]
    assert "".join(slices) == text.replace(" ", ""), slices
    assert "你" in slices or "你好" in slices


@check
def tokenize_counts_as_embed_does(server):
    text = "How many tokens are these?"
    [tokenized] = server.embedding.Tokenize(pb.TokenizeRequest(inputs=[text]), timeout=TIMEOUT).results
    [embedding] = server.embed([text]).embeddings
    assert len(tokenized.tokens) == embedding.token_count


# The server


def server_info(server):
    return server.info.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=TIMEOUT)


@check
def server_info_describes_the_model_and_the_limits(server):
    info = server_info(server)
    assert info.warm_up.state == server_pb2.WarmUp.STATE_READY
    assert info.model.dimensions == MODEL_DIMENSIONS and len(info.model.sha256) == 64
    assert info.limits.inputs > 0 and info.limits.stream_inputs > 0 and info.version


@check
def every_service_is_serving(server):
    services = ["EmbeddingService", "EvaluationService", "ServerService"]
    for service in ["", *(f"assay.v1.{name}" for name in services), "liveness"]:
        request = health_pb2.HealthCheckRequest(service=service)
        response = server.health.Check(request, timeout=TIMEOUT)
        assert response.status == health_pb2.HealthCheckResponse.SERVING, service


@check
def the_health_of_an_unknown_service_is_not_found(server):
    request = health_pb2.HealthCheckRequest(service="nobody")
    try:
        server.health.Check(request, timeout=TIMEOUT)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
    else:
        raise AssertionError("the unknown service has a health")


@check
def a_health_watch_begins_with_the_present_state(server):
    states = {"": health_pb2.HealthCheckResponse.SERVING, "nobody": health_pb2.HealthCheckResponse.SERVICE_UNKNOWN}
    for service, expected in states.items():
        watch = server.health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        assert next(watch).status == expected, service
        watch.cancel()


@check
def the_request_id_is_echoed_or_made(server):
    request = pb.EmbedRequest(inputs=["A red fox."])
    _, call = server.embedding.Embed.with_call(request, timeout=TIMEOUT, metadata=[("x-request-id", "smoke-1")])
    assert dict(call.initial_metadata())["x-request-id"] == "smoke-1"
    for metadata in [[], [("x-request-id", "")]]:
        _, call = server.embedding.Embed.with_call(request, timeout=TIMEOUT, metadata=metadata)
        assert dict(call.initial_metadata())["x-request-id"]


@check
def compressed_requests_are_taken(server):
    request = pb.EmbedRequest(inputs=["A red fox. " * 20])
    response = server.embedding.Embed(request, timeout=TIMEOUT, compression=grpc.Compression.Gzip)
    assert len(response.embeddings) == 1


def a_unix_socket_serves_the_same_vectors(server, address):
    # Without it the authority is the path, which is none by the rules of HTTP.
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(address, options=options) as channel:
        vectors = Server(channel).vectors(["A red fox."])
    assert np.abs(vectors - server.vectors(["A red fox."])).max() < 1e-5
    return "with the authority localhost"


def run(name, function):
    """What a check returns is what it saw."""
    try:
        seen = function()
    except Exception:  # Every check reports, whatever becomes of it.
        print(f"FAILED  {name}")
        traceback.print_exc()
        return False
    print(f"ok      {name}" + (f": {seen}" if seen else ""))
    return True


def main(address, unix_address=None):
    print("library grpcio", grpc.__version__)
    with grpc.insecure_channel(address) as channel:
        server = Server(channel)
        results = [run(function.__name__, lambda: function(server)) for function in CHECKS]
        if unix_address:
            function = a_unix_socket_serves_the_same_vectors
            results.append(run(function.__name__, lambda: function(server, unix_address)))
    print(f"{sum(results)} of {len(results)} passed")
    return all(results)


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
