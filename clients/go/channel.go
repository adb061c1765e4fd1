package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/health" // without it healthCheckConfig has no effect
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	assay "assay.dev/clients/go/gen/assay/v1"
)

const (
	pushback = time.Second // what a server asks for that evaluates as much as it may
	calls    = 24
)

// published connects as ../service_config.json says: calls are made again, and go round replicas that serve.
func published(target string, options ...grpc.DialOption) (server, *grpc.ClientConn, error) {
	config, err := os.ReadFile("../service_config.json")
	if err != nil {
		return server{}, nil, err
	}
	return connect(target, append(options, grpc.WithDefaultServiceConfig(string(config)))...)
}

// The server evaluates one sample at a time; s makes no call again, as its connection has no service config.
func aRefusedCallIsMadeAgain(address string) func(context.Context, server) (string, error) {
	return func(ctx context.Context, s server) (string, error) {
		again, conn, err := published(address)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		// Connect before time counts.
		if _, err := again.info.GetServerInfo(ctx, &assay.GetServerInfoRequest{}); err != nil {
			return "", err
		}
		free, err := s.occupy(ctx)
		defer free()
		if err != nil {
			return "", err
		}
		if err := s.isRefused(ctx); err != nil {
			return "", err
		}
		before := time.Now()
		results, _, err := again.evaluate(ctx, nil, "token_f1")
		if err != nil {
			return "", err
		}
		// By itself it would have come again after a tenth of that.
		if waited := time.Since(before); waited < pushback*95/100 || results["token_f1"].Score == nil {
			return "", fmt.Errorf("after %v the results are %v", waited, results)
		}
		return "RESOURCE_EXHAUSTED, OK after its 1 s", nil
	}
}

// occupy gives the server a sample that keeps it busy for three seconds, or until the function is called that it gives.
func (s server) occupy(ctx context.Context) (context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	stream, err := s.evaluation.EvaluateStream(ctx)
	if err != nil {
		return cancel, err
	}
	request := &assay.EvaluateRequest{
		Sample:  sample(),
		Metrics: named("token_f1", "faithfulness"),
		Options: &assay.EvaluateOptions{Judge: "slow"},
	}
	if err := stream.Send(&assay.EvaluateStreamRequest{Request: request}); err != nil {
		return cancel, err
	}
	// The first event is the metric that needs no judge.
	event, err := stream.Recv()
	if err == nil && event.GetResult().GetMetric() != "token_f1" {
		return cancel, fmt.Errorf("the first event is %v", event)
	}
	return cancel, err
}

func (s server) isRefused(ctx context.Context) error {
	request := &assay.EvaluateRequest{Sample: sample(), Metrics: named("token_f1")}
	_, err := s.evaluation.Evaluate(ctx, request)
	failure := status.Convert(err)
	for _, detail := range failure.Details() {
		retry, ok := detail.(*errdetails.RetryInfo)
		if ok && failure.Code() == codes.ResourceExhausted && retry.RetryDelay.AsDuration() == pushback {
			return nil
		}
	}
	return fmt.Errorf("the call ended with %v, details %v", err, failure.Details())
}

func callsGoRound(addresses ...string) func(context.Context, server) (string, error) {
	return func(ctx context.Context, _ server) (string, error) {
		return fmt.Sprintf("%d and %d calls", calls/2, calls/2), twoAnswerEvenly(ctx, addresses)
	}
}

// The last of the addresses is NOT_SERVING. GetServerInfo is answered at all times, so the channel keeps away from it.
func aReplicaThatDoesNotServe(addresses ...string) func(context.Context, server) (string, error) {
	return func(ctx context.Context, _ server) (string, error) {
		return fmt.Sprintf("0 calls of %d", calls), twoAnswerEvenly(ctx, addresses)
	}
}

func twoAnswerEvenly(ctx context.Context, addresses []string) error {
	answered, err := answers(ctx, addresses)
	if err != nil {
		return err
	}
	for _, count := range answered {
		if count != calls/2 || len(answered) != 2 {
			return fmt.Errorf("the servers answered %v", answered)
		}
	}
	return nil
}

// answers counts how many calls each server answered, by the time at which it started.
func answers(ctx context.Context, addresses []string) (map[time.Time]int, error) {
	// In place of DNS, which gives all addresses of a headless Service.
	replicas := manual.NewBuilderWithScheme("replicas")
	state := resolver.State{}
	for _, address := range addresses {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	replicas.InitialState(state)
	s, conn, err := published("replicas:///assay", grpc.WithResolvers(replicas))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answered := map[time.Time]int{}
	// The first calls go to whatever is connected first.
	for len(answered) < 2 {
		if err := s.count(ctx, answered); err != nil {
			return nil, err
		}
	}
	clear(answered)
	for range calls {
		if err := s.count(ctx, answered); err != nil {
			return nil, err
		}
	}
	return answered, nil
}

func (s server) count(ctx context.Context, answered map[time.Time]int) error {
	info, err := s.info.GetServerInfo(ctx, &assay.GetServerInfoRequest{})
	if err == nil {
		answered[info.StartTime.AsTime()]++
	}
	return err
}
