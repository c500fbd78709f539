#!/bin/sh
# What share of each program's CPU time is spent in the allocator: what could be won if allocation
# cost nothing. share.sh [SCRIPT...], of harness/workloads without .lua; needs perf. Page faults
# that the program's own writes raise count as the program's.
set -eu
cd "$(dirname "$0")/.."

command -v perf >/dev/null || { echo "share.sh: perf is missing (Debian: linux-perf)" >&2; exit 1; }
[ $# -gt 0 ] || set -- tables strings closures json growth binary_trees k_nucleotide richards \
  deltablue havlak cd json_objects bounce lru_cache coroutine_storm string_builders lpeg_grammar \
  cjson_documents router templates grow8m
# This compiles the host that runs them.
cargo run --quiet --release --package ebbtide-programs --bin programs -- --quick --only json >/dev/null
data=$(mktemp)
trap 'rm -f "$data"' EXIT

# Prints the share of the functions that a pattern names.
share() {
  perf record --quiet --event cpu-clock --freq 4000 --output "$data" -- \
    target/programs/host --allocator "$2" "harness/workloads/$1.lua" >/dev/null
  perf report --input "$data" --stdio --sort symbol 2>/dev/null |
    awk -v pattern="$3" '
      /^ *[0-9.]+%/ { share = $1 + 0; all += share; if ($0 ~ pattern) ours += share }
      END { printf "%6.1f %%", 100 * ours / all }'
}

printf '%-17s %8s  %8s\n' script ebbtide built-in
for script; do
  printf '%-17s %s  %s\n' "$script" "$(share "$script" ebbtide 'ebb_|ebbtide::')" \
    "$(share "$script" builtin 'lj_alloc_|release_unused')"
done
