// Every feature of a running server, used and checked. Each check is an example of its own.
//
//	go run . ADDRESS [unix:PATH [JUDGED_ADDRESS]]
//
// The last is a server with the judge of ../judge.py, and under the name "slow" one that takes its time.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	assay "assay.dev/clients/go/gen/assay/v1"
)

const (
	timeout         = time.Minute // every call has one
	modelDimensions = 384
)

type check struct {
	name string
	run  func(context.Context, server) error
}

var judgedChecks = []check{
	{"a claim comes with its evidence", aClaimComesWithItsEvidence},
	{"metrics share what the judge is asked", metricsShareWhatTheJudgeIsAsked},
	{"a partial result has bounds and no score", aPartialResultHasBounds},
	{"what is known comes before the deadline", whatIsKnownComesBeforeTheDeadline},
	{"a stream tells metrics, samples and their summary", aStreamTellsMetricsSamplesAndTheirSummary},
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: smoke ADDRESS [unix:PATH [JUDGED_ADDRESS]]")
	}
	checks := []check{
		{"embed gives vectors of unit length", embedGivesVectorsOfUnitLength},
		{"similar texts are nearer than unrelated ones", similarTextsAreNearer},
		{"chinese text is embedded", chineseTextIsEmbedded},
		{"a batch keeps the order of its inputs", aBatchKeepsTheOrderOfItsInputs},
		{"truncation makes long texts fit", truncationMakesLongTextsFit},
		{"dimensions keep the leading numbers", dimensionsKeepTheLeadingNumbers},
		{"bytes of every encoding hold the values", bytesOfEveryEncodingHoldTheValues},
		{"a stream answers every input under its id", aStreamAnswersEveryInputUnderItsID},
		{"a bad input fails alone and the stream goes on", aBadInputFailsAlone},
		{"answers that share an id keep their order", answersThatShareAnIDKeepTheirOrder},
		{"a deadline ends the call", aDeadlineEndsTheCall},
		{"a stream cancelled midway leaves the server free", aStreamCancelledMidway},
		{"an empty input is named", anEmptyInputIsNamed},
		{"a text that is too long is named with its tokens and the limit", aTextThatIsTooLongIsNamed},
		{"token offsets slice the UTF-8 bytes of the text", tokenOffsetsSliceTheBytes},
		{"server info describes the model and the limits", serverInfoDescribesTheModel},
		{"every service is serving", everyServiceIsServing},
		{"a health watch begins with the present state", aHealthWatchBeginsWithThePresentState},
		{"the request id is echoed", theRequestIDIsEchoed},
		{"metrics are listed with what they need", metricsAreListed},
		{"without a judge a metric says so and others have scores", withoutAJudgeAMetricSaysSo},
		{"mistakes of a sample are named", mistakesOfASampleAreNamed},
	}
	if len(os.Args) > 2 {
		checks = append(checks, check{"a unix socket serves the same vectors", aUnixSocketServes(os.Args[2])})
	}
	passed := runAll(os.Args[1], checks)
	if len(os.Args) > 3 {
		passed = runAll(os.Args[3], judgedChecks) && passed
	}
	if !passed {
		os.Exit(1)
	}
}

// A server is the stubs of one connection.
type server struct {
	embedding  assay.EmbeddingServiceClient
	evaluation assay.EvaluationServiceClient
	info       assay.ServerServiceClient
	health     grpc_health_v1.HealthClient
}

func connect(address string) (server, *grpc.ClientConn, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return server{}, nil, err
	}
	return server{
		embedding:  assay.NewEmbeddingServiceClient(conn),
		evaluation: assay.NewEvaluationServiceClient(conn),
		info:       assay.NewServerServiceClient(conn),
		health:     grpc_health_v1.NewHealthClient(conn),
	}, conn, nil
}

func runAll(address string, checks []check) bool {
	s, conn, err := connect(address)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	passed := 0
	for _, check := range checks {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		err := check.run(ctx, s)
		cancel()
		if err != nil {
			fmt.Printf("FAILED  %s: %v\n", check.name, err)
			continue
		}
		fmt.Printf("ok      %s\n", check.name)
		passed++
	}
	fmt.Printf("%d of %d passed\n", passed, len(checks))
	return passed == len(checks)
}
