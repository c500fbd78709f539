#!/bin/sh
# Runs two shell commands at the same time: side_by_side.sh FIRST SECOND. What the second one says
# comes after the first one's end. Fails if either of them does.
set -u
log=$(mktemp) || exit 1
# In a group of its own, which ends with this script.
setsid sh -c "$2" >"$log" 2>&1 </dev/null &
second=$!
trap 'rm -f "$log"; kill -- -"$second" 2>/dev/null' EXIT
trap 'exit 1' HUP INT TERM

sh -c "$1"
first=$?
wait "$second"
status=$?
cat "$log"
[ "$first" -eq 0 ] && [ "$status" -eq 0 ]
