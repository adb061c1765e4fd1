import sys

import grpc
from assay.v1 import evaluation_pb2 as pb
from assay.v1 import evaluation_pb2_grpc

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
context = "It took three years to build. The Halden Bridge opened on 4 May 1962 and is 412 m long."
sample = pb.Sample(
    user_input="When did the Halden Bridge open?",
    response="The Halden Bridge opened in 1962. It is painted green.",
    retrieved_contexts=[pb.Context(text=context)],
    reference="The Halden Bridge opened on 4 May 1962.",
)
metrics = [pb.MetricSelection(name=name) for name in ("faithfulness", "context_recall", "token_f1")]
with grpc.insecure_channel(address) as channel:
    stub = evaluation_pb2_grpc.EvaluationServiceStub(channel)
    response = stub.Evaluate(pb.EvaluateRequest(sample=sample, metrics=metrics), timeout=60)
for result in response.results:
    # A score is there, or it is not: it never stands for a failure.
    score = f"{result.score:.2f}" if result.HasField("score") else pb.MetricStatus.Name(result.status)
    print(f"{result.metric:16} {score}  {result.reason}")
    for claim in result.claims:
        print(f"    {claim.verdict}: {claim.text}")
        for place in claim.evidence:
            print(f"        {context[place.start_code_point : place.end_code_point]!r}")
