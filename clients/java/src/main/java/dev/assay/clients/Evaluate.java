package dev.assay.clients;

import com.google.rpc.ErrorInfo;
import dev.assay.v1.Budget;
import dev.assay.v1.Context;
import dev.assay.v1.EvaluateOptions;
import dev.assay.v1.EvaluateRequest;
import dev.assay.v1.EvaluateResponse;
import dev.assay.v1.EvaluateStreamRequest;
import dev.assay.v1.EvaluateStreamResponse;
import dev.assay.v1.EvaluateStreamResponse.EventCase;
import dev.assay.v1.EvaluationServiceGrpc;
import dev.assay.v1.ListMetricsRequest;
import dev.assay.v1.MetricResult;
import dev.assay.v1.MetricSelection;
import dev.assay.v1.MetricStatus;
import dev.assay.v1.Sample;
import io.grpc.Status.Code;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;

final class Evaluate {
  /** In Chinese; the first sentence of the response is supported by the first context, the second by none. */
  static final Sample SAMPLE =
      Sample.newBuilder()
          .setUserInput("汉江大桥是哪一年通车的？")
          .setResponse("汉江大桥于1962年通车。大桥漆成绿色。")
          .addRetrievedContexts(
              Context.newBuilder().setId("doc-3").setText("建设历时三年。汉江大桥于1962年5月4日通车，全长412米。"))
          .addRetrievedContexts(Context.newBuilder().setId("doc-4").setText("武汉位于湖北省。"))
          .setReference("汉江大桥于1962年通车。")
          .build();

  static final List<Check> UNJUDGED =
      List.of(
          new Check("metrics are listed with what they need", Evaluate::metricsAreListed),
          new Check("without a judge a metric says so and others have scores", Evaluate::withoutAJudge),
          new Check("mistakes of a sample are named", Evaluate::mistakesOfASampleAreNamed));

  static final List<Check> JUDGED =
      List.of(
          new Check("a claim comes with its evidence", Evaluate::aClaimComesWithItsEvidence),
          new Check("a partial result has bounds and no score", Evaluate::aPartialResultHasBounds),
          new Check("what is known comes before the deadline", Evaluate::whatIsKnownComesBeforeTheDeadline),
          new Check("a stream tells metrics, samples and their summary", Evaluate::aStreamTellsAll));

  /** Of the sample. */
  static EvaluateRequest request(EvaluateOptions options, String... metrics) {
    return request(options, SAMPLE, metrics);
  }

  private static EvaluateRequest request(EvaluateOptions options, Sample sample, String... metrics) {
    var selections = Stream.of(metrics).map(name -> MetricSelection.newBuilder().setName(name).build()).toList();
    return EvaluateRequest.newBuilder().setSample(sample).addAllMetrics(selections).setOptions(options).build();
  }

  private static EvaluateOptions defaults() {
    return EvaluateOptions.getDefaultInstance();
  }

  private static Map<String, MetricResult> byMetric(EvaluateResponse response) {
    return response.getResultsList().stream().collect(Collectors.toMap(MetricResult::getMetric, result -> result));
  }

  private static String metricsAreListed(Server server) {
    var metrics = server.evaluation().listMetrics(ListMetricsRequest.getDefaultInstance()).getMetricsList();
    var faithfulness = metrics.stream().filter(m -> m.getName().equals("faithfulness")).findFirst().orElseThrow();
    Check.that(faithfulness.getNeedsJudge() && faithfulness.getRequiredFieldsCount() == 3, faithfulness);
    return "";
  }

  private static String withoutAJudge(Server server) {
    var results = byMetric(server.evaluation().evaluate(request(defaults(), "faithfulness", "token_f1")));
    var faithfulness = results.get("faithfulness");
    Check.that(faithfulness.getStatus() == MetricStatus.METRIC_STATUS_JUDGE_NOT_CONFIGURED, faithfulness);
    // getScore gives 0 where there is none, and 0 is a score.
    Check.that(!faithfulness.hasScore() && results.get("token_f1").hasScore(), results);
    var reason = Errors.detail(faithfulness.getError(), ErrorInfo.class).orElseThrow().getReason();
    Check.that(reason.equals("JUDGE_NOT_CONFIGURED"), reason);
    return "";
  }

  private static String mistakesOfASampleAreNamed(Server server) throws Exception {
    var sample = Sample.newBuilder().setResponse("Paris.").build();
    var request = request(defaults(), sample, "context_recall", "beauty");
    var status = Errors.refused(Code.INVALID_ARGUMENT, () -> server.evaluation().evaluate(request));
    var fields = Errors.badFields(status).keySet();
    var expected = List.of("sample.retrieved_contexts", "sample.reference", "metrics[1].name");
    Check.that(fields.containsAll(expected), fields);
    return "";
  }

  private static String aClaimComesWithItsEvidence(Server server) {
    var response = server.evaluation().evaluate(request(defaults(), "faithfulness"));
    var result = response.getResults(0);
    Check.that(result.hasScore() && result.getScore() == 0.5 && result.getClaimsCount() == 2, result);
    var unsupported = result.getClaims(1);
    // getVerdict gives false where there is none.
    Check.that(result.getClaims(0).getVerdict() && unsupported.hasVerdict() && !unsupported.getVerdict(), result);
    var place = result.getClaims(0).getEvidence(0);
    var context = SAMPLE.getRetrievedContexts(place.getContextIndex()).getText().getBytes(StandardCharsets.UTF_8);
    var quote = Info.slice(context, place.getStartByte(), place.getEndByte());
    Check.that(place.getLocated() && quote.equals("汉江大桥于1962年5月4日通车，全长412米。"), quote);
    Check.that(response.getLanguage().equals("zh") && response.getJudgeModel().equals("stand-in"), response);
    return result.getScore() + ": 1 claim of " + result.getClaimsCount() + ", quoted";
  }

  private static String aPartialResultHasBounds(Server server) {
    // Two judges rate it; the budget is enough for one.
    var budget = Budget.newBuilder().setJudgeCalls(1);
    var options = EvaluateOptions.newBuilder().setBudget(budget).setUseCache(false).build();
    var result = server.evaluation().evaluate(request(options, "response_groundedness")).getResults(0);
    Check.that(result.getStatus() == MetricStatus.METRIC_STATUS_PARTIAL && !result.hasScore(), result);
    Check.that(result.hasLower() && result.hasUpper() && result.getLower() < result.getUpper(), result);
    return "";
  }

  private static String whatIsKnownComesBeforeTheDeadline(Server server) {
    // This judge takes far longer.
    var options = EvaluateOptions.newBuilder().setJudge("slow").build();
    var stub = EvaluationServiceGrpc.newBlockingStub(server.channel).withDeadlineAfter(3, TimeUnit.SECONDS);
    var results = byMetric(stub.evaluate(request(options, "faithfulness", "token_f1")));
    Check.that(results.get("faithfulness").getStatus() == MetricStatus.METRIC_STATUS_DEADLINE, results);
    Check.that(!results.get("faithfulness").hasScore() && results.get("token_f1").hasScore(), results);
    return "";
  }

  private static String aStreamTellsAll(Server server) throws Exception {
    var requests = IntStream.range(0, 20).mapToObj(Evaluate::streamRequest).iterator();
    var events = Conversation.begin(server.evaluationStreams()::evaluateStream, requests).all();
    var byKind = events.stream().collect(Collectors.groupingBy(EvaluateStreamResponse::getEventCase));
    Check.that(byKind.get(EventCase.RESULT).size() == 38 && byKind.get(EventCase.SAMPLE).size() == 19, byKind);
    var refused = byKind.get(EventCase.ERROR);
    Check.that(refused.size() == 1 && refused.get(0).getId().equals("7"), refused);
    var summary = byKind.get(EventCase.SUMMARY).get(0).getSummary();
    Check.that(summary.getSamples() == 19 && summary.getRefused() == 1 && summary.getMetricsCount() == 2, summary);
    for (var metric : summary.getMetricsList()) {
      Check.that(metric.getScored() == 19 && metric.hasMean() && metric.getCoverage() == 1, metric);
    }
    return summary.getSamples() + " samples, " + summary.getRefused() + " refused";
  }

  /** The seventh lacks what a metric needs. */
  private static EvaluateStreamRequest streamRequest(int n) {
    var sample = n == 7 ? SAMPLE.toBuilder().clearRetrievedContexts().build() : SAMPLE;
    var request = request(defaults(), sample, "faithfulness", "token_f1");
    return EvaluateStreamRequest.newBuilder().setId(Integer.toString(n)).setRequest(request).build();
  }
}
