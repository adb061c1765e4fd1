"""Calls over TLS with client certificates and tokens, while the secrets are rotated."""

import time

import grpc
from mounts import Secrets
from pod import Pod, start_replica
from watch import Load, call_of, report, until

# By default the server looks at its files every 2 s, and takes them within two looks.
RELOAD_SECONDS = 5.0


class Caller:
    """Who has a token and a certificate; the directory is one of clients/certificates.sh."""

    def __init__(self, directory):
        self.directory = directory
        self.line = self.read("tokens")

    def read(self, name):
        return (self.directory / name).read_bytes()

    def secrets(self, *callers):
        """What the secrets of the manifest hold, when these callers' tokens are good."""
        return {
            "assay-tls": {"tls.crt": self.read("server.pem"), "tls.key": self.read("server.key")},
            "assay-client-ca": {"ca.crt": self.read("ca.pem")},
            "assay-tokens": {"tokens": b"".join(caller.line for caller in callers)},
        }

    def tls(self, shown_by=None):
        """Trusts servers of its authority, and shows a certificate, which may be another caller's."""
        shown = shown_by or self
        return grpc.ssl_channel_credentials(self.read("ca.pem"), shown.read("client.key"), shown.read("client.pem"))

    def tls_without_certificate(self):
        return grpc.ssl_channel_credentials(self.read("ca.pem"))

    def with_token(self, tls):
        token = grpc.access_token_call_credentials(self.read("token").decode().strip())
        return grpc.composite_channel_credentials(tls, token)

    def credentials(self):
        return self.with_token(self.tls())


def connect(pod, credentials):
    # The certificate is for localhost. Each channel has a connection of its own.
    options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(f"{pod.address}:50051", credentials, options)


def failure(pod, credentials):
    """How a call on a new connection fails, or nothing."""
    with connect(pod, credentials) as channel:
        return call_of(channel)() or ""


def sealed(manifest, files, old, new):
    """Probes go on in plain text; certificates, authorities and tokens change under callers, who see nothing."""
    pod = Pod(manifest, 0, files)
    pod.secrets = Secrets(files.work / "secrets", pod.spec)
    try:
        files.fill(pod.volume)
        pod.secrets.write(old.secrets(old))
        start_replica(pod)
        check_strangers(pod, old, new)
        with connect(pod, old.credentials()) as channel:
            renew(pod, old, new, call_of(channel))
        assert pod.is_ready(), "the replica is unready"
        pod.end()
    finally:
        pod.kill()


def check_strangers(pod, caller, stranger):
    plaintext = grpc.experimental.insecure_channel_credentials()
    check_refused(pod, plaintext, "UNAVAILABLE")
    check_refused(pod, caller.with_token(caller.tls_without_certificate()), "UNAVAILABLE")
    check_refused(pod, caller.with_token(caller.tls(shown_by=stranger)), "UNAVAILABLE")
    check_refused(pod, caller.tls(), "UNAUTHENTICATED")


def check_refused(pod, credentials, code):
    said = failure(pod, credentials)
    assert code in said, f"{said or 'the call succeeded'}, where {code} was to come"


def renew(pod, old, new, call):
    load = Load(call)
    try:
        began = time.monotonic()
        pod.secrets.write(new.secrets(old, new))
        until("the new certificates and the new token are in force", lambda: not failure(pod, new.credentials()), RELOAD_SECONDS)
        taken = time.monotonic() - began
        check_refused(pod, old.credentials(), "UNAVAILABLE")
    finally:
        load.stop()
    load.hold("calls on the connection that was open before")
    began = time.monotonic()
    pod.secrets.write(new.secrets(new))
    until("the old token is refused", lambda: "UNAUTHENTICATED" in (call() or ""), RELOAD_SECONDS)
    report("sealed", f"new certificates and a token were in force {taken:.1f} s after the secrets changed, with {load.answered} calls "
           f"without a failure meanwhile; the old token was refused {time.monotonic() - began:.1f} s after it was gone")
