#!/usr/bin/env bash
# repeat: run a test binary many times, alone and beside a busy machine, and list every failure.
#
#   repeat [RUNS] [TEST]   RUNS runs alone, then RUNS beside stress-ng (default 10); TEST is all (default: what
#                          `cargo test` runs), it, real or under_fire. MODES="busy" or "alone" leaves out the other.
#
# Prints one line a run: mode, number, seconds, passed, failed, and the names of the tests that failed; then the sum.
# Exits with 1 if a test failed. Installs stress-ng if it is missing (apt, as root). Output of failed runs: target/repeat/.
set -uo pipefail
cd "$(dirname "$0")/.."
runs=${1:-10} test=${2:-all}
case $test in
all) command=(cargo test) ;;
it) command=(cargo test --test it) ;;
real) command=(cargo test --test real -- --test-threads=12) ;;
under_fire) command=(cargo test --release --test under_fire) ;;
*) echo "usage: repeat [RUNS] [all|it|real|under_fire]" >&2; exit 2 ;;
esac
command -v stress-ng >/dev/null || apt-get install -y -qq stress-ng >/dev/null || exit 1
"${command[@]:0:2}" --no-run "${command[@]:2}" >/dev/null 2>&1 || { echo "repeat: the tests do not compile" >&2; exit 1; }
mkdir -p target/repeat

failures=0 total=0
stress=
trap '[ -z "$stress" ] || kill "$stress" 2>/dev/null' EXIT
for mode in ${MODES:-alone busy}; do
  if [ "$mode" = busy ]; then
    stress-ng --quiet --cpu 4 --io 2 &
    stress=$!
  fi
  for run in $(seq "$runs"); do
    log=target/repeat/$mode-$run.log
    began=$SECONDS total=$((total + 1))
    "${command[@]}" >"$log" 2>&1
    status=$?
    passed=$(grep -oE '[0-9]+ passed' "$log" | awk '{ sum += $1 } END { print sum + 0 }')
    failed=$(grep -E '^test .* FAILED$|^FAILED' "$log" | awk '{ print $2 }' | tr '\n' ' ')
    echo "$mode $run: $((SECONDS - began)) s, $passed passed, exit status $status${failed:+, failed: $failed}"
    if [ "$status" -eq 0 ]; then rm "$log"; else failures=$((failures + 1)); fi
  done
done
echo "$total runs, $failures of them failed"
[ "$failures" -eq 0 ]
