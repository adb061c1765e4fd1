package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assay "assay.dev/clients/go/gen/assay/v1"
)

// embedStream sends all items while it reads the answers: the server reads no further while too many are unanswered.
func (s server) embedStream(ctx context.Context, items []*assay.EmbedStreamRequest) ([]*assay.EmbedStreamResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.embedding.EmbedStream(ctx)
	if err != nil {
		return nil, err
	}
	go func() {
		for _, item := range items {
			// Recv tells why the stream ended.
			if stream.Send(item) != nil {
				return
			}
		}
		stream.CloseSend()
	}()
	var answers []*assay.EmbedStreamResponse
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return answers, nil
		}
		if err != nil {
			return nil, err
		}
		answers = append(answers, answer)
	}
}

func items(texts []string, id func(int) string) []*assay.EmbedStreamRequest {
	items := make([]*assay.EmbedStreamRequest, len(texts))
	for n, text := range texts {
		items[n] = &assay.EmbedStreamRequest{Id: id(n), Input: text}
	}
	return items
}

func number(n int) string { return fmt.Sprint(n) }

func aStreamAnswersEveryInputUnderItsID(ctx context.Context, s server) (string, error) {
	texts := make([]string, 200)
	for n := range texts {
		texts[n] = fmt.Sprintf("Sentence number %d.", n)
	}
	answers, err := s.embedStream(ctx, items(texts, number))
	if err != nil {
		return "", err
	}
	byID := map[string]*assay.Embedding{}
	for _, answer := range answers {
		byID[answer.Id] = answer.GetEmbedding()
	}
	if len(answers) != len(texts) || len(byID) != len(texts) {
		return "", fmt.Errorf("%d answers with %d ids for %d inputs", len(answers), len(byID), len(texts))
	}
	for _, n := range []int{0, 77, 199} {
		expected, err := s.vectors(ctx, nil, texts[n])
		if err != nil {
			return "", err
		}
		if err := same(byID[number(n)].GetValues(), expected[0], 1e-5); err != nil {
			return "", fmt.Errorf("input %d: %w", n, err)
		}
	}
	return fmt.Sprintf("%d ids of %d", len(byID), len(texts)), nil
}

func aBadInputFailsAlone(ctx context.Context, s server) error {
	answers, err := s.embedStream(ctx, items([]string{"one", "", "three"}, number))
	if err != nil {
		return err
	}
	if len(answers) != 3 {
		return fmt.Errorf("%d answers", len(answers))
	}
	for _, answer := range answers {
		if answer.Id != "1" {
			if answer.GetEmbedding() == nil {
				return fmt.Errorf("input %s: %v", answer.Id, answer.GetError())
			}
			continue
		}
		failure := status.FromProto(answer.GetError())
		if fields := badFields(failure); failure.Code() != codes.InvalidArgument || fields["input"] == "" {
			return fmt.Errorf("input 1: %v, fields %v", failure, fields)
		}
	}
	return nil
}

func answersThatShareAnIDKeepTheirOrder(ctx context.Context, s server) error {
	texts := make([]string, 20)
	for n := range texts {
		texts[n] = strings.Repeat("word ", 60-3*n) + fmt.Sprint(n)
	}
	answers, err := s.embedStream(ctx, items(texts, func(int) string { return "same" }))
	if err != nil {
		return err
	}
	expected, err := s.vectors(ctx, nil, texts...)
	if err != nil {
		return err
	}
	if len(answers) != len(texts) {
		return fmt.Errorf("%d answers for %d inputs", len(answers), len(texts))
	}
	for n, answer := range answers {
		if err := same(answer.GetEmbedding().GetValues(), expected[n], 1e-5); err != nil {
			return fmt.Errorf("answer %d: %w", n, err)
		}
	}
	return nil
}

func bigBatch() []string {
	texts := make([]string, 64)
	for n := range texts {
		texts[n] = strings.Repeat("a long text ", 60)
	}
	return texts
}

func aDeadlineEndsTheCall(ctx context.Context, s server) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	defer cancel()
	_, err := s.embedding.Embed(ctx, &assay.EmbedRequest{Inputs: bigBatch()})
	if status.Code(err) != codes.DeadlineExceeded {
		return "", fmt.Errorf("the call ended with %v", err)
	}
	return "DEADLINE_EXCEEDED", nil
}

func aStreamCancelledMidway(ctx context.Context, s server) (string, error) {
	streamCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.embedding.EmbedStream(streamCtx)
	if err != nil {
		return "", err
	}
	// As many as the server computes side by side; the stream stays open.
	for _, item := range items(bigBatch(), number) {
		if err := stream.Send(item); err != nil {
			return "", err
		}
	}
	if _, err := stream.Recv(); err != nil {
		return "", err
	}
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Canceled {
		return "", fmt.Errorf("the stream ended with %v", err)
	}
	_, err = s.vectors(ctx, nil, "Still there?")
	return "CANCELLED", err
}
