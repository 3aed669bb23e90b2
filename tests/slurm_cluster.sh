#!/usr/bin/env bash
# A real SLURM cluster on this machine, for tests: slurm_cluster.sh start|stop FOLDER [NODES]
# Needs root, and Debian's packages slurm-wlm and munge. `start` writes FOLDER/slurm.conf and ends
# once all nodes are idle; commands find the cluster by SLURM_CONF=FOLDER/slurm.conf.
set -euo pipefail
action=$1
folder=$(realpath -m "$2")
# The name of one node is this machine's, which its processes find each other by.
if [ "${3:-1}" = 1 ]; then names=$(hostname -s); else names=$(seq -f node%g "$3"); fi
conf=$folder/slurm.conf
export SLURM_CONF=$conf

stop() {
    for file in "$folder"/slurmd-*.pid "$folder"/slurmctld.pid "$folder"/munged.pid; do
        if [ -f "$file" ]; then kill "$(cat "$file")" 2>/dev/null || true; fi
    done
    sleep 1
    for file in "$folder"/slurmd-*.pid "$folder"/slurmctld.pid; do
        if [ -f "$file" ]; then kill -9 "$(cat "$file")" 2>/dev/null || true; fi
    done
}

if [ "$action" = stop ]; then
    scancel --user="$(id -un)" 2>/dev/null || true
    stop
    exit
fi

mkdir -p "$folder"/{state,munge}
chmod 755 "$folder"
key=$folder/munge/munge.key
head -c 1024 /dev/urandom > "$key"
chown -R munge:munge "$folder/munge"
chmod 700 "$folder/munge"
chmod 400 "$key"
mkdir -p /run/munge
chown munge:munge /run/munge
chmod 755 /run/munge
socket=/run/munge/kanzoo-$$.socket
runuser -u munge -- munged --socket="$socket" --key-file="$key" --num-threads=2 \
    --log-file="$folder/munge/munged.log" --pid-file="$folder/munge/munged.pid" \
    --seed-file="$folder/munge/munged.seed"
cp "$folder/munge/munged.pid" "$folder/munged.pid"

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
cat > "$conf" <<CONF
ClusterName=kanzoo
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
MpiDefault=none
KillWait=3
MinJobAge=300
SchedulerParameters=sched_interval=1,batch_sched_delay=1
SlurmdParameters=config_overrides
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
PartitionName=tests Nodes=ALL Default=YES MaxTime=60 State=UP
CONF
for name in $names; do
    echo "NodeName=$name NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$(free_port)" \
        "CPUs=$(nproc --all) RealMemory=$memory State=UNKNOWN" >> "$conf"
    mkdir "$folder/spool-$name"
done
slurmctld
for name in $names; do slurmd -N "$name"; done
for _ in $(seq 60); do
    if [ "$(sinfo --noheader --Node --format=%t 2>/dev/null | grep -cx idle)" = "${3:-1}" ]; then
        exit
    fi
    sleep 0.5
done
tail -n 20 "$folder"/slurm*.log >&2
stop
exit 1
