"""Error responses."""

from http2 import EMBED, END_STREAM, HEADERS, INVALID_ARGUMENT, Connection, inputs, message

from .registry import attack


@attack("violations", quick=True)
def _(server, seconds):
    """512 empty inputs: INVALID_ARGUMENT, in less than the 8 KiB of metadata that clients take"""
    connection = Connection(server.port)
    stream = connection.begin(EMBED)
    connection.body(stream, message(inputs(*[""] * 512)))
    for _ in range(100):
        kind, flags, on, payload = connection.receive()
        if on == stream and kind == HEADERS and flags & END_STREAM:
            if connection.status != INVALID_ARGUMENT:
                return f"grpc-status {connection.status}"
            # Huffman's code for the details, which are base64, makes 6 bits of 8; names and overhead are below 1 KiB.
            return f"{len(payload)} bytes of headers" if len(payload) * 8 / 6 + 1024 > 8192 else None
    return "there is no answer"
