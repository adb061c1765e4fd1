"""An example of an app with Assay beside it: GET /embed?text=… answers with the vector of a text.

    PYTHONPATH=gen python app.py [--port PORT] [--assay ADDRESS] [--patience SECONDS]

It is ready as soon as it listens. A request that comes before the model is warm waits for it.
"""

import argparse
import json
import os
import signal
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import grpc
from assay.v1 import embedding_pb2, embedding_pb2_grpc

# gRPC's own wait-for-ready waits for the connection, the metadata for the model.
WAIT_FOR_MODEL = [("assay-wait-for-ready", "true")]
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A connection that is kept open without a request holds the end up no longer than this.
    timeout = 5
    stub = None
    patience = 0.0

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path in ("/livez", "/readyz"):
            self.answer(HTTPStatus.OK, {"status": "ok"})
        elif url.path == "/embed":
            self.embed(parse_qs(url.query).get("text", [""])[0])
        else:
            self.answer(HTTPStatus.NOT_FOUND, {"error": "not found; available paths: /embed, /livez, /readyz"})

    def embed(self, text):
        request = embedding_pb2.EmbedRequest(inputs=[text])
        try:
            response = self.stub.Embed(
                request, timeout=self.patience, metadata=WAIT_FOR_MODEL, wait_for_ready=True
            )
        except grpc.RpcError as error:
            status = HTTP_STATUS.get(error.code(), HTTPStatus.SERVICE_UNAVAILABLE)
            self.answer(status, {"error": error.details()})
        else:
            vector = list(response.embeddings[0].values)
            self.answer(HTTPStatus.OK, {"model": response.model, "vector": vector})

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    # Requests under way are finished at the end.
    daemon_threads = False
    block_on_close = True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="0 picks one")
    parser.add_argument("--assay", default=os.environ.get("EXAMPLE_ASSAY", "127.0.0.1:50051"), help="its address")
    parser.add_argument("--patience", type=float, default=15, help="seconds that a request may take")
    arguments = parser.parse_args()
    with grpc.insecure_channel(arguments.assay) as channel:
        Handler.stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        Handler.patience = arguments.patience
        with Server(("", arguments.port), Handler) as server:
            stop = threading.Thread(target=server.shutdown)
            signal.signal(signal.SIGTERM, lambda *_: stop.start())
            print(f"listening on port {server.server_port}", flush=True)
            server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
