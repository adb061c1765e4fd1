package dev.assay.clients;

import dev.assay.v1.EmbedRequest;
import dev.assay.v1.EmbedStreamRequest;
import dev.assay.v1.EmbedStreamResponse;
import dev.assay.v1.EmbeddingServiceGrpc;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.function.IntFunction;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

final class Streams {
  private static final List<String> BIG_BATCH = Collections.nCopies(64, "a long text ".repeat(60));

  static final List<Check> CHECKS =
      List.of(
          new Check("a stream answers every input under its id", Streams::answersEveryInputUnderItsId),
          new Check("a bad input fails alone and the stream goes on", Streams::aBadInputFailsAlone),
          new Check("answers that share an id keep their order", Streams::answersThatShareAnIdKeepTheirOrder),
          new Check("a deadline ends the call", Streams::aDeadlineEndsTheCall),
          new Check("a cancelled call leaves the server free", Streams::aCancelledCall),
          new Check("a stream cancelled midway leaves the server free", Streams::aStreamCancelledMidway));

  /** The answers to all texts; each has the id that {@code id} gives for its number. */
  private static List<EmbedStreamResponse> embedStream(Server server, List<String> texts, IntFunction<String> id)
      throws Exception {
    return begin(server, texts, id).all();
  }

  private static Conversation<EmbedStreamRequest, EmbedStreamResponse> begin(
      Server server, List<String> texts, IntFunction<String> id) {
    var requests =
        IntStream.range(0, texts.size())
            .mapToObj(n -> EmbedStreamRequest.newBuilder().setId(id.apply(n)).setInput(texts.get(n)).build());
    return Conversation.begin(server.embeddingStreams()::embedStream, requests.iterator());
  }

  private static String answersEveryInputUnderItsId(Server server) throws Exception {
    var texts = IntStream.range(0, 200).mapToObj(n -> "Sentence number " + n + ".").toList();
    var answers =
        embedStream(server, texts, Integer::toString).stream()
            .collect(Collectors.toMap(EmbedStreamResponse::getId, answer -> answer.getEmbedding().getValuesList()));
    Check.that(answers.size() == texts.size(), answers.keySet());
    for (var n : List.of(0, 77, 199)) {
      Embed.same(answers.get(Integer.toString(n)), server.vectors(texts.get(n)).get(0), 1e-5);
    }
    return answers.size() + " ids of " + texts.size();
  }

  private static String aBadInputFailsAlone(Server server) throws Exception {
    var answers = embedStream(server, List.of("one", "", "three"), Integer::toString);
    Check.that(answers.size() == 3, answers);
    for (var answer : answers) {
      Check.that(answer.hasError() == answer.getId().equals("1"), answer);
      if (answer.hasError()) {
        Check.that(answer.getError().getCode() == Status.Code.INVALID_ARGUMENT.value(), answer);
        Check.that(Errors.badFields(answer.getError()).containsKey("input"), answer);
      }
    }
    return "";
  }

  private static String answersThatShareAnIdKeepTheirOrder(Server server) throws Exception {
    var texts = IntStream.range(0, 20).mapToObj(n -> "word ".repeat(60 - 3 * n) + n).toList();
    var answers = embedStream(server, texts, n -> "same");
    var expected = server.vectors(texts.toArray(String[]::new));
    Check.that(answers.size() == texts.size(), answers.size());
    for (var n = 0; n < texts.size(); n++) {
      Embed.same(answers.get(n).getEmbedding().getValuesList(), expected.get(n), 1e-5);
    }
    return "";
  }

  private static String aDeadlineEndsTheCall(Server server) {
    var stub = EmbeddingServiceGrpc.newBlockingStub(server.channel).withDeadlineAfter(5, TimeUnit.MILLISECONDS);
    try {
      stub.embed(EmbedRequest.newBuilder().addAllInputs(BIG_BATCH).build());
    } catch (StatusRuntimeException error) {
      Check.that(error.getStatus().getCode() == Status.Code.DEADLINE_EXCEEDED, error);
      return error.getStatus().getCode().name();
    }
    throw new AssertionError("the call outlived its deadline");
  }

  private static String aCancelledCall(Server server) throws Exception {
    var stub = EmbeddingServiceGrpc.newFutureStub(server.channel);
    var call = stub.embed(EmbedRequest.newBuilder().addAllInputs(BIG_BATCH).build());
    call.cancel(true);
    try {
      call.get();
    } catch (CancellationException expected) {
      Check.that(server.vectors("Still there?").size() == 1, "no vector");
      return "";
    }
    throw new AssertionError("the call was faster than its cancellation");
  }

  private static String aStreamCancelledMidway(Server server) throws Exception {
    var answers = begin(server, BIG_BATCH, Integer::toString);
    Check.that(answers.first().hasEmbedding(), "the first answer has no vector");
    answers.cancel();
    try {
      answers.all();
    } catch (ExecutionException error) {
      Check.that(Status.fromThrowable(error).getCode() == Status.Code.CANCELLED, error);
      Check.that(server.vectors("Still there?").size() == 1, "no vector");
      return "CANCELLED";
    }
    throw new AssertionError("the stream ended as if it had not been cancelled");
  }
}
