package main

import (
	"context"
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/proto"

	assay "assay.dev/clients/go/gen/assay/v1"
)

func (s server) vectors(ctx context.Context, options *assay.EmbedOptions, inputs ...string) ([][]float32, error) {
	response, err := s.embedding.Embed(ctx, &assay.EmbedRequest{Inputs: inputs, Options: options})
	if err != nil {
		return nil, err
	}
	vectors := make([][]float32, len(response.Embeddings))
	for i, embedding := range response.Embeddings {
		vectors[i] = embedding.Values
	}
	if len(vectors) != len(inputs) {
		return nil, fmt.Errorf("%d vectors for %d inputs", len(vectors), len(inputs))
	}
	return vectors, nil
}

func dot(a, b []float32) float64 {
	sum := 0.0
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

// same tells whether all numbers agree to within tolerance.
func same(a, b []float32, tolerance float64) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d numbers and %d", len(a), len(b))
	}
	for i := range a {
		if math.Abs(float64(a[i])-float64(b[i])) > tolerance {
			return fmt.Errorf("number %d is %v in one and %v in the other", i, a[i], b[i])
		}
	}
	return nil
}

func embedGivesVectorsOfUnitLength(ctx context.Context, s server) (string, error) {
	response, err := s.embedding.Embed(ctx, &assay.EmbedRequest{Inputs: []string{"A red fox."}})
	if err != nil {
		return "", err
	}
	values := response.Embeddings[0].Values
	if len(values) != modelDimensions || response.Dimensions != modelDimensions {
		return "", fmt.Errorf("%d numbers, %d dimensions", len(values), response.Dimensions)
	}
	if length := math.Sqrt(dot(values, values)); math.Abs(length-1) > 1e-5 {
		return "", fmt.Errorf("the length is %v", length)
	}
	return fmt.Sprintf("%d numbers of length 1", len(values)), nil
}

func similarTextsAreNearer(ctx context.Context, s server) error {
	v, err := s.vectors(ctx, nil,
		"A kitten sleeps on the sofa.", "The cat naps on the couch.", "The tax return is due in April.")
	if err != nil {
		return err
	}
	if near, far := dot(v[0], v[1]), dot(v[0], v[2]); near < far+0.2 {
		return fmt.Errorf("%v is not above %v", near, far)
	}
	return nil
}

func chineseTextIsEmbedded(ctx context.Context, s server) error {
	v, err := s.vectors(ctx, nil, "今天天气很好。", "今天天气很好。", "股票下跌")
	if err != nil {
		return err
	}
	if dot(v[0], v[2]) > 0.99 {
		return fmt.Errorf("different texts have the same vector")
	}
	return same(v[0], v[1], 1e-5)
}

func aBatchKeepsTheOrderOfItsInputs(ctx context.Context, s server) error {
	// Lengths differ, so the server computes them in another order.
	texts := make([]string, 24)
	for n := range texts {
		texts[n] = strings.Repeat("word ", 1+37*n%50) + fmt.Sprint(n)
	}
	batch, err := s.vectors(ctx, nil, texts...)
	if err != nil {
		return err
	}
	for n, text := range texts[:6] {
		alone, err := s.vectors(ctx, nil, text)
		if err != nil {
			return err
		}
		if err := same(batch[n], alone[0], 1e-5); err != nil {
			return fmt.Errorf("input %d: %w", n, err)
		}
	}
	return nil
}

func truncationMakesLongTextsFit(ctx context.Context, s server) error {
	info, err := s.info.GetServerInfo(ctx, &assay.GetServerInfoRequest{})
	if err != nil {
		return err
	}
	for _, truncation := range []assay.Truncation{assay.Truncation_TRUNCATION_END, assay.Truncation_TRUNCATION_START} {
		response, err := s.embedding.Embed(ctx, &assay.EmbedRequest{
			Inputs:  []string{strings.Repeat("word ", 1000)},
			Options: &assay.EmbedOptions{Truncation: truncation},
		})
		if err != nil {
			return err
		}
		if e := response.Embeddings[0]; !e.Truncated || e.TokenCount != info.Model.MaxTokens {
			return fmt.Errorf("%v: %d tokens, truncated: %v", truncation, e.TokenCount, e.Truncated)
		}
	}
	return nil
}

func dimensionsKeepTheLeadingNumbers(ctx context.Context, s server) error {
	full, err := s.vectors(ctx, nil, "A red fox.")
	if err != nil {
		return err
	}
	cut, err := s.vectors(ctx, &assay.EmbedOptions{Dimensions: proto.Uint32(64)}, "A red fox.")
	if err != nil {
		return err
	}
	expected := full[0][:64]
	length := float32(math.Sqrt(dot(expected, expected)))
	for i := range expected {
		expected[i] /= length
	}
	return same(cut[0], expected, 1e-5)
}
