package dev.assay.clients;

import com.google.protobuf.Timestamp;
import io.grpc.EquivalentAddressGroup;
import io.grpc.NameResolver;
import io.grpc.NameResolverProvider;
import io.grpc.NameResolverRegistry;
import io.grpc.StatusOr;
import java.net.InetSocketAddress;
import java.net.URI;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

final class Replicas {
  private static final int CALLS = 24;

  /** The last address is NOT_SERVING. */
  static List<Check> checks(String address, String judged, String cold) {
    NameResolverRegistry.getDefaultRegistry().register(new Listed());
    return List.of(
        new Check("calls go round the replicas", server -> callsGoRound(address, judged)),
        new Check("a replica that does not serve gets no calls", server -> keepsAway(address, judged, cold)));
  }

  private static String callsGoRound(String... addresses) {
    checkEven(answers(addresses));
    return CALLS / 2 + " and " + CALLS / 2 + " calls";
  }

  /** GetServerInfo is answered at all times, so it is the channel that keeps away from the third. */
  private static String keepsAway(String... addresses) {
    checkEven(answers(addresses));
    return "0 calls of " + CALLS;
  }

  /** Two servers answered, as often as each other. */
  private static void checkEven(Map<Timestamp, Integer> answered) {
    Check.that(answered.size() == 2 && answered.values().stream().allMatch(n -> n == CALLS / 2), answered);
  }

  /** How many calls each server answered, by the time at which it started. */
  private static Map<Timestamp, Integer> answers(String... addresses) {
    try (var server = Server.published("listed:///" + String.join(",", addresses))) {
      var answered = new HashMap<Timestamp, Integer>();
      // The first calls go to whatever is connected first.
      while (answered.size() < 2) {
        answered.put(server.info().getStartTime(), 0);
      }
      answered.clear();
      for (var call = 0; call < CALLS; call++) {
        answered.merge(server.info().getStartTime(), 1, Integer::sum);
      }
      return answered;
    }
  }

  /** Takes listed:///HOST:PORT,HOST:PORT; in place of DNS, which gives all addresses of a headless Service. */
  private static final class Listed extends NameResolverProvider {
    @Override
    public String getDefaultScheme() {
      return "listed";
    }

    @Override
    protected boolean isAvailable() {
      return true;
    }

    @Override
    protected int priority() {
      return 5;
    }

    @Override
    public NameResolver newNameResolver(URI target, NameResolver.Args arguments) {
      if (!target.getScheme().equals(getDefaultScheme())) {
        return null;
      }
      var groups = Stream.of(target.getPath().substring(1).split(",")).map(Listed::address).toList();
      return new NameResolver() {
        @Override
        public String getServiceAuthority() {
          return "localhost";
        }

        @Override
        public void start(Listener2 listener) {
          var addresses = StatusOr.fromValue(groups);
          listener.onResult(ResolutionResult.newBuilder().setAddressesOrError(addresses).build());
        }

        @Override
        public void shutdown() {}
      };
    }

    private static EquivalentAddressGroup address(String address) {
      var colon = address.lastIndexOf(':');
      var port = Integer.parseInt(address.substring(colon + 1));
      return new EquivalentAddressGroup(new InetSocketAddress(address.substring(0, colon), port));
    }
  }
}
