// Every feature of a running server, used and checked. Each check is an example of its own.
//
//	go run . ADDRESS unix:PATH JUDGED_ADDRESS FULL_ADDRESS COLD_ADDRESS TLS_ADDRESS MUTUAL_ADDRESS DIRECTORY
//
// The first two are one server. JUDGED has the judge of ../judge.py, and under the name "slow" one that takes its time;
// FULL has the same and evaluates one sample at a time; COLD has no model yet. TLS has a certificate and wants a token,
// MUTUAL wants a client's certificate, too; DIRECTORY is that of ../certificates.sh.
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

// A check gives what it saw, where there is something to tell.
type check struct {
	name string
	run  func(context.Context, server) (string, error)
}

// silent makes a check of a function that tells nothing.
func silent(run func(context.Context, server) error) func(context.Context, server) (string, error) {
	return func(ctx context.Context, s server) (string, error) { return "", run(ctx, s) }
}

var plainChecks = []check{
	{"embed gives vectors of unit length", embedGivesVectorsOfUnitLength},
	{"similar texts are nearer than unrelated ones", silent(similarTextsAreNearer)},
	{"chinese text is embedded", silent(chineseTextIsEmbedded)},
	{"a batch keeps the order of its inputs", silent(aBatchKeepsTheOrderOfItsInputs)},
	{"truncation makes long texts fit", silent(truncationMakesLongTextsFit)},
	{"dimensions keep the leading numbers", silent(dimensionsKeepTheLeadingNumbers)},
	{"bytes of every encoding hold the values", bytesOfEveryEncodingHoldTheValues},
	{"a stream answers every input under its id", aStreamAnswersEveryInputUnderItsID},
	{"a bad input fails alone and the stream goes on", silent(aBadInputFailsAlone)},
	{"answers that share an id keep their order", silent(answersThatShareAnIDKeepTheirOrder)},
	{"a deadline ends the call", aDeadlineEndsTheCall},
	{"a stream cancelled midway leaves the server free", aStreamCancelledMidway},
	{"an empty input is named", anEmptyInputIsNamed},
	{"a text that is too long is named with its tokens and the limit", silent(aTextThatIsTooLongIsNamed)},
	{"token offsets slice the UTF-8 bytes of the text", silent(tokenOffsetsSliceTheBytes)},
	{"server info describes the model and the limits", silent(serverInfoDescribesTheModel)},
	{"every service is serving", silent(everyServiceIsServing)},
	{"a health watch begins with the present state", silent(aHealthWatchBeginsWithThePresentState)},
	{"the request id is echoed", silent(theRequestIDIsEchoed)},
	{"metrics are listed with what they need", silent(metricsAreListed)},
	{"without a judge a metric says so and others have scores", silent(withoutAJudgeAMetricSaysSo)},
	{"mistakes of a sample are named", silent(mistakesOfASampleAreNamed)},
}

var judgedChecks = []check{
	{"a claim comes with its evidence", aClaimComesWithItsEvidence},
	{"metrics share what the judge is asked", silent(metricsShareWhatTheJudgeIsAsked)},
	{"a partial result has bounds and no score", silent(aPartialResultHasBounds)},
	{"what is known comes before the deadline", silent(whatIsKnownComesBeforeTheDeadline)},
	{"a stream tells metrics, samples and their summary", aStreamTellsMetricsSamplesAndTheirSummary},
}

func main() {
	if len(os.Args) != 9 {
		log.Fatal("usage: smoke ADDRESS unix:PATH JUDGED_ADDRESS FULL_ADDRESS COLD_ADDRESS TLS_ADDRESS MUTUAL_ADDRESS DIRECTORY")
	}
	address, socket, judged, full, cold := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	guarded, mutual, directory := os.Args[6], os.Args[7], files(os.Args[8])
	fmt.Println("library grpc-go", grpc.Version)
	passed := runAll(address, plainChecks)
	passed = runAll(address, []check{{"a unix socket serves the same vectors", aUnixSocketServes(socket)}}) && passed
	passed = runAll(judged, judgedChecks) && passed
	passed = runAll(full, []check{
		{"a refused call is made again when the server says", aRefusedCallIsMadeAgain(full)},
	}) && passed
	passed = runAll(address, []check{
		{"calls go round the replicas", callsGoRound(address, judged)},
		{"a replica that does not serve gets no calls", aReplicaThatDoesNotServe(address, judged, cold)},
	}) && passed
	passed = runAll(address, []check{
		{"a token lets a call in", aTokenLetsACallIn(guarded, directory)},
		{"a client certificate lets a call in", aClientCertificateLetsACallIn(mutual, directory)},
	}) && passed
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

// connect makes calls without TLS, unless the options have credentials.
func connect(address string, options ...grpc.DialOption) (server, *grpc.ClientConn, error) {
	plaintext := grpc.WithTransportCredentials(insecure.NewCredentials())
	conn, err := grpc.NewClient(address, append([]grpc.DialOption{plaintext}, options...)...)
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
		seen, err := check.run(ctx, s)
		cancel()
		if err != nil {
			fmt.Printf("FAILED  %s: %v\n", check.name, err)
			continue
		}
		if seen != "" {
			seen = ": " + seen
		}
		fmt.Printf("ok      %s%s\n", check.name, seen)
		passed++
	}
	fmt.Printf("%d of %d passed\n", passed, len(checks))
	return passed == len(checks)
}
