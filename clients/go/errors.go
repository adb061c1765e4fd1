package main

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assay "assay.dev/clients/go/gen/assay/v1"
)

// badFields gives the description of every field violation by field.
func badFields(failure *status.Status) map[string]string {
	fields := map[string]string{}
	for _, detail := range failure.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, violation := range bad.FieldViolations {
				fields[violation.Field] = violation.Description
			}
		}
	}
	return fields
}

func errorInfo(failure *status.Status) *errdetails.ErrorInfo {
	for _, detail := range failure.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// refused embeds what must fail with INVALID_ARGUMENT.
func (s server) refused(ctx context.Context, inputs ...string) (*status.Status, error) {
	_, err := s.embedding.Embed(ctx, &assay.EmbedRequest{Inputs: inputs})
	if status.Code(err) != codes.InvalidArgument {
		return nil, fmt.Errorf("the call ended with %v", err)
	}
	return status.Convert(err), nil
}

func anEmptyInputIsNamed(ctx context.Context, s server) (string, error) {
	failure, err := s.refused(ctx, "fine", "", "fine")
	if err != nil {
		return "", err
	}
	if fields := badFields(failure); len(fields) != 1 || fields["inputs[1]"] == "" {
		return "", fmt.Errorf("the fields are %v", fields)
	}
	if info := errorInfo(failure); info.GetReason() != "INVALID_REQUEST" || info.GetDomain() != "assay.v1" {
		return "", fmt.Errorf("the info is %v", info)
	}
	return "BadRequest inputs[1], ErrorInfo INVALID_REQUEST", nil
}

func aTextThatIsTooLongIsNamed(ctx context.Context, s server) error {
	info, err := s.info.GetServerInfo(ctx, &assay.GetServerInfoRequest{})
	if err != nil {
		return err
	}
	failure, err := s.refused(ctx, "fine", strings.Repeat("word ", 998))
	if err != nil {
		return err
	}
	// 998 words, [CLS] and [SEP].
	description := badFields(failure)["inputs[1]"]
	if !strings.Contains(description, "1000") || !strings.Contains(description, fmt.Sprint(info.Model.MaxTokens)) {
		return fmt.Errorf("the description is %q", description)
	}
	return nil
}
