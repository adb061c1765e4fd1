package dev.assay.clients;

import dev.assay.v1.EmbedOptions;
import dev.assay.v1.Truncation;
import java.util.ArrayList;
import java.util.List;

final class Embed {
  static final int MODEL_DIMENSIONS = 384;

  static final List<Check> CHECKS =
      List.of(
          new Check("embed gives vectors of unit length", Embed::givesVectorsOfUnitLength),
          new Check("similar texts are nearer than unrelated ones", Embed::similarTextsAreNearer),
          new Check("chinese text is embedded", Embed::chineseTextIsEmbedded),
          new Check("a batch keeps the order of its inputs", Embed::aBatchKeepsTheOrder),
          new Check("truncation makes long texts fit", Embed::truncationMakesLongTextsFit),
          new Check("dimensions keep the leading numbers", Embed::dimensionsKeepTheLeadingNumbers));

  static double dot(List<Float> a, List<Float> b) {
    var sum = 0.0;
    for (var i = 0; i < a.size(); i++) {
      sum += (double) a.get(i) * b.get(i);
    }
    return sum;
  }

  /** Fails unless all numbers agree to within tolerance. */
  static void same(List<Float> a, List<Float> b, double tolerance) {
    Check.that(a.size() == b.size(), a.size() + " numbers and " + b.size());
    for (var i = 0; i < a.size(); i++) {
      Check.that(Math.abs(a.get(i) - b.get(i)) <= tolerance, "number " + i + " is " + a.get(i) + " and " + b.get(i));
    }
  }

  private static String givesVectorsOfUnitLength(Server server) {
    var response = server.embed(EmbedOptions.getDefaultInstance(), List.of("A red fox."));
    var values = response.getEmbeddings(0).getValuesList();
    Check.that(values.size() == MODEL_DIMENSIONS && response.getDimensions() == MODEL_DIMENSIONS, values.size());
    Check.that(Math.abs(Math.sqrt(dot(values, values)) - 1) < 1e-5, dot(values, values));
    return values.size() + " numbers of length 1";
  }

  private static String similarTextsAreNearer(Server server) {
    var vectors =
        server.vectors(
            "A kitten sleeps on the sofa.", "The cat naps on the couch.", "The tax return is due in April.");
    var near = dot(vectors.get(0), vectors.get(1));
    var far = dot(vectors.get(0), vectors.get(2));
    Check.that(near > far + 0.2, near + " and " + far);
    return "";
  }

  private static String chineseTextIsEmbedded(Server server) {
    var vectors = server.vectors("今天天气很好。", "今天天气很好。", "股票下跌");
    same(vectors.get(0), vectors.get(1), 1e-5);
    Check.that(dot(vectors.get(0), vectors.get(2)) < 0.99, "different texts have the same vector");
    return "";
  }

  private static String aBatchKeepsTheOrder(Server server) {
    // Lengths differ, so the server computes them in another order.
    var texts = new ArrayList<String>();
    for (var n = 0; n < 24; n++) {
      texts.add("word ".repeat(1 + 37 * n % 50) + n);
    }
    var batch = server.vectors(texts.toArray(String[]::new));
    for (var n = 0; n < 6; n++) {
      same(batch.get(n), server.vectors(texts.get(n)).get(0), 1e-5);
    }
    return "";
  }

  private static String truncationMakesLongTextsFit(Server server) {
    var limit = server.info().getModel().getMaxTokens();
    for (var truncation : List.of(Truncation.TRUNCATION_END, Truncation.TRUNCATION_START)) {
      var options = EmbedOptions.newBuilder().setTruncation(truncation).build();
      var embedding = server.embed(options, List.of("word ".repeat(1000))).getEmbeddings(0);
      Check.that(embedding.getTruncated() && embedding.getTokenCount() == limit, embedding.getTokenCount());
    }
    return "";
  }

  private static String dimensionsKeepTheLeadingNumbers(Server server) {
    var leading = server.vectors("A red fox.").get(0).subList(0, 64);
    var length = Math.sqrt(dot(leading, leading));
    var cut = server.vectors(EmbedOptions.newBuilder().setDimensions(64).build(), "A red fox.").get(0);
    same(cut, leading.stream().map(value -> (float) (value / length)).toList(), 1e-5);
    return "";
  }
}
