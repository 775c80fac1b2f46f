#!/usr/bin/env bash
# A Ray cluster on this machine: a head and one worker node, each with one core, to try launcher=ray.
#   pip install 'peftbench[ray]'
# usage: scripts/ray_localhost.sh start|stop [PORT]     uses $RAY (default: the ray on PATH)
# Then: RAY_AUTH_MODE=token python -m peftbench -m ... launcher=ray launcher.address=127.0.0.1:PORT
set -euo pipefail

action=${1:-start}
port=${2:-6390}
ray=${RAY:-ray}
folder=/tmp/ray_localhost_$port
export RAY_USAGE_STATS_ENABLED=0
# Said to both nodes: with a token in ~/.ray, which launcher.address=null leaves there, a head takes to asking for it,
# and a node or a command that was not told does not get in.
export RAY_AUTH_MODE=token
# a busy machine needs longer than the default half minute to start a node
export RAY_raylet_start_wait_time_s=${RAY_raylet_start_wait_time_s:-180}

# Ray's workers otherwise have niceness 15, with which a busy machine gives them next to nothing.
export RAY_worker_niceness=${RAY_worker_niceness:-0}

# Named ports: a node otherwise gives its agents 15 seconds to choose theirs, too few on a busy machine.
agent_ports() {
    echo "--dashboard-agent-grpc-port=$((port + $1)) --dashboard-agent-listen-port=$((port + $1 + 1))" \
        "--metrics-export-port=$((port + $1 + 2)) --runtime-env-agent-port=$((port + $1 + 3))"
}

case $action in
    start)
        "$ray" get-auth-token --generate >/dev/null
        "$ray" start --head --node-ip-address=127.0.0.1 --port="$port" --num-cpus=1 --include-dashboard=false \
            --disable-usage-stats --temp-dir="$folder" $(agent_ports 1)
        "$ray" start --address="127.0.0.1:$port" --node-ip-address=127.0.0.1 --num-cpus=1 --disable-usage-stats \
            $(agent_ports 11)
        # the first report of a new cluster takes some seconds
        for _ in $(seq 60); do
            report=$("$ray" status --address="127.0.0.1:$port" 2>/dev/null || true)
            if [[ $(grep -c '^ 1 node_' <<<"$report") == 2 ]]; then
                echo "$report"
                exit 0
            fi
            sleep 1
        done
        echo "the two nodes did not report within a minute; look into $folder/session_latest/logs" >&2
        exit 1
        ;;
    stop)
        # ends every Ray process of this user on this machine
        "$ray" stop
        ;;
    *)
        echo "usage: $0 start|stop [PORT]" >&2
        exit 2
        ;;
esac
