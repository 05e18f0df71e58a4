#!/usr/bin/env bash
# A model's whole life: one expert, many spawned from it, fewer and fewer tokens for each on two nodes' places,
# smaller models trained inside, and two sizes taken out and the whole one exported, each evaluated and asked for text. Under 20
# minutes on two cores after `make`. Killed anywhere, start it again: it goes on.
#
#   examples/lifecycle.sh [FOLDER...]         text to learn from; without: that of this machine
set -Eeuo pipefail
cd "$(dirname "$0")/.."

readonly kLocus=build/locus kData=runs/lifecycle-data kRun=runs/lifecycle kModels=runs/lifecycle-models

run() {
  printf '\n$'
  printf ' %q' "$@"
  printf '\n'
  "$@"
}

[ -x "$kLocus" ] || { printf 'lifecycle: %s is not there; run make first\n' "$kLocus" >&2; exit 2; }

if [ ! -d "$kData" ]; then
  inputs=("$@")
  if [ ${#inputs[@]} -eq 0 ]; then
    inputs=(python=/usr/lib/python3 manuals=/usr/share/man documents=/usr/share/doc licences=/usr/share/common-licenses)
  fi
  run "$kLocus" prepare --output "$kData" --vocab-size 1024 --max-bytes-per-domain 3000000 \
    --valid-share 0.04 --test-share 0.04 "${inputs[@]}"
fi

resume=()
[ ! -e "$kRun/checkpoints/latest" ] || resume=(--resume)
run python3 tools/ranks.py 2 "$kLocus" train --config configs/lifecycle.toml "${resume[@]}"
run "$kLocus" report "$kRun"
run "$kLocus" search "$kRun" --output "$kModels/family"

for share in 0.25 0.5; do
  [ -d "$kModels/$share" ] || run "$kLocus" extract "$kRun" --budget "flops=$share" --output "$kModels/$share"
done
[ -d "$kModels/1" ] || run "$kLocus" export "$kRun" "$kModels/1"

for size in 0.25 0.5 1; do
  run "$kLocus" eval --checkpoint "$kModels/$size" --data "$kData" --split test
  run "$kLocus" generate --checkpoint "$kModels/$size" --max-new-tokens 40 --temperature 0.8 --prompt 'def '
done
printf '\nlifecycle: the family is in %s/family/search.md, the models beside it, the report in %s/report.html\n' \
  "$kModels" "$kRun"
