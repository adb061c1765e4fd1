package dev.assay.clients;

import java.util.List;

final class Sockets {
  /** The target is unix: and a path; epoll, and so Linux, is needed. */
  static List<Check> checks(String target) {
    return List.of(new Check("a unix socket serves the same vectors", server -> servesTheSameVectors(server, target)));
  }

  private static String servesTheSameVectors(Server server, String target) {
    // Without it the authority is the path, which is none by the rules of HTTP.
    try (var socket = new Server(target, channel -> channel.overrideAuthority("localhost"))) {
      Embed.same(socket.vectors("A red fox.").get(0), server.vectors("A red fox.").get(0), 1e-5);
    }
    return "with the authority localhost";
  }
}
