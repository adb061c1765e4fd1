#!/bin/sh
# Checks the Dockerfiles, manifests, chart, dashboard and alerts in deploy/ against linters and schemas, and against the
# settings, services and metrics of the binary.
#
#   deploy/check.sh [BINARY [MODEL_DIR]]
#
# Defaults: $ASSAY_BIN or target/release/assay, $ASSAY_MODEL_DIR or models/all-MiniLM-L6-v2. Needs python3, go and, for
# promtool, Debian's apt; all tools are installed into target/deploy-tools. It uses no container engine: the Dockerfiles
# are linted, not built.
set -eu

BIN=$(realpath "${1:-${ASSAY_BIN:-$(dirname "$0")/../target/release/assay}}")
MODEL=$(realpath "${2:-${ASSAY_MODEL_DIR:-$(dirname "$0")/../models/all-MiniLM-L6-v2}}")
cd "$(dirname "$0")/.."

out=$PWD/target/deploy-check
rendered=$out/rendered

main() {
    [ -x "$BIN" ] || fail "$BIN is not a program; build it, or name another"
    [ -d "$MODEL" ] || fail "$MODEL is not a directory; make model fetches it"
    prepare_tools
    rm -rf "$out"
    mkdir -p "$rendered"
    title "Dockerfiles (linted, not built), scripts and YAML"
    hadolint deploy/Dockerfile deploy/kubernetes/sidecar/app/Dockerfile
    shellcheck -x deploy/check.sh deploy/drill.sh deploy/grafana/render/run.sh scripts/deny.sh
    yamllint --strict -c deploy/check/yamllint.yaml deploy/kubernetes deploy/prometheus deploy/helm/*/values.yaml
    title "kustomize"
    render_kustomize
    title "helm"
    render_charts
    "$PYTHON" deploy/check/chart.py "$BIN" "$out/helm/assay"
    title "objects: schemas of Kubernetes 1.33 and 1.37 and of the CRDs, rules of our own, settings by the binary"
    "$PYTHON" deploy/check/objects.py "$BIN" "$tools/crds" "$rendered"/*.yaml
    "$PYTHON" deploy/check/spoilt.py "$BIN" "$tools/crds" "$rendered"
    title "kube-score"
    score
    title "alerts"
    promtool check rules --lint=all --lint-fatal deploy/prometheus/alerts.yaml
    promtool test rules deploy/prometheus/alerts_test.yaml
    title "the running binary: health, metrics, queries of dashboard, alerts and autoscalers"
    mkdir "$out/gen"
    "$PYTHON" -m grpc_tools.protoc -I proto --python_out "$out/gen" --grpc_python_out "$out/gen" proto/assay/v1/*.proto
    PYTHONPATH=$out/gen "$PYTHON" deploy/check/scrape.py "$BIN" "$MODEL" "$out/metrics.txt"
    "$PYTHON" deploy/check/queries.py "$out/metrics.txt" "$out/queries.yaml" "$rendered"/*.yaml
    promtool check rules "$out/queries.yaml"
    echo "deploy passed"
}

# Renders the overlays, each component alone, and the components that depend on order.
render_kustomize() {
    cp -r deploy/kubernetes "$out/kubernetes"
    for mode in sidecar standalone; do
        for overlay in "$out/kubernetes/$mode"/overlays/*; do
            build "$mode-$(basename "$overlay")" "$overlay"
        done
        for component in "$out/kubernetes/$mode"/components/*; do
            compose "$mode" base "$(basename "$component")"
        done
    done
    compose standalone base model-pull mtls tokens
    for overlay in gate overlap; do
        for model in model-image model-pvc model-pull; do
            compose sidecar "overlays/$overlay" podmonitor "$model"
        done
    done
}

# Renders a base with components.
compose() {
    mode=$1 base=$2
    shift 2
    name=$mode-$(basename "$base")-$(echo "$*" | tr ' ' -)
    directory=$out/kubernetes/$mode/composed/$name
    mkdir -p "$directory"
    {
        echo "resources: [../../$base]"
        echo "components:"
        printf -- '- ../../components/%s\n' "$@"
    } >"$directory/kustomization.yaml"
    build "$name" "$directory"
}

build() {
    kubectl kustomize "$2" >"$rendered/$1.yaml" || fail "$1 cannot be built"
    echo "built $1"
}

render_charts() {
    cp -r deploy/helm "$out/helm"
    helm dependency build "$out/helm/example-app" >/dev/null
    helm lint --strict --quiet "$out/helm/assay" "$out/helm/example-app"
    chart default assay
    chart hub-judge assay --set judge.url=https://judge.example/v1,judge.model=m,judge.keySecret.name=k \
        --set model.tokenSecret.name=t,settings.max_inputs=64,settings.log_format=text,settings.judge_temperature=0.5 \
        --set settings.queue_tokens=1000000,settings.reflection=false,settings.trace_sample_ratio=0.1 \
        --set otlp.endpoint=http://collector.observability:4317,otlp.headersSecret.name=o
    chart pull-hpa assay --set model.source=pull,autoscaling.kind=hpa,monitor.kind=pod,model.tokenSecret.name=t
    chart image-keda assay --set model.source=image,model.image.reference=registry.example/m:1 \
        --set autoscaling.kind=keda,monitor.kind=service,monitor.labels.release=p
    chart claim assay --set model.source=claim,model.claimName=models,networkPolicy.enabled=false \
        --set drain.waitSeconds=0,drain.limitSeconds=60,topologySpread=false --set "image.digest=sha256:$(printf %064d 0)" \
        --set 'imagePullSecrets[0].name=s,nodeSelector.disk=ssd,priorityClassName=high,podAnnotations.a=b'
    chart tls assay --set tls.enabled=true,tls.secret.name=s,tls.clientCaSecret.name=s,auth.tokensSecret.name=t
    chart tokens assay --set auth.tokensSecret.name=t,auth.tokensSecret.key=callers,settings.open_services=none
    chart app-tls example-app --set assay.tls.enabled=true,assay.tls.secret.name=s,assay.auth.tokensSecret.name=t
    chart app-warm example-app --set assay.model.source=pull
    chart app-early example-app --set assay.sidecar.appStarts=early,assay.model.source=image \
        --set assay.model.image.reference=registry.example/m:1
}

chart() {
    name=helm-$1 directory=$out/helm/$2
    shift 2
    helm template release "$directory" --namespace assay --kube-version 1.35.0 "$@" >"$rendered/$name.yaml" ||
        fail "$name cannot be rendered"
    echo "rendered $name"
}

# Ignored: the image pull policy, because tags are immutable; anti-affinity, because topology is spread; and what a rendering
# omits on purpose.
score() {
    ignored="container-image-pull-policy deployment-has-host-podantiaffinity"
    count=0
    for file in "$rendered"/*.yaml; do
        count=$((count + 1))
        case $file in
        */*keda*) more="deployment-replicas" ;;
        */helm-claim.yaml) more="pod-networkpolicy" ;;
        */helm-app-*) more="pod-networkpolicy deployment-has-poddisruptionbudget" ;;
        *) more="" ;;
        esac
        set --
        for test in $ignored $more; do set -- "$@" --ignore-test "$test"; done
        kube-score score --kubernetes-version v1.35 --output-format ci --exit-one-on-warning "$@" "$file" >"$out/score" ||
            { grep -v '^\[OK\]\|^\[SKIPPED\]' "$out/score" >&2; fail "kube-score on $(basename "$file")"; }
    done
    echo "kube-score found no problems in $count renderings"
}

. deploy/check/tools.sh
main
