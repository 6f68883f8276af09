#!/usr/bin/env bash
# What a container of the image is:
#   head                    Ray's head without work of its own; join it at port 6379
#   worker HOST:6379        a node that works
#   job NAME key=value ...  jobs/NAME.py on the cluster of RAY_ADDRESS, or on this machine alone
#   serve TARGET key=value  the server
#   healthy                 whether the node of this container lives (for probes)
#   anything else           is run as it is
# Nodes need a token, the same for all: RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH (a secret's file).
set -euo pipefail
umask 077
export RAY_AUTH_MODE=token

need_token() {
    if [[ -z "${RAY_AUTH_TOKEN:-}" && ! -s "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ]]; then
        echo "no token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH; without one anybody who reaches" \
            "this node could run code on it" >&2
        exit 64
    fi
}

answers() { # a URL of this container, within two seconds
    python -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)' "$1" \
        2> /dev/null
}

role=${1:-help}
shift || true
case "$role" in
    head)
        need_token
        exec ray start --head --block --num-cpus=0 --port="${RAY_PORT:-6379}" \
            --dashboard-host="${RAY_DASHBOARD_HOST:-127.0.0.1}" "$@"
        ;;
    worker)
        need_token
        address=${1:?"worker needs the head's address, such as head:6379"}
        exec ray start --block --address="$address" "${@:2}"
        ;;
    job)
        name=${1:?"job needs a name: build_dataset, train, evaluate or pipeline"}
        script="$(dirname "$0")/../jobs/$name.py"
        if [[ ! -f "$script" ]]; then
            echo "there is no job $name" >&2
            exit 64
        fi
        exec python "$script" "${@:2}"
        ;;
    serve)
        exec python "$(dirname "$0")/../jobs/serve.py" "$@"
        ;;
    healthy)
        answers "http://127.0.0.1:${RAY_AGENT_PORT:-52365}/api/local_raylet_healthz" ||
            answers "http://127.0.0.1:${VALIGN_PORT:-8000}/healthz"
        ;;
    help)
        sed -n '2,9s/^# \{0,1\}//p' "$0"
        ;;
    *)
        exec "$role" "$@"
        ;;
esac
