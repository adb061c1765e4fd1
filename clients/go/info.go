package main

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	assay "assay.dev/clients/go/gen/assay/v1"
)

func tokenOffsetsSliceTheBytes(ctx context.Context, s server) error {
	text := "Naïve foxes, 你好!"
	response, err := s.embedding.Tokenize(ctx, &assay.TokenizeRequest{Inputs: []string{text}})
	if err != nil {
		return err
	}
	var slices strings.Builder
	for _, token := range response.Results[0].Tokens {
		// Go strings are UTF-8 bytes, as the offsets are.
		slices.WriteString(text[token.Start:token.End])
	}
	if slices.String() != strings.ReplaceAll(text, " ", "") {
		return fmt.Errorf("the slices are %q", slices.String())
	}
	return nil
}

func serverInfoDescribesTheModel(ctx context.Context, s server) error {
	info, err := s.info.GetServerInfo(ctx, &assay.GetServerInfoRequest{})
	if err != nil {
		return err
	}
	if info.WarmUp.State != assay.WarmUp_STATE_READY || info.Model.Dimensions != modelDimensions ||
		len(info.Model.Sha256) != 64 || info.Limits.Inputs == 0 {
		return fmt.Errorf("the info is %v", info)
	}
	return nil
}

func everyServiceIsServing(ctx context.Context, s server) error {
	services := []string{"assay.v1.EmbeddingService", "assay.v1.EvaluationService", "assay.v1.ServerService"}
	for _, service := range append(services, "", "liveness") {
		response, err := s.health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil {
			return err
		}
		if response.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			return fmt.Errorf("%q is %v", service, response.Status)
		}
	}
	_, err := s.health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "nobody"})
	if status.Code(err) != codes.NotFound {
		return fmt.Errorf("an unknown service is answered with %v", err)
	}
	return nil
}

func aHealthWatchBeginsWithThePresentState(ctx context.Context, s server) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for service, expected := range map[string]grpc_health_v1.HealthCheckResponse_ServingStatus{
		"":       grpc_health_v1.HealthCheckResponse_SERVING,
		"nobody": grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN,
	} {
		watch, err := s.health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil {
			return err
		}
		response, err := watch.Recv()
		if err != nil {
			return err
		}
		if response.Status != expected {
			return fmt.Errorf("%q is %v", service, response.Status)
		}
	}
	return nil
}

func theRequestIDIsEchoed(ctx context.Context, s server) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "x-request-id", "smoke-1")
	var header metadata.MD
	_, err := s.embedding.Embed(ctx, &assay.EmbedRequest{Inputs: []string{"A red fox."}}, grpc.Header(&header))
	if err != nil {
		return err
	}
	if id := header.Get("x-request-id"); len(id) != 1 || id[0] != "smoke-1" {
		return fmt.Errorf("the ids are %v", id)
	}
	return nil
}

func aUnixSocketServes(address string) func(context.Context, server) (string, error) {
	return func(ctx context.Context, s server) (string, error) {
		// Go's authority for a Unix socket is localhost, so nothing more is to be set.
		socket, conn, err := connect(address)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		expected, err := s.vectors(ctx, nil, "A red fox.")
		if err != nil {
			return "", err
		}
		vectors, err := socket.vectors(ctx, nil, "A red fox.")
		if err != nil {
			return "", err
		}
		return "as it is", same(vectors[0], expected[0], 1e-5)
	}
}
