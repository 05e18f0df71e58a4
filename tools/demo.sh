#!/usr/bin/env bash
# The main job of Locus from nothing: program, corpus, training, evaluation, samples, report (`make demo`).
# Every step is a plain command, printed before it runs. Killed anywhere, start it again: what is done is
# kept, and the training goes on from its last checkpoint.
set -Eeuo pipefail
cd "$(dirname "$0")/.."

readonly kData=runs/demo-data
readonly kRun=runs/demo
readonly kLocus=build/locus

phase() { printf '\n== %s  [%dm%02ds so far]\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }
run() {
  printf '$'
  printf ' %q' "$@"
  printf '\n'
  "$@"
}
explain_failure() {
  case $1 in
    130 | 143) printf '\ndemo: interrupted; make demo goes on from here\n'; return ;;
  esac
  printf '\ndemo: the command above failed. When its message says what to change, change it and start\n'
  printf 'make demo again: it goes on where it stopped. To begin anew: rm -r %s %s\n' "$kRun" "$kData"
} >&2

# Domains of the corpus: text that nearly every machine has. Arguments: domain, folders.
domains=()
add_domain() {
  local name=$1 folder found=""
  shift
  for folder in "$@"; do
    if [ -d "$folder" ] && [ -n "$(find -L "$folder" -type f -size +0 -print -quit 2>/dev/null)" ]; then
      domains+=("$name=$folder")
      found=yes
    fi
  done
  [ -n "$found" ] || printf 'demo: no text in %s: the corpus goes without the domain %s\n' "$*" "$name"
}

prepare() {
  add_domain c-headers /usr/include
  add_domain python /usr/lib/python3 /usr/lib/python3.[0-9]*
  add_domain manuals /usr/share/man
  add_domain documents /usr/share/doc
  add_domain licences /usr/share/common-licenses
  # `prepare` puts a data set under its final name only when it is complete.
  if [ -d "$kData" ]; then
    printf 'demo: %s is there already (rm -r %s makes it anew)\n' "$kData" "$kData"
    return
  fi
  run "$kLocus" prepare --output "$kData" --vocab-size 4096 --max-bytes-per-domain 6000000 \
    --valid-share 0.04 --test-share 0.04 --tokenizer-sample-bytes 8000000 "${domains[@]}"
}

is_finished() { grep -qsE '"reason": ?"finished"' "$kRun/metrics.jsonl"; }

train() {
  local resume=()
  if is_finished && [ ! -e "$kRun/report.html" ]; then
    printf 'demo: the training of %s has finished already: going on with what follows it\n' "$kRun"
    return
  elif is_finished; then
    printf 'demo: the finished run %s moves to %s.previous\n' "$kRun" "$kRun"
    rm -rf "$kRun.previous"
    mv "$kRun" "$kRun.previous"
  elif [ -e "$kRun/checkpoints/latest" ]; then
    printf 'demo: an interrupted run is there: going on from its last checkpoint\n'
    resume=(--resume)
  else
    rm -rf "$kRun"  # stopped before its first checkpoint
  fi
  run python3 tools/ranks.py 2 "$kLocus" train --config configs/demo.toml "${resume[@]}"
}

sample() {
  rm -f "$kRun/samples.txt"  # generate appends
  run "$kLocus" generate --checkpoint "$kRun" --max-new-tokens 100 --temperature 0.8 \
    --prompt '#include <' --prompt 'def ' --prompt 'This program is free software' \
    --output "$kRun/samples.txt"
}

main() {
  # One demo at a time; what it starts inherits the lock, so it holds until that has ended too.
  mkdir -p runs
  exec 9>runs/.demo.lock
  flock -n 9 || { echo "demo: another make demo is at work in this folder" >&2; exit 1; }

  local cores minutes
  cores=$(nproc)
  minutes=$((2 + 18 / cores))
  cat <<TEXT
Locus demo: a mixture-of-experts language model from raw text to a report on this machine ($cores cores).
  1 set-up    installs what is missing        under a second, or 1 to 6 minutes the first time
  2 build     compiles build/locus            about $minutes minutes the first time
  3 corpus    tokenises text of this machine  half a minute the first time
  4 training  a small LocMoE GPT, two ranks   about 5 minutes
  5 to 7      perplexity, samples, report     half a minute
TEXT
  phase "1/7 set-up: packages and libtorch"
  make --no-print-directory setup
  phase "2/7 build"
  make --no-print-directory program
  trap 'explain_failure $?' ERR

  phase "3/7 corpus: headers, Python sources, manuals, documents, licences -> $kData"
  prepare
  phase "4/7 training, two ranks in the places of two nodes: $kRun (Ctrl-C writes a checkpoint; start again to go on)"
  train
  phase "5/7 perplexity by domain on documents that the training has not seen"
  run "$kLocus" eval --checkpoint "$kRun" --data "$kData" --split test --output "$kRun/eval.json"
  phase "6/7 samples"
  sample
  phase "7/7 report"
  run "$kLocus" report "$kRun" --output "$kRun/report.html"

  cat <<TEXT

Done in $((SECONDS / 60))m$((SECONDS % 60))s. The report is $kRun/report.html: open it in a browser. Next, try:
  $kLocus generate --checkpoint $kRun --prompt 'int main('
  $kLocus train --config configs/top_k.toml
  $kLocus report $kRun runs/top_k --output runs/compare.html
TEXT
}

main "$@"
