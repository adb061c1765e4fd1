"""The same samples scored by RAGAS and by Assay, with one judge and one embedding model; see coming_from_ragas.md.

    PYTHONPATH=gen python coming_from_ragas.py ADDRESS --judge-url URL --judge-model NAME

ADDRESS is an Assay that asks this judge, too. The key, where the judge wants one, is taken from OPENAI_API_KEY.
"""

import argparse
import os
import time
import warnings

os.environ["RAGAS_DO_NOT_TRACK"] = "true"
warnings.filterwarnings("ignore", category=DeprecationWarning)

import grpc
import httpx
from assay.v1 import embedding_pb2, embedding_pb2_grpc
from assay.v1 import evaluation_pb2 as pb
from assay.v1 import evaluation_pb2_grpc
from langchain_core.embeddings import Embeddings
from langchain_openai import ChatOpenAI
from ragas import EvaluationDataset, RunConfig, evaluate
from ragas.embeddings import LangchainEmbeddingsWrapper
from ragas.llms import LangchainLLMWrapper
from ragas.metrics import answer_relevancy, context_precision, context_recall, faithfulness

TIMEOUT = 600  # seconds
METRICS = [faithfulness, answer_relevancy, context_precision, context_recall]

BRIDGE = [
    "The Halden Bridge opened on 4 May 1962. It is 412 m long.",
    "Lorne lies in the province of Ostermark.",
    "The Halden Bridge carries no trains.",
    "The Halden Bridge belongs to the city of Lorne.",
]
DAQIAO = [
    "武汉位于湖北省。",
    "汉江大桥于1962年5月4日通车，全长412米。",
    "长江是中国最长的河流。",
    "汉江大桥由市政府管理。",
]
# As RAGAS takes them; the fields of Assay's Sample have the same names.
ROWS = [
    {
        "user_input": "When did the Halden Bridge open?",
        "response": "The Halden Bridge opened on 4 May 1962.",
        "retrieved_contexts": BRIDGE,
        "reference": "The Halden Bridge opened on 4 May 1962.",
    },
    {
        "user_input": "How long is the Halden Bridge, and who owns it?",
        "response": "The Halden Bridge is 412 m long. The Halden Bridge belongs to a railway company.",
        "retrieved_contexts": BRIDGE[1:],
        "reference": "The Halden Bridge is 412 m long. The Halden Bridge belongs to the city of Lorne.",
    },
    {
        "user_input": "汉江大桥是哪一年通车的？",
        "response": "汉江大桥于1962年通车。大桥漆成绿色。大桥由铁路公司管理。",
        "retrieved_contexts": DAQIAO,
        "reference": "汉江大桥于1962年通车。",
    },
    {
        "user_input": "汉江大桥有多长？",
        "response": "汉江大桥全长412米。",
        "retrieved_contexts": DAQIAO,
        "reference": "汉江大桥全长412米。",
    },
    {
        "user_input": "Who designed the Halden Bridge?",
        "response": "I don't know.",
        "retrieved_contexts": BRIDGE,
        "reference": "The Halden Bridge was designed by Ines Falk.",
    },
]


class AssayEmbeddings(Embeddings):
    """Assay's model for RAGAS, so that both compare the same vectors."""

    def __init__(self, channel):
        self.stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)

    def embed_documents(self, texts):
        request = embedding_pb2.EmbedRequest(inputs=texts)
        return [list(embedding.values) for embedding in self.stub.Embed(request, timeout=TIMEOUT).embeddings]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def by_ragas(channel, judge_url, judge_model):
    """A list of scores for each metric, how the result prints itself, and the requests to the judge."""
    requests = 0

    async def count(_):
        nonlocal requests
        requests += 1

    judge = ChatOpenAI(
        model=judge_model,
        base_url=judge_url,
        api_key=os.environ.get("OPENAI_API_KEY") or "none",
        http_async_client=httpx.AsyncClient(event_hooks={"request": [count]}, timeout=TIMEOUT),
    )
    result = evaluate(
        EvaluationDataset.from_list(ROWS),
        metrics=METRICS,
        llm=LangchainLLMWrapper(judge),
        embeddings=LangchainEmbeddingsWrapper(AssayEmbeddings(channel)),
        run_config=RunConfig(timeout=TIMEOUT),
        show_progress=False,
    )
    return {metric.name: result[metric.name] for metric in METRICS}, str(result), requests


def by_assay(channel):
    """The results of each sample by metric, and the summary of them all."""
    stub = evaluation_pb2_grpc.EvaluationServiceStub(channel)
    selections = [pb.MetricSelection(name=metric.name) for metric in METRICS]
    options = pb.EvaluateOptions(use_cache=False)
    requests = (
        pb.EvaluateStreamRequest(
            id=str(n), request=pb.EvaluateRequest(sample=sample(row), metrics=selections, options=options)
        )
        for n, row in enumerate(ROWS)
    )
    events = list(stub.EvaluateStream(requests, timeout=TIMEOUT))
    results = {event.id: event.sample.results for event in events if event.WhichOneof("event") == "sample"}
    by_row = [{result.metric: result for result in results[str(n)]} for n in range(len(ROWS))]
    return by_row, events[-1].summary


def sample(row):
    contexts = [pb.Context(text=text) for text in row["retrieved_contexts"]]
    return pb.Sample(**{**row, "retrieved_contexts": contexts})


def told(result):
    if result.HasField("score"):
        return f"{result.score:.4f}"
    status = pb.MetricStatus.Name(result.status).removeprefix("METRIC_STATUS_")
    return f"{result.lower:.2f}..{result.upper:.2f} {status}" if result.HasField("lower") else status


def timed(function, *arguments):
    before = time.perf_counter()
    return *function(*arguments), time.perf_counter() - before


def report(ragas, assay):
    theirs, printed, their_requests, their_seconds = ragas
    ours, summary, our_seconds = assay
    for n, row in enumerate(ROWS):
        print(f"\n{row['user_input']} -> {row['response']}")
        for metric in METRICS:
            print(f"  {metric.name:18} RAGAS {theirs[metric.name][n]:7.4f}   Assay {told(ours[n][metric.name])}")
    print("\nAll samples together")
    print(f"  RAGAS {printed}")
    for metric in summary.metrics:
        about = f"{metric.scored} scored, {metric.not_applicable} not applicable, coverage {metric.coverage:.2f}"
        print(f"  Assay {metric.metric} {metric.mean:.4f}: {about}")
    print("\nWhat it took")
    print(f"  RAGAS {their_requests} requests, {their_seconds:.2f} s")
    print(f"  Assay {summary.cost.judge_calls} requests, {our_seconds:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", metavar="ADDRESS")
    parser.add_argument("--judge-url", required=True)
    parser.add_argument("--judge-model", required=True)
    arguments = parser.parse_args()
    with grpc.insecure_channel(arguments.address) as channel:
        ragas = timed(by_ragas, channel, arguments.judge_url, arguments.judge_model)
        assay = timed(by_assay, channel)
    report(ragas, assay)


if __name__ == "__main__":
    main()
