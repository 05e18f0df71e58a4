#!/usr/bin/env bash
# Writes the reference pages that are the program's own words: make_docs.sh [PROGRAM [FOLDER]]
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
program=${1:-$root/build/locus}
folder=${2:-$root/docs/reference}

mkdir -p "$folder"
"$program" config > "$folder/configuration.toml"
{
  printf '# Tables of variants\n\nWhat `locus list` prints; `make docs` writes this page.\n'
  for what in routers exchanges presets families experts optimizers schedules; do
    printf '\n## %s\n\n```\n' "$what"
    "$program" list "$what"
    printf '```\n'
  done
} > "$folder/tables.md"
