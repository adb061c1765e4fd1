package dev.assay.clients;

/** One feature, used and checked. */
record Check(String name, Run run) {
  interface Run {
    /** Gives what it saw, or nothing where there is nothing to tell. */
    String on(Server server) throws Exception;
  }

  static void that(boolean holds, Object seen) {
    if (!holds) {
      throw new AssertionError(String.valueOf(seen));
    }
  }
}
