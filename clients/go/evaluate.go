package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assay "assay.dev/clients/go/gen/assay/v1"
)

// sample is in Chinese; the first sentence of the response is supported by the first context, the second by none.
func sample() *assay.Sample {
	return &assay.Sample{
		UserInput: "汉江大桥是哪一年通车的？",
		Response:  "汉江大桥于1962年通车。大桥漆成绿色。",
		RetrievedContexts: []*assay.Context{
			{Id: "doc-3", Text: "建设历时三年。汉江大桥于1962年5月4日通车，全长412米。"},
			{Id: "doc-4", Text: "武汉位于湖北省。"},
		},
		Reference: "汉江大桥于1962年通车。",
	}
}

func named(metrics ...string) []*assay.MetricSelection {
	selections := make([]*assay.MetricSelection, len(metrics))
	for i, metric := range metrics {
		selections[i] = &assay.MetricSelection{Name: metric}
	}
	return selections
}

// evaluate scores the sample and gives the results by metric.
func (s server) evaluate(ctx context.Context, options *assay.EvaluateOptions, metrics ...string) (map[string]*assay.MetricResult, *assay.EvaluateResponse, error) {
	request := &assay.EvaluateRequest{Sample: sample(), Metrics: named(metrics...), Options: options}
	response, err := s.evaluation.Evaluate(ctx, request)
	if err != nil {
		return nil, nil, err
	}
	results := map[string]*assay.MetricResult{}
	for _, result := range response.Results {
		results[result.Metric] = result
	}
	return results, response, nil
}

func metricsAreListed(ctx context.Context, s server) error {
	response, err := s.evaluation.ListMetrics(ctx, &assay.ListMetricsRequest{})
	if err != nil {
		return err
	}
	for _, metric := range response.Metrics {
		if metric.Name == "faithfulness" {
			if !metric.NeedsJudge || metric.Highest != 1 || !metric.GetHigherIsBetter() || len(metric.RequiredFields) != 3 {
				return fmt.Errorf("the metric is %v", metric)
			}
			return nil
		}
	}
	return fmt.Errorf("faithfulness is not among %d metrics", len(response.Metrics))
}

func withoutAJudgeAMetricSaysSo(ctx context.Context, s server) error {
	results, _, err := s.evaluate(ctx, nil, "faithfulness", "token_f1")
	if err != nil {
		return err
	}
	// Score is a pointer: nil where there is none, for 0 is a score.
	judged, lexical := results["faithfulness"], results["token_f1"]
	if judged.Status != assay.MetricStatus_METRIC_STATUS_JUDGE_NOT_CONFIGURED || judged.Score != nil {
		return fmt.Errorf("faithfulness is %v", judged)
	}
	if reason := errorInfo(status.FromProto(judged.Error)).GetReason(); reason != "JUDGE_NOT_CONFIGURED" {
		return fmt.Errorf("the reason is %q", reason)
	}
	if lexical.Status != assay.MetricStatus_METRIC_STATUS_OK || lexical.Score == nil {
		return fmt.Errorf("token_f1 is %v", lexical)
	}
	return nil
}

func mistakesOfASampleAreNamed(ctx context.Context, s server) error {
	_, err := s.evaluation.Evaluate(ctx, &assay.EvaluateRequest{
		Sample:  &assay.Sample{Response: "Paris."},
		Metrics: named("context_recall", "beauty"),
	})
	failure := status.Convert(err)
	fields := badFields(failure)
	for _, field := range []string{"sample.retrieved_contexts", "sample.reference", "metrics[1].name"} {
		if failure.Code() != codes.InvalidArgument || fields[field] == "" {
			return fmt.Errorf("%v has no %s but %v", failure, field, fields)
		}
	}
	return nil
}

func aClaimComesWithItsEvidence(ctx context.Context, s server) (string, error) {
	results, response, err := s.evaluate(ctx, nil, "faithfulness")
	if err != nil {
		return "", err
	}
	result := results["faithfulness"]
	if result.Score == nil || *result.Score != 0.5 || result.Judged != 2 || len(result.Claims) != 2 {
		return "", fmt.Errorf("the result is %v", result)
	}
	supported, unsupported := result.Claims[0], result.Claims[1]
	// Verdict is a pointer, too: nil where the judge gave none.
	if !supported.GetVerdict() || unsupported.Verdict == nil || *unsupported.Verdict || len(supported.Evidence) != 1 {
		return "", fmt.Errorf("the claims are %v", result.Claims)
	}
	place := supported.Evidence[0]
	// Go strings are UTF-8 bytes, as start_byte and end_byte are.
	quote := sample().RetrievedContexts[place.ContextIndex].Text[place.StartByte:place.EndByte]
	if !place.Located || place.ContextId != "doc-3" || quote != "汉江大桥于1962年5月4日通车，全长412米。" {
		return "", fmt.Errorf("the evidence is %v, %q", place, quote)
	}
	if response.Language != "zh" || response.JudgeModel != "stand-in" {
		return "", fmt.Errorf("the language is %q, the judge's model %q", response.Language, response.JudgeModel)
	}
	return "0.5: 1 claim of 2, quoted", nil
}

func metricsShareWhatTheJudgeIsAsked(ctx context.Context, s server) error {
	fresh := false
	_, response, err := s.evaluate(ctx, &assay.EvaluateOptions{UseCache: &fresh}, "faithfulness", "context_recall",
		"context_precision", "noise_sensitivity", "answer_correctness", "factual_correctness")
	if err != nil {
		return err
	}
	alone := uint32(0)
	for _, result := range response.Results {
		if result.Score == nil {
			return fmt.Errorf("%s is %v", result.Metric, result.Status)
		}
		alone += result.Cost.JudgeCalls
	}
	if cost := response.Cost; cost.JudgeCalls > 7 || cost.JudgeCalls >= alone || cost.PromptTokens == 0 {
		return fmt.Errorf("the cost is %v, the sum over the metrics %d calls", cost, alone)
	}
	return nil
}

func aPartialResultHasBounds(ctx context.Context, s server) error {
	// Two judges rate it; the budget is enough for one.
	calls, fresh := uint32(1), false
	options := &assay.EvaluateOptions{Budget: &assay.Budget{JudgeCalls: &calls}, UseCache: &fresh}
	results, _, err := s.evaluate(ctx, options, "response_groundedness")
	if err != nil {
		return err
	}
	result := results["response_groundedness"]
	if result.Status != assay.MetricStatus_METRIC_STATUS_PARTIAL || result.Score != nil ||
		result.Lower == nil || result.Upper == nil || *result.Lower >= *result.Upper {
		return fmt.Errorf("the result is %v", result)
	}
	return nil
}

func whatIsKnownComesBeforeTheDeadline(ctx context.Context, s server) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	// This judge takes far longer.
	results, _, err := s.evaluate(ctx, &assay.EvaluateOptions{Judge: "slow"}, "faithfulness", "token_f1")
	if err != nil {
		return err
	}
	judged, lexical := results["faithfulness"], results["token_f1"]
	if judged.Status != assay.MetricStatus_METRIC_STATUS_DEADLINE || judged.Score != nil || lexical.Score == nil {
		return fmt.Errorf("faithfulness is %v, token_f1 %v", judged, lexical)
	}
	return nil
}

// evaluateStream sends all samples while it reads the events.
func (s server) evaluateStream(ctx context.Context, requests []*assay.EvaluateStreamRequest, event func(*assay.EvaluateStreamResponse)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.evaluation.EvaluateStream(ctx)
	if err != nil {
		return err
	}
	go func() {
		for _, request := range requests {
			// Recv tells why the stream ended.
			if stream.Send(request) != nil {
				return
			}
		}
		stream.CloseSend()
	}()
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		event(response)
	}
}

func aStreamTellsMetricsSamplesAndTheirSummary(ctx context.Context, s server) (string, error) {
	var requests []*assay.EvaluateStreamRequest
	for n := range 20 {
		request := &assay.EvaluateRequest{Sample: sample(), Metrics: named("faithfulness", "token_f1")}
		if n == 7 {
			request.Sample.RetrievedContexts = nil
		}
		requests = append(requests, &assay.EvaluateStreamRequest{Id: number(n), Request: request})
	}
	var results, samples int
	var refused []string
	var summary *assay.StreamSummary
	err := s.evaluateStream(ctx, requests, func(event *assay.EvaluateStreamResponse) {
		switch event.Event.(type) {
		case *assay.EvaluateStreamResponse_Result:
			results++
		case *assay.EvaluateStreamResponse_Sample:
			samples++
		case *assay.EvaluateStreamResponse_Error:
			refused = append(refused, event.Id)
		case *assay.EvaluateStreamResponse_Summary:
			summary = event.GetSummary()
		}
	})
	if err != nil {
		return "", err
	}
	if results != 38 || samples != 19 || len(refused) != 1 || refused[0] != "7" {
		return "", fmt.Errorf("%d results, %d samples, refused %v", results, samples, refused)
	}
	if summary.GetSamples() != 19 || summary.GetRefused() != 1 || len(summary.Metrics) != 2 {
		return "", fmt.Errorf("the summary is %v", summary)
	}
	for _, metric := range summary.Metrics {
		if metric.Scored != 19 || metric.Mean == nil || metric.GetCoverage() != 1 {
			return "", fmt.Errorf("the summary of a metric is %v", metric)
		}
	}
	return fmt.Sprintf("%d samples, %d refused", samples, len(refused)), nil
}
