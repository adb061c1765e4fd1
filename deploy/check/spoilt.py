"""Changes one word at a time in valid renderings; objects.py must report each change.

    python spoilt.py BINARY CRD_DIRECTORY RENDERED_DIRECTORY
"""

import sys
from pathlib import Path

from objects import Check, read_crds

# A rendering, a word of it, what it becomes, and a part of what is to be said.
SPOILT = [
    ("standalone-hpa", "pullPolicy:", "pullpolicy:", "'pullpolicy' was unexpected"),
    ("standalone-hpa", "ASSAY_OFFLINE", "ASSAY_OFLINE", "ASSAY_OFLINE is no setting"),
    ("standalone-hub", "value: 25s", "value: 45s", "a grace of 40 s is not more than the 50 s of the drain"),
    ("standalone-hub", "service: liveness", "service: alive", "liveness waits for the model"),
    ("standalone-hub", 'cpu: "3"', 'cpu: "2"', "leave none to the event loop"),
    ("standalone-hub", "maxUnavailable: 1", "maxUnavailible: 1", "'maxUnavailible' was unexpected"),
    ("standalone-hub", "runAsUser: 65532", "runAsUser: 0", "runAsUser is 0"),
    ("standalone-keda", "triggers:", "trigers:", "'triggers' is a required property"),
    ("standalone-keda", "pollingInterval: 15", "pollingInterval: soon", "'soon' is not of type 'integer'"),
    ("standalone-keda", "scrapeTimeout:", "scrapetimeout:", "'scrapetimeout' was unexpected"),
    ("standalone-base-podmonitor", "interval: 15s", "interval: soon", "'soon' does not match"),
    ("sidecar-gate", "restartPolicy: Always", "restartPolicy: Never", "it is no sidecar"),
    ("sidecar-gate", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "readOnlyRootFilesystem is False"),
    ("sidecar-gate", "terminationGracePeriodSeconds: 40", "terminationGracePeriodSeconds: 10", "a grace of 10 s"),
    ("sidecar-gate-podmonitor-model-pull", "- pull", "- pul", "unrecognized subcommand 'pul'"),
    ("helm-hub-judge", 'value: "64"', 'value: "many"', "must be a whole number from 1 to 65536"),
    ("helm-tls", "mountPath: /run/secrets/tls", "mountPath: /run/secrets", "/run/secrets/tls/tls.crt is in no volume"),
    ("helm-tls", 'path: "tls.key"', 'path: "tls.pem"', "/run/secrets/tls/tls.key is not among"),
    ("helm-tls", "name: ASSAY_TLS_KEY", "name: ASSAY_TLS_CLIENT_CA", "TLS requires both tls-cert and tls-key"),
    ("helm-tls", "appProtocol: https", "appProtocol: kubernetes.io/h2c", "not https"),
    ("helm-tls", "-headless:9090", ":50051", "which healthcheck does not know"),
    ("standalone-base-tokens", "defaultMode: 288", "defaultMode: 292", "assay-tokens is no secret for the server's group alone"),
    ("standalone-base-tls", "port: 9090", "port: 50051", "does not ask the admin port"),
    ("helm-app-warm", "127.0.0.1:50051", "0.0.0.0:50051", "0.0.0.0:50051 is not where it is called"),
]


def main():
    binary, crds, rendered = sys.argv[1:]
    schemas = read_crds(crds)
    for name, word, instead, said in SPOILT:
        text = Path(rendered, f"{name}.yaml").read_text()
        assert word in text, f"{name} has no {word}"
        check = Check(binary, schemas)
        check.rendering(name, text.replace(word, instead))
        if not any(said in mistake for mistake in check.mistakes):
            sys.exit(f"{name} with {instead}: nothing is said of {said!r}, but {check.mistakes}")
    print(f"{len(SPOILT)} spoilt words are found")


if __name__ == "__main__":
    main()
