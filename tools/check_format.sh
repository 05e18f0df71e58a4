#!/usr/bin/env bash
# Format of the sources: clang-format 14 with .clang-format, ASCII, no tabs, no trailing blanks, a newline
# at the end. `--fix` lets clang-format rewrite the files.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

mapfile -t code < <(find locus cli tests benchmarks examples -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' \) | sort)
mapfile -t text < <(find locus cli tests benchmarks examples cmake configs tools docs -type f \
  \( -name '*.txt' -o -name '*.cmake' -o -name '*.toml' -o -name '*.sh' -o -name '*.py' -o -name '*.md' \) \
  ! -path 'tests/*/data/*' ! -path 'tests/golden/*' | sort)
text+=(Makefile CMakeLists.txt .ci/run README.md DEVELOPERS.md CONTRIBUTING.md CHANGELOG.md)
failed=0

report() {  # what, lines of grep
  if [ -n "$2" ]; then
    printf '%s:\n%s\n' "$1" "$2"
    failed=1
  fi
}

# Another release of clang-format breaks lines elsewhere: only the one release counts.
formatter=$(command -v clang-format-14 || true)
if [ "${1:-}" = --fix ]; then
  [ -n "$formatter" ] || { echo "clang-format-14 is missing: tools/setup.sh --dev installs it" >&2; exit 1; }
  "$formatter" -i "${code[@]}"
fi
if [ -n "$formatter" ]; then
  report "clang-format would change these (make format does)" \
    "$("$formatter" --dry-run -Werror "${code[@]}" 2>&1 | sed -n 's/:[0-9]*:[0-9]*: error:.*//p' | sort -u)"
else
  echo "format: clang-format-14 is not installed (tools/setup.sh --dev): its check is left out"
fi
report "not ASCII" "$(grep -nP '[^\x00-\x7f]' "${code[@]}" "${text[@]}" || true)"
report "tab" "$(grep -nP '\t' "${code[@]}" || true)"
report "trailing blank" "$(grep -nE '[[:space:]]+$' "${code[@]}" "${text[@]}" || true)"
report "no newline at the end" "$(for f in "${code[@]}" "${text[@]}"; do
  [ -z "$(tail -c 1 "$f")" ] || echo "$f"; done)"

[ $failed = 0 ] && echo "format: ${#code[@]} sources and ${#text[@]} texts are clean"
exit $failed
