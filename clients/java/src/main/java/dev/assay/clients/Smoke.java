package dev.assay.clients;

import io.grpc.ManagedChannel;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Every feature of a running server, used and checked. Each check is an example of its own.
 *
 * <pre>java -cp … dev.assay.clients.Smoke ADDRESS unix:PATH JUDGED_ADDRESS FULL_ADDRESS COLD_ADDRESS TLS_ADDRESS
 * MUTUAL_ADDRESS DIRECTORY</pre>
 *
 * <p>The first two are one server. JUDGED has the judge of ../judge.py, and under the name "slow" one that takes its
 * time; FULL has the same and evaluates one sample at a time; COLD has no model yet. TLS has a certificate and wants a
 * token, MUTUAL wants a client's certificate, too; DIRECTORY is that of ../certificates.sh.
 */
final class Smoke {
  private static final String USAGE =
      "usage: Smoke ADDRESS unix:PATH JUDGED_ADDRESS FULL_ADDRESS COLD_ADDRESS TLS_ADDRESS MUTUAL_ADDRESS DIRECTORY";

  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 8) {
      System.err.println(USAGE);
      System.exit(64);
    }
    var address = arguments[0];
    var judged = arguments[2];
    var full = arguments[3];
    System.out.println("library grpc-java " + ManagedChannel.class.getPackage().getImplementationVersion());
    var plain = new ArrayList<>(Embed.CHECKS);
    plain.addAll(Encodings.CHECKS);
    plain.addAll(Streams.CHECKS);
    plain.addAll(Errors.CHECKS);
    plain.addAll(Info.CHECKS);
    plain.addAll(Evaluate.UNJUDGED);
    plain.addAll(Sockets.checks(arguments[1]));
    var passed = runAll(address, plain);
    passed &= runAll(judged, Evaluate.JUDGED);
    passed &= runAll(full, Retries.checks(full));
    passed &= runAll(address, Replicas.checks(address, judged, arguments[4]));
    passed &= runAll(address, Tls.checks(arguments[5], arguments[6], Path.of(arguments[7])));
    System.exit(passed ? 0 : 1);
  }

  private static boolean runAll(String address, List<Check> checks) {
    var passed = 0;
    try (var server = new Server(address)) {
      for (var check : checks) {
        passed += runOne(server, check) ? 1 : 0;
      }
    }
    System.out.println(passed + " of " + checks.size() + " passed");
    return passed == checks.size();
  }

  private static boolean runOne(Server server, Check check) {
    try {
      var seen = check.run().on(server);
      System.out.println("ok      " + check.name() + (seen.isEmpty() ? "" : ": " + seen));
      return true;
    } catch (Exception | AssertionError failure) { // Every check reports, whatever becomes of it.
      System.out.println("FAILED  " + check.name());
      failure.printStackTrace(System.out);
      return false;
    }
  }
}
