# Servers for run.sh and ragas_compare.sh, which source it after they have set BIN and MODEL.

READY_SECONDS=120

work=$(mktemp -d /tmp/assay-clients.XXXXXX)
# Names of servers that run; the pid, the log and what else belongs to one is in $work under its name.
servers=
judge=
trap clean_up EXIT
trap 'exit 130' INT TERM

clean_up() {
    for name in $servers; do
        kill "$(cat "$work/$name.pid")" 2>/dev/null || true
        echo "--- the log of the server $name" >&2
        cat "$work/$name.log" >&2
    done
    [ -z "$judge" ] || kill "$judge" 2>/dev/null || true
    rm -rf "$work"
}

# Starts a server under a name, with flags, and waits until it is ready; sets address and admin.
start_server() {
    launch_server "$@" --model "$MODEL"
    deadline=$(($(date +%s) + READY_SECONDS))
    # By the socket, which has no TLS.
    until "$BIN" healthcheck --address "unix:$work/$name.sock" >/dev/null 2>&1; do
        kill -0 "$(cat "$work/$name.pid")" 2>/dev/null || fail "the server ended"
        [ "$(date +%s)" -lt "$deadline" ] || fail "the server is not ready after $READY_SECONDS s"
        sleep 0.2
    done
    echo "the server $name is on $address, unix:$work/$name.sock and, for probes, $admin"
}

# Starts a server under a name whose model cannot be had: it listens, and is never ready; sets address and admin.
start_cold_server() {
    # Nothing listens on port 1.
    launch_server "$1" --model none/none --cache-dir "$work/none" --hub-endpoint http://127.0.0.1:1 --retry-pause 1s
    echo "the server $name is on $address and will not be ready"
}

launch_server() {
    name=$1
    shift
    # It is there before anyone reads it.
    : >"$work/$name.log"
    "$BIN" --listen "127.0.0.1:0,unix:$work/$name.sock" --admin-listen 127.0.0.1:0 --log-format json "$@" \
        >>"$work/$name.log" 2>&1 &
    echo $! >"$work/$name.pid"
    servers="$servers $name"
    address=$(announced listen)
    admin=$(announced admin)
    address=${address%%,*}
}

# A field of the log line that says where the server listens.
announced() {
    for _ in $(seq 100); do
        value=$(sed -n 's/.*"message":"listening.*"'"$1"'":"\([^"]*\)".*/\1/p' "$work/$name.log")
        if [ -n "$value" ]; then
            echo "$value"
            return
        fi
        sleep 0.1
    done
    fail "the server does not say where it listens"
}

# Starts the stand-in for a judge, with flags; sets judge_url.
start_judge() {
    # It is there before anyone reads it.
    : >"$work/judge.out"
    python3 clients/judge.py "$@" >"$work/judge.out" &
    judge=$!
    for _ in $(seq 100); do
        judge_url=$(cat "$work/judge.out")
        [ -z "$judge_url" ] || return 0
        sleep 0.1
    done
    fail "the stand-in for a judge does not say where it listens"
}

stop_servers() {
    for name in $servers; do
        kill -TERM "$(cat "$work/$name.pid")"
        code=0
        wait "$(cat "$work/$name.pid")" || code=$?
        [ "$code" -eq 0 ] || fail "the exit code of the server $name after SIGTERM is $code"
        ! grep '"level":"ERROR"' "$work/$name.log" || fail "the server $name logged errors"
        [ ! -e "$work/$name.sock" ] || fail "the server $name left its socket behind"
        echo "the server $name stopped with exit code 0"
    done
    servers=
}

# A virtual environment of a name, with what a file of requirements lists; sets PYTHON.
prepare_venv() {
    venv=$PWD/target/$1
    if ! cmp -s "$2" "$venv/requirements.txt"; then
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$2"
        cp "$2" "$venv/requirements.txt"
    fi
    export PYTHON="$venv/bin/python"
}

title() {
    printf '\n== %s\n' "$1"
}

fail() {
    echo "FAILED: $1" >&2
    exit 1
}
