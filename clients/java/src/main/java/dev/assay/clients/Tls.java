package dev.assay.clients;

import com.google.rpc.ErrorInfo;
import dev.assay.v1.EmbedRequest;
import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.CompositeChannelCredentials;
import io.grpc.Metadata;
import io.grpc.SecurityLevel;
import io.grpc.Status;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Executor;

/** TLS, tokens and client certificates; the directory is that of ../certificates.sh. */
final class Tls {
  private static final String WITHOUT_TLS = "a token is not sent without TLS";

  private final Path directory;

  private Tls(Path directory) {
    this.directory = directory;
  }

  /** Both servers have a certificate and want a token; the second wants a client's certificate, too. */
  static List<Check> checks(String address, String mutual, Path directory) {
    var tls = new Tls(directory);
    return List.of(
        new Check("a token lets a call in", server -> tls.aTokenLetsACallIn(address)),
        new Check("a client certificate lets a call in", server -> tls.aClientCertificateLetsACallIn(mutual)),
        new Check("a token stays here without TLS", tls::aTokenStaysHereWithoutTls));
  }

  private String aTokenLetsACallIn(String address) throws Exception {
    embed(address, withToken(trusting("ca.pem").build()));
    checkTokenMissing(refused(address, trusting("ca.pem").build()));
    checkUnavailable(refused(address, withToken(trusting("other-ca.pem").build())));
    return "OK; without it UNAUTHENTICATED; another authority: UNAVAILABLE";
  }

  private String aClientCertificateLetsACallIn(String address) throws Exception {
    embed(address, withToken(showing().build()));
    checkTokenMissing(refused(address, showing().build()));
    checkUnavailable(refused(address, withToken(trusting("ca.pem").build())));
    return "OK; without it UNAVAILABLE";
  }

  private String aTokenStaysHereWithoutTls(Server server) throws Exception {
    var stub = server.embedding().withCallCredentials(token());
    var error = refused(() -> stub.embed(EmbedRequest.newBuilder().addInputs("A red fox.").build()));
    Check.that(WITHOUT_TLS.equals(error.getStatus().getDescription()), error);
    return "";
  }

  /** Trusts servers with a certificate of this authority. */
  private TlsChannelCredentials.Builder trusting(String authority) throws IOException {
    return TlsChannelCredentials.newBuilder().trustManager(directory.resolve(authority).toFile());
  }

  /** Shows a certificate, too. */
  private TlsChannelCredentials.Builder showing() throws IOException {
    var certificate = directory.resolve("client.pem").toFile();
    return trusting("ca.pem").keyManager(certificate, directory.resolve("client.key").toFile());
  }

  private ChannelCredentials withToken(ChannelCredentials tls) throws IOException {
    return CompositeChannelCredentials.create(tls, token());
  }

  private Bearer token() throws IOException {
    return new Bearer(Files.readString(directory.resolve("token")).strip());
  }

  /** One call over a channel of its own. */
  private static void embed(String address, ChannelCredentials credentials) {
    try (var server = new Server(address, credentials)) {
      var vector = server.vectors("A red fox.").get(0);
      Check.that(Math.abs(Math.sqrt(Embed.dot(vector, vector)) - 1) < 1e-5, vector);
    }
  }

  private static StatusRuntimeException refused(String address, ChannelCredentials credentials) {
    return refused(() -> embed(address, credentials));
  }

  private static StatusRuntimeException refused(Runnable call) {
    try {
      call.run();
    } catch (StatusRuntimeException error) {
      return error;
    }
    throw new AssertionError("the call succeeded");
  }

  private static void checkTokenMissing(StatusRuntimeException error) {
    Check.that(error.getStatus().getCode() == Code.UNAUTHENTICATED, error);
    var info = Errors.detail(StatusProto.fromThrowable(error), ErrorInfo.class).orElseThrow();
    Check.that(info.getReason().equals("TOKEN_MISSING"), info);
  }

  private static void checkUnavailable(StatusRuntimeException error) {
    Check.that(error.getStatus().getCode() == Code.UNAVAILABLE, error);
  }

  /** Sends its token with each call, and with no call that is not over TLS: grpc-java leaves that to us. */
  private static final class Bearer extends CallCredentials {
    private static final Metadata.Key<String> AUTHORIZATION =
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final String token;

    Bearer(String token) {
      this.token = token;
    }

    @Override
    public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
      if (call.getSecurityLevel() != SecurityLevel.PRIVACY_AND_INTEGRITY) {
        applier.fail(Status.UNAUTHENTICATED.withDescription(WITHOUT_TLS));
        return;
      }
      var metadata = new Metadata();
      metadata.put(AUTHORIZATION, "Bearer " + token);
      applier.apply(metadata);
    }
  }
}
