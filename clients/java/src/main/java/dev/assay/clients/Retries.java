package dev.assay.clients;

import com.google.rpc.RetryInfo;
import dev.assay.v1.EvaluateOptions;
import dev.assay.v1.EvaluateRequest;
import dev.assay.v1.EvaluateStreamRequest;
import dev.assay.v1.EvaluateStreamResponse;
import dev.assay.v1.EvaluationServiceGrpc;
import io.grpc.Status.Code;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.TimeUnit;

final class Retries {
  /** What a server asks for that evaluates as much as it may. */
  private static final Duration PUSHBACK = Duration.ofSeconds(1);

  private static final EvaluateRequest LEXICAL = Evaluate.request(EvaluateOptions.getDefaultInstance(), "token_f1");

  /** For a server that evaluates one sample at a time. */
  static List<Check> checks(String address) {
    var name = "a refused call is made again when the server says";
    return List.of(new Check(name, server -> aRefusedCallIsMadeAgain(server, address)));
  }

  private static String aRefusedCallIsMadeAgain(Server server, String address) throws Exception {
    try (var again = Server.published(address)) {
      // Connect before time counts.
      again.info();
      var busy = occupy(server);
      var status = Errors.refused(Code.RESOURCE_EXHAUSTED, () -> server.evaluation().evaluate(LEXICAL));
      var delay = Errors.detail(status, RetryInfo.class).orElseThrow().getRetryDelay();
      Check.that(delay.getSeconds() == PUSHBACK.toSeconds(), delay);
      var before = System.nanoTime();
      var response = again.evaluation().evaluate(LEXICAL);
      var waited = Duration.ofNanos(System.nanoTime() - before);
      busy.cancel();
      // By itself it would have come again after a tenth of that.
      Check.that(response.getResults(0).hasScore() && waited.toMillis() >= 0.95 * PUSHBACK.toMillis(), waited);
      return "RESOURCE_EXHAUSTED, OK after its 1 s";
    }
  }

  /** Gives the server a sample that keeps it busy for three seconds, or until the stream is cancelled. */
  private static Conversation<EvaluateStreamRequest, EvaluateStreamResponse> occupy(Server server) throws Exception {
    var options = EvaluateOptions.newBuilder().setJudge("slow").build();
    var request = Evaluate.request(options, "token_f1", "faithfulness");
    var stub = EvaluationServiceGrpc.newStub(server.channel).withDeadlineAfter(3, TimeUnit.SECONDS);
    var requests = List.of(EvaluateStreamRequest.newBuilder().setRequest(request).build()).iterator();
    var conversation = Conversation.begin(stub::evaluateStream, requests);
    // The first event is the metric that needs no judge.
    var first = conversation.first();
    Check.that(first.getResult().getMetric().equals("token_f1"), first);
    return conversation;
  }
}
