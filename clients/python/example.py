import sys

import grpc
from assay.v1 import embedding_pb2, embedding_pb2_grpc

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
with grpc.insecure_channel(address) as channel:
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    request = embedding_pb2.EmbedRequest(inputs=["A red fox.", "今天天气很好。"])
    for embedding in stub.Embed(request, timeout=10).embeddings:
        print(len(embedding.values), "numbers:", embedding.values[:3], "...")
