package dev.assay.clients;

import dev.assay.v1.EmbedOptions;
import dev.assay.v1.Embedding;
import dev.assay.v1.Encoding;
import java.nio.ByteOrder;
import java.util.List;
import java.util.stream.IntStream;

final class Encodings {
  static final List<Check> CHECKS =
      List.of(new Check("bytes of every encoding hold the values", Encodings::bytesHoldTheValues));

  /** The numbers of an embedding in any encoding; of BINARY, 1 for numbers above 0 and else 0. */
  static List<Float> decode(Embedding embedding, Encoding encoding, int dimensions) {
    // The bytes are little-endian, and a ByteBuffer is not unless it is told.
    var raw = embedding.getRaw().asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
    var numbers = IntStream.range(0, dimensions);
    return switch (encoding) {
      case ENCODING_FLOAT32_BYTES -> numbers.mapToObj(i -> raw.getFloat(4 * i)).toList();
      case ENCODING_FLOAT16_BYTES -> numbers.mapToObj(i -> float16(raw.getShort(2 * i))).toList();
      case ENCODING_INT8_BYTES -> numbers.mapToObj(i -> raw.get(i) * embedding.getScale()).toList();
      case ENCODING_BINARY_BYTES -> numbers.mapToObj(i -> (float) (raw.get(i / 8) >> (7 - i % 8) & 1)).toList();
      default -> embedding.getValuesList();
    };
  }

  /** Reads an IEEE 754 number of 16 bits: sign, 5 bits of exponent, 10 of fraction; Float.float16ToFloat of Java 20. */
  private static float float16(short bits) {
    var sign = bits < 0 ? -1f : 1f;
    var exponent = bits >> 10 & 31;
    var fraction = bits & 1023;
    if (exponent == 31) {
      return fraction == 0 ? sign * Float.POSITIVE_INFINITY : Float.NaN;
    }
    return sign * (exponent == 0 ? Math.scalb((float) fraction, -24) : Math.scalb(1024f + fraction, exponent - 25));
  }

  private static String bytesHoldTheValues(Server server) {
    var values = server.vectors("A red fox.").get(0);
    checkBytes(server, Encoding.ENCODING_FLOAT32_BYTES, values, 32);
    checkBytes(server, Encoding.ENCODING_FLOAT16_BYTES, values, 16);
    checkBytes(server, Encoding.ENCODING_INT8_BYTES, values, 8);
    checkBytes(server, Encoding.ENCODING_BINARY_BYTES, values, 1);
    return "f32, f16, int8, bits";
  }

  private static void checkBytes(Server server, Encoding encoding, List<Float> values, int numberBits) {
    var options = EmbedOptions.newBuilder().setEncoding(encoding).build();
    var embedding = server.embed(options, List.of("A red fox.")).getEmbeddings(0);
    Check.that(embedding.getValuesCount() == 0, encoding);
    Check.that(embedding.getRaw().size() == Embed.MODEL_DIMENSIONS * numberBits / 8, embedding.getRaw().size());
    var decoded = decode(embedding, encoding, Embed.MODEL_DIMENSIONS);
    switch (encoding) {
      case ENCODING_FLOAT16_BYTES -> Embed.same(decoded, values, 2e-4);
      case ENCODING_INT8_BYTES -> Embed.same(decoded, values, embedding.getScale() / 2 + 1e-5);
      case ENCODING_BINARY_BYTES -> checkSigns(decoded, values);
      default -> Embed.same(decoded, values, 1e-5);
    }
  }

  private static void checkSigns(List<Float> bits, List<Float> values) {
    for (var i = 0; i < values.size(); i++) {
      // A number that is all but zero may fall on either side of it.
      var certain = Math.abs(values.get(i)) > 1e-5;
      Check.that(!certain || values.get(i) > 0 == (bits.get(i) == 1), "bit " + i + " for " + values.get(i));
    }
  }
}
