package dev.assay.clients;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Status;
import dev.assay.v1.EmbedOptions;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;

final class Errors {
  static final List<Check> CHECKS =
      List.of(
          new Check("an empty input is named", Errors::anEmptyInputIsNamed),
          new Check("a text that is too long is named with its tokens and the limit", Errors::aTextThatIsTooLong));

  /** The google.rpc.Status of a call that must fail with this code. */
  static Status refused(Code code, Callable<?> call) throws Exception {
    try {
      call.call();
    } catch (StatusRuntimeException error) {
      Check.that(error.getStatus().getCode() == code, error);
      return StatusProto.fromThrowable(error);
    }
    throw new AssertionError("the call succeeded");
  }

  /** The detail of a kind, such as BadRequest. */
  static <D extends Message> Optional<D> detail(Status status, Class<D> kind) {
    return status.getDetailsList().stream()
        .filter(any -> any.is(kind))
        .findFirst()
        .map(
            any -> {
              try {
                return any.unpack(kind);
              } catch (InvalidProtocolBufferException error) {
                throw new AssertionError(error);
              }
            });
  }

  /** The description of every field violation by field. */
  static Map<String, String> badFields(Status status) {
    return detail(status, BadRequest.class).orElseThrow().getFieldViolationsList().stream()
        .collect(Collectors.toMap(violation -> violation.getField(), violation -> violation.getDescription()));
  }

  private static Status refused(Server server, String... inputs) throws Exception {
    return refused(
        Code.INVALID_ARGUMENT, () -> server.embed(EmbedOptions.getDefaultInstance(), List.of(inputs)));
  }

  private static String anEmptyInputIsNamed(Server server) throws Exception {
    var status = refused(server, "fine", "", "fine");
    Check.that(badFields(status).keySet().equals(Set.of("inputs[1]")), status);
    var info = detail(status, ErrorInfo.class).orElseThrow();
    Check.that(info.getReason().equals("INVALID_REQUEST") && info.getDomain().equals("assay.v1"), info);
    return "BadRequest inputs[1], ErrorInfo " + info.getReason();
  }

  private static String aTextThatIsTooLong(Server server) throws Exception {
    var limit = server.info().getModel().getMaxTokens();
    // 998 words, [CLS] and [SEP].
    var description = badFields(refused(server, "fine", "word ".repeat(998))).get("inputs[1]");
    Check.that(description.contains("1000") && description.contains(Integer.toString(limit)), description);
    return "";
  }
}
