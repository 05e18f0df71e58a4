#!/usr/bin/env bash
# Trains on the machines of a hostfile, with Open MPI over SSH:
#
#   run_with_hostfile.sh --config my.toml --set train.output_dir=/shared/runs/my
#
# The arguments are those of `locus train`. Start it again and it goes on from the last checkpoint.
#   HOSTFILE  default: hostfile beside this script
#   LOCUS     the program, under the same path on all machines; default: locus
#   MASTER_PORT  a port that is free on the first machine; default: 29500
set -euo pipefail

readonly kHostfile=${HOSTFILE:-$(dirname "$0")/hostfile}
readonly kLocus=${LOCUS:-locus}

[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }

first_host=$(awk '!/^[[:space:]]*(#|$)/ {print $1; exit}' "$kHostfile")
[ -n "$first_host" ] || { echo "run_with_hostfile.sh: $kHostfile names no machine" >&2; exit 2; }

# Rank 0 is the first rank of the first machine, and listens there. Threads of a rank need more cores than
# the one that mpirun would bind it to.
exec mpirun --hostfile "$kHostfile" --map-by slot --bind-to none \
  -x PATH -x MASTER_ADDR="$first_host" -x MASTER_PORT="${MASTER_PORT:-29500}" \
  "$kLocus" train --resume "$@"
