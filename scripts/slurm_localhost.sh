#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, to try launcher=slurm. Needs root and Debian's packages:
#   apt-get install slurm-wlm munge
# usage: scripts/slurm_localhost.sh start|stop [FOLDER]      FOLDER holds configuration, state and logs
# Afterwards: export SLURM_CONF=FOLDER/slurm.conf
set -euo pipefail

action=${1:-start}
folder=$(realpath -m "${2:-/tmp/slurm_localhost}")
host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf

stop() {
    for daemon in slurmctld slurmd munged; do
        if [ -f "$folder/$daemon.pid" ]; then
            kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
            rm -f "$folder/$daemon.pid"
        fi
    done
}

configure() {
    mkdir -p "$folder"/{state,spool,munge}
    chmod 700 "$folder/munge"
    [ -f "$folder/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
    cat >"$SLURM_CONF" <<CONF
ClusterName=localhost
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=10
MinJobAge=300
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10
CONF
}

start() {
    stop
    configure
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --seed-file="$folder/munge/seed" --log-file="$folder/munge/log"
    slurmctld -c
    slurmd -N "$host"
    for _ in $(seq 30); do
        if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then
            sinfo
            return
        fi
        sleep 1
    done
    echo "the node did not come up; see $folder/slurmctld.log and $folder/slurmd.log" >&2
    exit 1
}

case $action in
    start) start ;;
    stop) stop ;;
    *) echo "usage: $0 start|stop [FOLDER]" >&2; exit 2 ;;
esac
