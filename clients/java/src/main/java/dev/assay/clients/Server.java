package dev.assay.clients;

import com.google.gson.Gson;
import dev.assay.v1.EmbedOptions;
import dev.assay.v1.EmbedRequest;
import dev.assay.v1.EmbedResponse;
import dev.assay.v1.EmbeddingServiceGrpc;
import dev.assay.v1.EvaluationServiceGrpc;
import dev.assay.v1.GetServerInfoRequest;
import dev.assay.v1.GetServerInfoResponse;
import dev.assay.v1.ServerServiceGrpc;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.health.v1.HealthGrpc;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.UnaryOperator;

/** The stubs of one channel; every call has a deadline. */
final class Server implements AutoCloseable {
  static final int TIMEOUT_SECONDS = 60;

  final ManagedChannel channel;

  Server(String target) {
    this(target, UnaryOperator.identity());
  }

  /** With TLS, a token, or both. */
  Server(String target, ChannelCredentials credentials) {
    channel = Grpc.newChannelBuilder(target, credentials).build();
  }

  Server(String target, UnaryOperator<ManagedChannelBuilder<?>> options) {
    channel = options.apply(Grpc.newChannelBuilder(target, InsecureChannelCredentials.create())).build();
  }

  /** A channel as ../service_config.json says: calls are made again, and go round replicas that serve. */
  static Server published(String target) {
    return new Server(target, channel -> channel.defaultServiceConfig(serviceConfig()));
  }

  /** As grpc-java wants it: its numbers are Double. */
  @SuppressWarnings("unchecked") // The names of a JSON object are strings.
  private static Map<String, ?> serviceConfig() {
    var file = Server.class.getResourceAsStream("/service_config.json");
    return new Gson().fromJson(new InputStreamReader(file, StandardCharsets.UTF_8), Map.class);
  }

  EmbeddingServiceGrpc.EmbeddingServiceBlockingStub embedding() {
    return EmbeddingServiceGrpc.newBlockingStub(channel).withDeadlineAfter(TIMEOUT_SECONDS, TimeUnit.SECONDS);
  }

  EmbeddingServiceGrpc.EmbeddingServiceStub embeddingStreams() {
    return EmbeddingServiceGrpc.newStub(channel).withDeadlineAfter(TIMEOUT_SECONDS, TimeUnit.SECONDS);
  }

  EvaluationServiceGrpc.EvaluationServiceBlockingStub evaluation() {
    return EvaluationServiceGrpc.newBlockingStub(channel).withDeadlineAfter(TIMEOUT_SECONDS, TimeUnit.SECONDS);
  }

  EvaluationServiceGrpc.EvaluationServiceStub evaluationStreams() {
    return EvaluationServiceGrpc.newStub(channel).withDeadlineAfter(TIMEOUT_SECONDS, TimeUnit.SECONDS);
  }

  HealthGrpc.HealthBlockingStub health() {
    return HealthGrpc.newBlockingStub(channel).withDeadlineAfter(TIMEOUT_SECONDS, TimeUnit.SECONDS);
  }

  GetServerInfoResponse info() {
    var stub = ServerServiceGrpc.newBlockingStub(channel).withDeadlineAfter(TIMEOUT_SECONDS, TimeUnit.SECONDS);
    return stub.getServerInfo(GetServerInfoRequest.getDefaultInstance());
  }

  EmbedResponse embed(EmbedOptions options, List<String> inputs) {
    return embedding().embed(EmbedRequest.newBuilder().addAllInputs(inputs).setOptions(options).build());
  }

  List<List<Float>> vectors(EmbedOptions options, String... inputs) {
    return embed(options, List.of(inputs)).getEmbeddingsList().stream().map(e -> e.getValuesList()).toList();
  }

  List<List<Float>> vectors(String... inputs) {
    return vectors(EmbedOptions.getDefaultInstance(), inputs);
  }

  @Override
  public void close() {
    channel.shutdownNow();
  }
}
