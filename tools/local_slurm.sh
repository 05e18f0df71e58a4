#!/usr/bin/env bash
# A real Slurm on this one machine, for as long as a command runs:
#
#   tools/local_slurm.sh srun -n 4 locus train --config configs/top_k.toml
#   tools/local_slurm.sh sbatch --wait examples/cluster/slurm.sbatch
#
# Controller, node and munge run as processes of this user, on free ports, with their files in a temporary
# folder; all of it is gone at the end, also after Ctrl-C. The exit code is the command's; 77: Slurm is not
# installed and cannot be. Where root runs it, Debian's packages are installed when they are missing.
#
#   LOCAL_SLURM_CPUS=8    tasks that the machine takes at once, whatever cores it has
#   LOCAL_SLURM_NODES=1   nodes that it pretends to be (node1, node2, ...), each with these CPUs; no resolver
#                         knows these names: tasks that meet want MASTER_ADDR=127.0.0.1
#   LOCAL_SLURM_KEEP=DIR  copy the daemons' logs there at the end
set -Eeuo pipefail

readonly kCpus="${LOCAL_SLURM_CPUS:-8}"
readonly kNodes="${LOCAL_SLURM_NODES:-1}"
readonly kPatience_s=30
readonly kSkipped=77

say() { printf 'local_slurm: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

[ $# -gt 0 ] || { sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2; }
[[ $kCpus =~ ^[1-9][0-9]*$ ]] || fail "LOCAL_SLURM_CPUS=$kCpus must be an integer, 1 or more"
[[ $kNodes =~ ^[1-9][0-9]*$ ]] || fail "LOCAL_SLURM_NODES=$kNodes must be an integer, 1 or more"

export PATH="$PATH:/usr/sbin:/sbin"
is_installed() {
  local name
  for name in munged slurmctld slurmd srun; do command -v "$name" >/dev/null || return 1; done
}

install_slurm() {
  is_installed && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "Slurm is missing. Let an administrator install it: apt-get install slurm-wlm munge"
    exit $kSkipped
  fi
  say "installs slurm-wlm and munge with apt-get"
  # RUNLEVEL=1 keeps the packages from starting daemons of their own.
  export DEBIAN_FRONTEND=noninteractive
  RUNLEVEL=1 apt-get -qq -o DPkg::Lock::Timeout=600 update >/dev/null || true
  RUNLEVEL=1 apt-get -y -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 install \
    --no-install-recommends slurm-wlm munge >/dev/null || true
  is_installed || { say "apt-get could not install slurm-wlm and munge"; exit $kSkipped; }
}

folder=""
daemons=()  # process ids, in the order of their start
command_pid=""

is_alive() { kill -0 "$1" 2>/dev/null; }

stop_process() {  # pid: asked first, killed after some seconds
  local i
  kill -TERM "$1" 2>/dev/null || return 0
  for ((i = 0; i < 50; ++i)); do
    is_alive "$1" || return 0
    sleep 0.1
  done
  kill -KILL "$1" 2>/dev/null || true
}

# Before the daemons: a step would outlive them.
end_jobs() {
  local i
  timeout 5 scancel --quiet --user="$(id -un)" 2>/dev/null || return 0
  for ((i = 0; i < 50; ++i)); do
    [ -n "$(timeout 5 squeue --noheader 2>/dev/null)" ] || return 0
    sleep 0.2
  done
  timeout 5 scancel --quiet --signal=KILL --full --user="$(id -un)" 2>/dev/null || true
  sleep 1
}

clean_up() {
  local status=$? i
  trap '' INT TERM HUP
  trap - EXIT
  set +e
  if [ -n "$command_pid" ] && is_alive "$command_pid"; then stop_process "$command_pid"; fi
  [ ${#daemons[@]} -lt 2 ] || end_jobs
  for ((i = ${#daemons[@]} - 1; i >= 0; --i)); do stop_process "${daemons[i]}"; done
  if [ -n "$folder" ]; then
    if [ -n "${LOCAL_SLURM_KEEP:-}" ]; then
      mkdir -p "$LOCAL_SLURM_KEEP"
      cp "$folder"/*.log "$folder"/*.out "$folder"/slurm.conf "$LOCAL_SLURM_KEEP"
    fi
    rm -rf "$folder"
  fi
  exit "$status"
}

start_daemon() {  # name, command: in a session of its own, so that Ctrl-C does not reach it
  local name=$1
  shift
  setsid "$@" >>"$folder/$name.out" 2>&1 </dev/null &
  daemons+=($!)
}

give_up() {
  tail -n 5 "$folder"/*.out "$folder"/*.log >&2
  fail "$@"
}

wait_until() {  # what, command
  local what=$1 end=$((SECONDS + kPatience_s)) pid
  shift
  until "$@" >/dev/null 2>&1; do
    for pid in "${daemons[@]}"; do
      is_alive "$pid" || give_up "a daemon ended before $what"
    done
    [ $SECONDS -lt $end ] || give_up "no $what after $kPatience_s s"
    sleep 0.1
  done
}

free_ports() {  # how many
  python3 - "$1" <<'PYTHON'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in sockets:
    s.bind(("", 0))
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}

node_lines() {  # ports of the nodes
  local i=1 port
  if [ "$kNodes" = 1 ]; then
    echo "NodeName=$host NodeAddr=127.0.0.1 Port=$1 CPUs=$kCpus State=UNKNOWN"
    return
  fi
  for port in "$@"; do
    echo "NodeName=node$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$port CPUs=$kCpus State=UNKNOWN"
    i=$((i + 1))
  done
}

write_conf() {  # ports: the controller's, then the nodes'
  local user controller_port=$1
  shift
  user=$(id -un)
  mkdir -p "$folder/state"
  cat >"$folder/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
PlugStackConfig=$folder/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=10
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
$(node_lines "$@")
PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  : >"$folder/plugstack.conf"
  : >"$folder/cgroup.conf"
}

is_idle() { [ "$(sinfo --noheader --Node --states=idle --format=%N | wc -l)" = "$kNodes" ]; }

start_slurm() {
  local i name ports
  folder=$(mktemp -d "${TMPDIR:-/tmp}/local_slurm.XXXXXX")
  chmod 755 "$folder"  # munge wants its socket to be reachable
  host=$(hostname -s)
  read -ra ports <<<"$(free_ports $((kNodes + 1)))"
  write_conf "${ports[@]}"
  head -c 128 /dev/urandom >"$folder/munge.key"
  chmod 600 "$folder/munge.key"
  start_daemon munged munged --foreground --force --socket="$folder/munge.socket" \
    --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
    --seed-file="$folder/munged.seed"
  wait_until "munge's socket" test -S "$folder/munge.socket"
  export SLURM_CONF="$folder/slurm.conf"
  start_daemon slurmctld slurmctld -D -i
  wait_until "answer of slurmctld" sinfo
  for ((i = 1; i <= kNodes; ++i)); do
    name=$host
    [ "$kNodes" = 1 ] || name=node$i
    start_daemon "slurmd-$name" slurmd -D -N "$name"
  done
  wait_until "idle nodes" is_idle
}

install_slurm
command -v python3 >/dev/null || fail "python3 is missing"
host=""
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
# What an outer Slurm has set is not about this one.
for name in $(compgen -e | grep -E '^(SLURM|SBATCH|SALLOC|SRUN)' || true); do unset "$name"; done
start_slurm
# In the background: bash runs traps at once only while it waits.
"$@" <&0 &
command_pid=$!
status=0
wait "$command_pid" || status=$?
command_pid=""
exit "$status"
