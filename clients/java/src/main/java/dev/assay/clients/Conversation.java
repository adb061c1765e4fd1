package dev.assay.clients;

import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import io.grpc.stub.StreamObserver;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.function.Consumer;

/** A bidirectional stream: requests are sent while answers are read, no faster than the server takes them. */
final class Conversation<Q, A> implements ClientResponseObserver<Q, A> {
  private final Iterator<Q> requests;
  private final List<A> answers = new ArrayList<>();
  private final CompletableFuture<A> first = new CompletableFuture<>();
  private final CompletableFuture<List<A>> all = new CompletableFuture<>();
  private ClientCallStreamObserver<Q> call;
  private boolean halfClosed;

  private Conversation(Iterator<Q> requests) {
    this.requests = requests;
  }

  /** Calls a method of a stub, such as {@code stub::embedStream}. */
  static <Q, A> Conversation<Q, A> begin(Consumer<StreamObserver<A>> method, Iterator<Q> requests) {
    var conversation = new Conversation<Q, A>(requests);
    method.accept(conversation);
    return conversation;
  }

  A first() throws ExecutionException, InterruptedException {
    return first.get();
  }

  List<A> all() throws ExecutionException, InterruptedException {
    return all.get();
  }

  void cancel() {
    call.cancel("seen enough", null);
  }

  @Override
  public void beforeStart(ClientCallStreamObserver<Q> call) {
    this.call = call;
    call.setOnReadyHandler(this::send);
  }

  private void send() {
    while (call.isReady() && !halfClosed) {
      if (requests.hasNext()) {
        call.onNext(requests.next());
      } else {
        halfClosed = true;
        call.onCompleted();
      }
    }
  }

  @Override
  public void onNext(A answer) {
    answers.add(answer);
    first.complete(answer);
  }

  @Override
  public void onError(Throwable error) {
    first.completeExceptionally(error);
    all.completeExceptionally(error);
  }

  @Override
  public void onCompleted() {
    all.complete(answers);
  }
}
