"""Evaluations that compute as much as the limits allow."""

from http2 import EVALUATE, evaluation

from .registry import attack, calls


@attack("evaluate-sentences", quick=True)
def _(server, seconds):
    """embedding_groundedness of 200 by 6,000 sentences, from two callers"""
    response = " ".join(f"Fox {n}." for n in range(200))
    contexts = [" ".join(f"Dog {n}." for n in range(part, part + 750)) for part in range(0, 6000, 750)]
    payload = evaluation(["embedding_groundedness"], response, contexts)
    calls(server, seconds, EVALUATE, payload, 2, grpc_timeout="8S")


@attack("evaluate-250000-sentences")
def _(server, seconds):
    """a sample of 1 MiB of "Ok. ", by all metrics that need no judge"""
    contexts = ["Ok. " * 32000] * 7
    payload = evaluation(["no_judge"], "Ok. " * 32000, contexts, "Ok. " * 100)
    calls(server, seconds, EVALUATE, payload, 2, grpc_timeout="8S")


@attack("evaluate-64-callers")
def _(server, seconds):
    """64 callers with large samples, by all metrics that need no judge"""
    contexts = [(f"context {n} " + "word and another word, " * 300) for n in range(64)]
    payload = evaluation(["no_judge"], "It is so. " * 3000, contexts, "It is not so. " * 3000)
    calls(server, seconds, EVALUATE, payload, 64, grpc_timeout="4S")
