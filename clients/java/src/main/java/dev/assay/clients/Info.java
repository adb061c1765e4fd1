package dev.assay.clients;

import dev.assay.v1.EmbedRequest;
import dev.assay.v1.TokenizeRequest;
import dev.assay.v1.WarmUp;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.Status.Code;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.stub.MetadataUtils;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;

final class Info {
  private static final Metadata.Key<String> REQUEST_ID =
      Metadata.Key.of("x-request-id", Metadata.ASCII_STRING_MARSHALLER);

  static final List<Check> CHECKS =
      List.of(
          new Check("token offsets slice the UTF-8 bytes of the text", Info::tokenOffsetsSliceTheBytes),
          new Check("server info describes the model and the limits", Info::serverInfoDescribesTheModel),
          new Check("every service is serving", Info::everyServiceIsServing),
          new Check("a health watch begins with the present state", Info::aHealthWatchBeginsWithThePresentState),
          new Check("the request id is echoed", Info::theRequestIdIsEchoed));

  private static String tokenOffsetsSliceTheBytes(Server server) {
    var text = "Naïve foxes, 你好!";
    var response = server.embedding().tokenize(TokenizeRequest.newBuilder().addInputs(text).build());
    // A string of Java is UTF-16, so the offsets are those of its bytes.
    var bytes = text.getBytes(StandardCharsets.UTF_8);
    var slices =
        response.getResults(0).getTokensList().stream()
            .map(token -> slice(bytes, token.getStart(), token.getEnd()))
            .collect(Collectors.joining());
    Check.that(slices.equals(text.replace(" ", "")), slices);
    return "";
  }

  static String slice(byte[] bytes, int start, int end) {
    return new String(bytes, start, end - start, StandardCharsets.UTF_8);
  }

  private static String serverInfoDescribesTheModel(Server server) {
    var info = server.info();
    var model = info.getModel();
    Check.that(info.getWarmUp().getState() == WarmUp.State.STATE_READY, info);
    Check.that(model.getDimensions() == Embed.MODEL_DIMENSIONS && model.getSha256().length() == 64, model);
    Check.that(info.getLimits().getInputs() > 0, info.getLimits());
    return "";
  }

  private static HealthCheckRequest healthOf(String service) {
    return HealthCheckRequest.newBuilder().setService(service).build();
  }

  private static String everyServiceIsServing(Server server) throws Exception {
    var prefix = "assay.v1.";
    var services = List.of(prefix + "EmbeddingService", prefix + "EvaluationService", prefix + "ServerService");
    for (var service : services) {
      Check.that(server.health().check(healthOf(service)).getStatus() == ServingStatus.SERVING, service);
    }
    for (var name : List.of("", "liveness")) {
      Check.that(server.health().check(healthOf(name)).getStatus() == ServingStatus.SERVING, name);
    }
    Errors.refused(Code.NOT_FOUND, () -> server.health().check(healthOf("nobody")));
    return "";
  }

  private static String aHealthWatchBeginsWithThePresentState(Server server) {
    var expected = Map.of("", ServingStatus.SERVING, "nobody", ServingStatus.SERVICE_UNKNOWN);
    // Calls made within a context end with it.
    try (var context = Context.current().withCancellation()) {
      context.run(
          () ->
              expected.forEach(
                  (service, status) -> {
                    var first = server.health().watch(healthOf(service)).next();
                    Check.that(first.getStatus() == status, service + " is " + first);
                  }));
    }
    return "";
  }

  private static String theRequestIdIsEchoed(Server server) {
    var sent = new Metadata();
    sent.put(REQUEST_ID, "smoke-1");
    var headers = new AtomicReference<Metadata>();
    var trailers = new AtomicReference<Metadata>();
    var stub =
        server
            .embedding()
            .withInterceptors(
                MetadataUtils.newAttachHeadersInterceptor(sent),
                MetadataUtils.newCaptureMetadataInterceptor(headers, trailers));
    stub.embed(EmbedRequest.newBuilder().addInputs("A red fox.").build());
    Check.that("smoke-1".equals(headers.get().get(REQUEST_ID)), headers.get());
    return "";
  }
}
