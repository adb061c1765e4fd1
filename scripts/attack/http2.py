"""Low-level HTTP/2 and gRPC client that can violate the protocol. It needs no library."""

import socket
import ssl
import struct
import time
from collections.abc import Iterator

from hpack import grpc_status

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
INVALID_ARGUMENT = 3

EMBED = "/assay.v1.EmbeddingService/Embed"
EMBED_STREAM = "/assay.v1.EmbeddingService/EmbedStream"
TOKENIZE = "/assay.v1.EmbeddingService/Tokenize"
EVALUATE = "/assay.v1.EvaluationService/Evaluate"
HEALTH = "/grpc.health.v1.Health/Check"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(*windows: int) -> bytes:
    """A SETTINGS frame without a header table; of the initial windows of streams the last one holds."""
    values = [(HEADER_TABLE_SIZE, 0), *((INITIAL_WINDOW_SIZE, window) for window in windows)]
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *value) for value in values))


def headers(stream: int, path: str, **further: str) -> bytes:
    """The HEADERS frame of a call, as literals that no table keeps. Underscores in names stand for hyphens."""
    fixed = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    fixed |= {"content-type": "application/grpc", "te": "trailers"}
    block = b""
    for name, value in (fixed | {name.replace("_", "-"): value for name, value in further.items()}).items():
        for text in (name, value):
            assert len(text) < 127
        block += bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return frame(HEADERS, END_HEADERS, stream, block)


def message(payload: bytes, compressed: bool = False) -> bytes:
    return bytes([compressed]) + struct.pack(">I", len(payload)) + payload


def varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def field(number: int, content: bytes | str) -> bytes:
    """A field of protobuf that holds a text or a message."""
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: number and value, which are bytes unless it is a varint."""
    def read_varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            number |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 128:
                return number

    at = 0
    while at < len(data):
        key = read_varint()
        if key & 7 == 0:
            yield key >> 3, read_varint()
            continue
        length = {1: 8, 5: 4}.get(key & 7)
        length = read_varint() if length is None else length
        yield key >> 3, data[at : at + length]
        at += length


def inputs(*texts: str) -> bytes:
    """An EmbedRequest or a TokenizeRequest."""
    return b"".join(field(1, text) for text in texts)


def evaluation(metrics: list[str], response: str, contexts: list[str], reference: str = "") -> bytes:
    """An EvaluateRequest."""
    sample = field(1, "what is it?") + field(2, response) + b"".join(field(3, field(1, text)) for text in contexts)
    sample += field(4, reference) if reference else b""
    return field(1, sample) + b"".join(field(2, field(1, name)) for name in metrics)


class Closed(Exception):
    """The server closed the connection."""


class Late(Closed):
    """The operation timed out."""


class Connection:
    """One connection. Reads and writes block for at most `timeout` seconds, and none beyond `end`, a time of the
    monotonic clock."""

    def __init__(
        self, port: int, window: int | None = None, tls: bool = False, timeout: float = 10,
        end: float = float("inf"), source: str = "127.0.0.1",
    ):
        self.timeout, self.end = timeout, end
        self.socket = socket.create_connection(("127.0.0.1", port), self._time_left(), (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket)
        self.next_stream, self.left = 1, b""
        self.sendable, self.stream_window = 65535, 65535
        self.peer_window = 65535
        # The grpc-status that came last.
        self.status: int | None = None
        self.send(PREFACE + (settings() if window is None else settings(window)))

    def _time_left(self) -> float:
        left = min(self.timeout, self.end - time.monotonic())
        if left <= 0:
            raise Late("the end of the attack")
        return left

    def send(self, data: bytes) -> None:
        try:
            self.socket.settimeout(self._time_left())
            self.socket.sendall(data)
        except TimeoutError as error:
            raise Late("the server does not read") from error
        except OSError as error:
            raise Closed(str(error)) from error

    def receive(self) -> tuple[int, int, int, bytes]:
        """The next frame: kind, flags, stream, payload. Answers SETTINGS and PING, and keeps the windows."""
        header = self._read(9)
        length = int.from_bytes(header[:3], "big")
        kind, flags, stream = header[3], header[4], int.from_bytes(header[5:], "big") & 0x7FFFFFFF
        payload = self._read(length)
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, length, 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                if name == INITIAL_WINDOW_SIZE:
                    self.peer_window = value
            self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if stream == 0:
                self.sendable += increment
            else:
                self.stream_window += increment
        elif kind == HEADERS:
            status = grpc_status(payload)
            self.status = self.status if status is None else status
        elif kind == DATA:
            if length:
                update = struct.pack(">I", length)
                self.send(frame(WINDOW_UPDATE, 0, 0, update) + frame(WINDOW_UPDATE, 0, stream, update))
        return kind, flags, stream, payload

    def arrived(self) -> None:
        """Processes received frames without blocking. Raises `Closed` on GOAWAY."""
        self.socket.settimeout(0)
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            raise Closed(str(error)) from error
        if not data:
            raise Closed("end of the connection")
        self.left += data
        while len(self.left) >= 9 + int.from_bytes(self.left[:3], "big"):
            if self.receive()[0] == GOAWAY:
                raise Closed("GOAWAY")

    def begin(self, path: str, **further: str) -> int:
        """Sends the headers of a call. Returns the stream id."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        self.send(headers(stream, path, **further))
        return stream

    def body(self, stream: int, data: bytes, end: bool = True) -> None:
        """Sends a body within the flow-control windows."""
        self.stream_window = self.peer_window
        while data:
            room = min(self.sendable, self.stream_window, 1 << 14, len(data))
            if room <= 0:
                kind, _, on, _ = self.receive()
                if kind == GOAWAY or (kind in (RST_STREAM, HEADERS) and on == stream):
                    raise Closed("the call has ended")
                continue
            part, data = data[:room], data[room:]
            self.sendable -= room
            self.stream_window -= room
            self.send(frame(DATA, END_STREAM if end and not data else 0, stream, part))

    def call(self, path: str, payload: bytes, compressed: str = "", **further: str) -> bytes | None:
        """Makes a unary call. Returns the response body, or None for a response without a message."""
        if compressed:
            further["grpc_encoding"] = compressed
        stream = self.begin(path, **further)
        try:
            self.body(stream, message(payload, bool(compressed)))
        except Closed:
            return None
        return self.answer(stream)

    def answer(self, stream: int) -> bytes | None:
        answer = b""
        while True:
            kind, flags, on, payload = self.receive()
            if kind == GOAWAY:
                raise Closed("GOAWAY")
            if on != stream:
                continue
            if kind == DATA:
                answer += payload
            if kind == RST_STREAM:
                return None
            if flags & END_STREAM and kind in (DATA, HEADERS):
                return answer or None

    def drain(self) -> None:
        """Reads and discards data until the server closes the connection or the timeout passes."""
        try:
            while True:
                self.receive()
        except Closed:
            return

    def close(self) -> None:
        self.socket.close()

    def _read(self, count: int) -> bytes:
        while len(self.left) < count:
            try:
                self.socket.settimeout(self._time_left())
                data = self.socket.recv(1 << 16)
            except TimeoutError as error:
                raise Late("no answer") from error
            except OSError as error:
                raise Closed(str(error)) from error
            if not data:
                raise Closed("end of the connection")
            self.left += data
        taken, self.left = self.left[:count], self.left[count:]
        return taken
