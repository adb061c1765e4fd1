#!/bin/sh
# Emulates the kubelet: starts the pods of the rendered manifests as processes in network namespaces, runs their probes,
# stops them, and checks the order of events.
#
#   deploy/drill.sh [BINARY [MODEL_DIR]]
#
# Same defaults as check.sh. Needs root, ip (iproute2), setpriv (util-linux), openssl and python3. Installs the Python packages
# and kubectl of check.sh. No traffic leaves the namespaces.
set -eu

BIN=$(realpath "${1:-${ASSAY_BIN:-$(dirname "$0")/../target/release/assay}}")
MODEL=$(realpath "${2:-${ASSAY_MODEL_DIR:-$(dirname "$0")/../models/all-MiniLM-L6-v2}}")
cd "$(dirname "$0")/.."

out=$PWD/target/deploy-drill

main() {
    [ -x "$BIN" ] || fail "$BIN is not a program; build it, or name another"
    [ -d "$MODEL" ] || fail "$MODEL is not a directory; make model fetches it"
    [ "$(id -u)" -eq 0 ] || fail "network namespaces need root"
    for program in ip setpriv openssl; do
        command -v "$program" >/dev/null || fail "$program is not installed"
    done
    prepare_basics
    rm -rf "$out"
    mkdir -p "$out/gen"
    for overlay in sidecar/overlays/gate sidecar/overlays/overlap standalone/base; do
        kubectl kustomize "deploy/kubernetes/$overlay" >"$out/$(echo "$overlay" | tr / -).yaml"
    done
    seal
    "$PYTHON" -m grpc_tools.protoc -I proto --python_out "$out/gen" --grpc_python_out "$out/gen" proto/assay/v1/*.proto
    # Handshakes fail on purpose, and what grpc logs of them is no news.
    GRPC_VERBOSITY=NONE PYTHONPATH=$out/gen "$PYTHON" deploy/check/drill "$BIN" "$MODEL" "$out"
}

# Replicas with TLS, client certificates and tokens; and two authorities, of which the second takes over.
seal() {
    mkdir "$out/sealed" "$out/old" "$out/new"
    cat >"$out/sealed/kustomization.yaml" <<END
resources: [../../../deploy/kubernetes/standalone/base]
components:
  - ../../../deploy/kubernetes/standalone/components/mtls
  - ../../../deploy/kubernetes/standalone/components/tokens
END
    kubectl kustomize "$out/sealed" >"$out/standalone-sealed.yaml"
    clients/certificates.sh "$out/old"
    clients/certificates.sh "$out/new"
}

. deploy/check/tools.sh
main
