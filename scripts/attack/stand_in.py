"""A local HTTP server that stands in for a judge or the model hub."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """One connection. Records each request and sends the response that the stand-in defines."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: N802
        self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.stand_in.requests.append(f"{self.requestline}\n{self.headers}\n".encode() + self.body)
        # A client that hangs up is no failure.
        with contextlib.suppress(OSError):
            self.server.stand_in.answer(self)

    do_HEAD = do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Sends a complete response. Underscores in names stand for hyphens."""
        self.start(status, content_length=str(len(body)), **headers)
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def start(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def pieces(self, status: int, parts: Iterable[bytes], pause: float = 0, **headers: str) -> None:
        """Sends a response in pieces, without a length."""
        self.start(status, transfer_encoding="chunked", **headers)
        for part in filter(None, parts):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.flush()
            time.sleep(pause)

    def endless(self, start: bytes, more: bytes, pause: float = 0) -> None:
        """Sends an endless response with status 200 and without a length."""
        self.pieces(200, itertools.chain([start], itertools.repeat(more)), pause)


class StandIn(ThreadingHTTPServer):
    """Listens until closed. `requests` has the request line, headers and body of each request."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, answer: Callable[[Handler], None]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.stand_in, self.answer = self, answer
        self.requests: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Suppresses the stack trace of a connection that the client closed."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()
