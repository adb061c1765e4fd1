"""Every feature of EvaluationService, used and checked. Each function is an example of its own.

    PYTHONPATH=gen python smoke_evaluate.py ADDRESS JUDGED_ADDRESS

The first server has no judge; the second has the one of ../judge.py, and under the name "slow" one that takes its time.
"""

import sys
import time

import grpc
from assay.v1 import evaluation_pb2 as pb
from assay.v1 import evaluation_pb2_grpc
from google.rpc import code_pb2, error_details_pb2
from smoke import detail, field_violations, refused, run

TIMEOUT = 60  # seconds; every call has one

ENGLISH = pb.Sample(
    id="bridge-en",
    user_input="When did the Halden Bridge open?",
    response="The Halden Bridge opened in 1962. It is painted green.",
    retrieved_contexts=[
        pb.Context(id="doc-7", text="It took three years to build. The Halden Bridge opened on 4 May 1962."),
        pb.Context(id="doc-9", text="Lorne lies in the province of Ostermark."),
    ],
    reference="The Halden Bridge opened on 4 May 1962.",
)
CHINESE = pb.Sample(
    id="bridge-zh",
    user_input="汉江大桥是哪一年通车的？",
    response="汉江大桥于1962年通车。大桥漆成绿色。",
    retrieved_contexts=[
        pb.Context(id="doc-3", text="建设历时三年。汉江大桥于1962年5月4日通车，全长412米。"),
        pb.Context(id="doc-4", text="武汉位于湖北省。"),
    ],
    reference="汉江大桥于1962年通车。",
)
RAGAS_METRICS = [
    "faithfulness",
    "context_recall",
    "context_precision",
    "noise_sensitivity",
    "answer_correctness",
    "factual_correctness",
]

WITHOUT_JUDGE, WITH_JUDGE = [], []


def without_judge(function):
    WITHOUT_JUDGE.append(function)
    return function


def with_judge(function):
    WITH_JUDGE.append(function)
    return function


class Evaluation:
    """The stub of one channel."""

    def __init__(self, channel):
        self.stub = evaluation_pb2_grpc.EvaluationServiceStub(channel)

    def __call__(self, sample, *metrics, timeout=TIMEOUT, **options):
        """Metrics by name, or as MetricSelection where they have options."""
        request = pb.EvaluateRequest(
            sample=sample,
            metrics=[selection(metric) for metric in metrics],
            options=pb.EvaluateOptions(**options),
        )
        return self.stub.Evaluate(request, timeout=timeout)


def selection(metric):
    return pb.MetricSelection(name=metric) if isinstance(metric, str) else metric


def results(response):
    return {result.label: result for result in response.results}


def score(result):
    """None where there is none: 0 is a score, so the field itself must be asked."""
    return result.score if result.HasField("score") else None


def quotes(sample, claim):
    """The passages that support a claim. Python counts code points, as start_code_point and end_code_point do."""
    texts = [sample.retrieved_contexts[place.context_index].text for place in claim.evidence]
    return [
        text[place.start_code_point : place.end_code_point]
        for text, place in zip(texts, claim.evidence, strict=True)
        if place.located
    ]


# What there is


@without_judge
def list_metrics_tells_what_each_needs(evaluate):
    response = evaluate.stub.ListMetrics(pb.ListMetricsRequest(), timeout=TIMEOUT)
    metrics = {metric.name: metric for metric in response.metrics}
    assert set(RAGAS_METRICS) < metrics.keys() and not response.judges
    faithfulness, noise = metrics["faithfulness"], metrics["noise_sensitivity"]
    assert faithfulness.needs_judge and faithfulness.judge_calls == 2 and faithfulness.definition_version > 0
    assert list(faithfulness.required_fields) == ["user_input", "response", "retrieved_contexts"]
    assert (faithfulness.lowest, faithfulness.highest) == (0, 1)
    assert faithfulness.higher_is_better and not noise.higher_is_better
    # Where neither is better, the field is not there.
    assert not metrics["ranking"].HasField("higher_is_better")


@with_judge
def list_metrics_names_the_judges(evaluate):
    judges = evaluate.stub.ListMetrics(pb.ListMetricsRequest(), timeout=TIMEOUT).judges
    assert list(judges) == ["default", "slow"], judges


# Without a judge


@without_judge
def without_a_judge_a_judged_metric_says_so_and_the_others_have_scores(evaluate):
    response = evaluate(ENGLISH, "faithfulness", "token_f1", "semantic_similarity")
    by_label = results(response)
    faithfulness = by_label["faithfulness"]
    assert faithfulness.status == pb.METRIC_STATUS_JUDGE_NOT_CONFIGURED and score(faithfulness) is None
    assert faithfulness.error.code == code_pb2.FAILED_PRECONDITION and "--judge-url" in faithfulness.reason
    assert detail(faithfulness.error, error_details_pb2.ErrorInfo).reason == "JUDGE_NOT_CONFIGURED"
    assert 0 < score(by_label["token_f1"]) < 1 and 0 < score(by_label["semantic_similarity"]) < 1
    assert response.embedding_model and not response.judge and response.language == "en"


@without_judge
def no_metrics_named_means_all(evaluate):
    response = evaluate(ENGLISH)
    statuses = {pb.MetricStatus.Name(result.status) for result in response.results}
    expected = {"METRIC_STATUS_OK", "METRIC_STATUS_JUDGE_NOT_CONFIGURED", "METRIC_STATUS_NOT_APPLICABLE"}
    assert len(response.results) > 20 and statuses == expected, statuses


@without_judge
def equal_chinese_texts_score_1_in_every_metric_that_compares_texts(evaluate):
    sample = pb.Sample(response=CHINESE.reference, reference=CHINESE.reference)
    response = evaluate(sample, "bleu", "rouge", "chrf", "string_similarity", "exact_match", "token_f1")
    assert response.language == "zh"
    assert {label: round(score(result), 9) for label, result in results(response).items()} == dict.fromkeys(
        results(response), 1
    )


@without_judge
def a_label_tells_two_results_of_a_metric_apart(evaluate):
    rouge = [
        pb.MetricSelection(name="rouge", label="rouge-1", rouge=pb.RougeOptions(variant=pb.RougeOptions.VARIANT_1)),
        pb.MetricSelection(name="rouge", label="rouge-2", rouge=pb.RougeOptions(variant=pb.RougeOptions.VARIANT_2)),
    ]
    by_label = results(evaluate(ENGLISH, *rouge))
    assert score(by_label["rouge-1"]) > score(by_label["rouge-2"]) > 0


# With a judge


def check_evidence(evaluate, sample, supporting):
    [result] = evaluate(sample, "faithfulness").results
    assert result.status == pb.METRIC_STATUS_OK and score(result) == 0.5, result
    assert result.judged == result.submitted == 2
    supported, unsupported = result.claims
    assert supported.verdict and quotes(sample, supported) == [supporting] and not supported.evidence_unverified
    assert supported.evidence[0].context_id == sample.retrieved_contexts[0].id
    # No verdict is neither true nor false.
    assert unsupported.HasField("verdict") and not unsupported.verdict and not unsupported.evidence


@with_judge
def a_claim_comes_with_its_evidence(evaluate):
    check_evidence(evaluate, ENGLISH, "The Halden Bridge opened on 4 May 1962.")
    return "0.5: 1 claim of 2, quoted"


@with_judge
def evidence_in_chinese_is_found_by_code_points(evaluate):
    check_evidence(evaluate, CHINESE, "汉江大桥于1962年5月4日通车，全长412米。")


@with_judge
def metrics_share_what_the_judge_is_asked(evaluate):
    response = evaluate(ENGLISH, *RAGAS_METRICS, use_cache=False)
    assert all(result.status == pb.METRIC_STATUS_OK for result in response.results)
    alone = sum(result.cost.judge_calls for result in response.results)
    assert response.cost.judge_calls <= 7 < alone, (response.cost.judge_calls, alone)
    assert response.cost.prompt_tokens > 0 and response.cost.completion_tokens > 0 and response.cost.usd > 0
    assert (response.judge, response.judge_model) == ("default", "stand-in")


@with_judge
def an_answer_that_was_given_before_costs_nothing(evaluate):
    evaluate(ENGLISH, "context_precision")
    cost = evaluate(ENGLISH, "context_precision").cost
    assert cost.judge_calls == 0 and cost.cache_hits == 1
    assert evaluate(ENGLISH, "context_precision", use_cache=False).cost.judge_calls == 1


@with_judge
def a_refusal_makes_no_claims_so_faithfulness_does_not_apply(evaluate):
    sample = pb.Sample(user_input="Who built it?", response="I don't know.", retrieved_contexts=[pb.Context(text="x")])
    [faithfulness, relevancy] = evaluate(sample, "faithfulness", "answer_relevancy").results
    assert faithfulness.status == pb.METRIC_STATUS_NOT_APPLICABLE and score(faithfulness) is None
    assert faithfulness.reason and not faithfulness.HasField("error")
    assert relevancy.status == pb.METRIC_STATUS_OK and score(relevancy) == 0


@with_judge
def what_the_judge_declines_is_a_status(evaluate):
    polite = pb.CriterionOptions(definition="Is the response polite?")
    [result] = evaluate(ENGLISH, pb.MetricSelection(name="aspect_critic", criterion=polite)).results
    assert result.status == pb.METRIC_STATUS_JUDGE_REFUSED and score(result) is None and result.error.code


@with_judge
def a_budget_bounds_the_calls(evaluate):
    budget = pb.Budget(judge_calls=1)
    by_label = results(evaluate(ENGLISH, "faithfulness", "token_f1", budget=budget, use_cache=False))
    assert by_label["faithfulness"].status == pb.METRIC_STATUS_BUDGET_EXHAUSTED
    assert score(by_label["token_f1"]) is not None


@with_judge
def a_partial_result_has_bounds_and_no_score(evaluate):
    # Two judges rate it; the budget is enough for one.
    budget = pb.Budget(judge_calls=1)
    [result] = evaluate(ENGLISH, "response_groundedness", budget=budget, use_cache=False).results
    assert result.status == pb.METRIC_STATUS_PARTIAL and score(result) is None, result
    assert (result.judged, result.submitted) == (1, 2) and 0 <= result.lower < result.upper <= 1


@with_judge
def what_is_known_comes_before_the_deadline(evaluate):
    before = time.monotonic()
    # The judge takes far longer than this call may.
    response = evaluate(ENGLISH, "faithfulness", "token_f1", "semantic_similarity", judge="slow", timeout=3)
    assert time.monotonic() - before < 3
    by_label = results(response)
    assert by_label["faithfulness"].status == pb.METRIC_STATUS_DEADLINE and score(by_label["faithfulness"]) is None
    assert score(by_label["token_f1"]) is not None and score(by_label["semantic_similarity"]) is not None


# EvaluateStream


@with_judge
def a_stream_tells_metrics_samples_and_their_summary(evaluate):
    empty = pb.Sample(response="Nothing to compare it with.")
    metrics = [pb.MetricSelection(name=name) for name in ("faithfulness", "token_f1")]
    requests = [
        pb.EvaluateStreamRequest(id=id, request=pb.EvaluateRequest(sample=sample, metrics=metrics))
        for id, sample in [("en", ENGLISH), ("zh", CHINESE), ("bad", empty)]
    ]
    seen = {"en": [], "zh": [], "bad": []}
    *events, last = evaluate.stub.EvaluateStream(iter(requests), timeout=TIMEOUT)
    for event in events:
        kind = event.WhichOneof("event")
        seen[event.id].append(kind if kind != "result" else event.result.metric)
    for id in ("en", "zh"):
        assert sorted(seen[id][:-1]) == ["faithfulness", "token_f1"] and seen[id][-1] == "sample", seen
    # A sample that is refused fails alone.
    assert seen["bad"] == ["error"]
    summary = last.summary
    assert (summary.samples, summary.refused) == (2, 1) and last.id == ""
    of = {metric.metric: metric for metric in summary.metrics}
    assert of["faithfulness"].mean == 0.5 and of["faithfulness"].coverage == 1 and of["faithfulness"].scored == 2
    assert of["token_f1"].mean_lower <= of["token_f1"].mean <= of["token_f1"].mean_upper
    return f"{summary.samples} samples, {summary.refused} refused"


# Errors


@without_judge
def all_mistakes_of_a_request_are_named_at_once(evaluate):
    rouge = pb.MetricSelection(name="bleu", rouge=pb.RougeOptions())
    sample = pb.Sample(response="Paris.")
    status = refused(lambda: evaluate(sample, "faithfulness", "beauty", rouge, judge="nobody"))
    described = {violation.field: violation.description for violation in field_violations(status)}
    assert described.keys() == {
        "metrics[1].name",
        "metrics[2].rouge",
        "sample.user_input",
        "sample.retrieved_contexts",
        "sample.reference",
        "options.judge",
    }, described
    assert "ListMetrics" in described["metrics[1].name"]
    assert detail(status, error_details_pb2.ErrorInfo).reason == "INVALID_REQUEST"


def main(address, judged_address):
    passed = []
    for target, functions in [(address, WITHOUT_JUDGE), (judged_address, WITH_JUDGE)]:
        with grpc.insecure_channel(target) as channel:
            evaluate = Evaluation(channel)
            passed += [run(function.__name__, lambda: function(evaluate)) for function in functions]
    print(f"{sum(passed)} of {len(passed)} passed")
    return all(passed)


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
