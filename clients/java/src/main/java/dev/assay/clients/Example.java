package dev.assay.clients;

import dev.assay.v1.EmbedRequest;
import dev.assay.v1.EmbeddingServiceGrpc;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import java.util.concurrent.TimeUnit;

/** Embeds two texts. */
final class Example {
  public static void main(String[] arguments) {
    var address = arguments.length > 0 ? arguments[0] : "127.0.0.1:50051";
    var channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
    var stub = EmbeddingServiceGrpc.newBlockingStub(channel).withDeadlineAfter(10, TimeUnit.SECONDS);
    var request = EmbedRequest.newBuilder().addInputs("A red fox.").addInputs("今天天气很好。").build();
    for (var embedding : stub.embed(request).getEmbeddingsList()) {
      System.out.println(embedding.getValuesCount() + " numbers: " + embedding.getValuesList().subList(0, 3) + " ...");
    }
    channel.shutdown();
  }
}
