#!/usr/bin/env bash
# Runs a stage in several processes on this machine, as they would run on several:
#
#   launch/local.sh [--dry-run] N STAGE [--flag=value ...]
#
# On a CPU each process has JAX_NUM_CPU_DEVICES devices (default 1), on GPUs process i has GPU i.
# A line of process i begins with [i].
# The first process that ends with a failure ends the others. Ctrl-C and SIGTERM reach all of them: they save and end,
# or are killed after JAXTRAIN_STOP_WITHIN seconds (default 60), or at a second Ctrl-C. The exit status is then 130 or 143.
set -euo pipefail
# shellcheck source=launch/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

dry=
[ "${1:-}" != --dry-run ] || { dry=1 && shift; }
n=${1:-}
if [[ ! $n =~ ^[1-9][0-9]*$ || $# -lt 2 ]]; then
  fail 2 "usage: launch/local.sh [--dry-run] N STAGE [--flag=value ...]"
fi
shift
stop_within=${JAXTRAIN_STOP_WITHIN:-60}
[[ $stop_within =~ ^[1-9][0-9]*$ ]] || fail 2 "JAXTRAIN_STOP_WITHIN=$stop_within: write a number of seconds, above 0"
kind=$(accelerator '')
[ "$kind" != tpu ] || fail 2 "one process drives all TPU chips of a machine: use launch/run"
[ -n "$dry" ] || setup

# prefixed I: its input, each line behind [I], without what the library of collectives on CPUs prints at every start.
prefixed() {
  trap '' INT TERM HUP # it ends with the process whose lines it reads, which may print while it stops
  local line
  while IFS= read -r line || [ -n "$line" ]; do
    [[ $line == '[Gloo] Rank '*' is connected to '* ]] || printf '[%d] %s\n' "$1" "$line"
  done
}

pids=()
readers=()
address=127.0.0.1:$((20000 + $$ % 12000)) # a port of this run's own, below those that the system hands out
for ((i = 0; i < n; i++)); do
  process=(
    "JAXTRAIN_COORDINATOR=$address"
    "JAX_COORDINATOR_BIND_ADDRESS=$address"
    "JAXTRAIN_NUM_PROCESSES=$n"
    "JAXTRAIN_PROCESS_ID=$i"
    "JAXTRAIN_STOP_WITHIN=$stop_within"
  )
  case $kind in
    cpu) process+=("JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-1}") ;;
    cuda) process+=("JAX_LOCAL_DEVICE_IDS=$i") ;;
  esac
  process+=("$ROOT/launch/run" "$@")
  if [ -n "$dry" ]; then
    printf '%q ' "${process[@]}" && echo
  else
    exec 7> >(prefixed "$i")
    readers+=($!)
    exec 8> >(prefixed "$i" >&2)
    readers+=($!)
    # TF_CPP_MIN_LOG_LEVEL=2: of the compiler's own messages only errors.
    env "TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}" "${process[@]}" >&7 2>&8 7>&- 8>&- &
    pids+=($!)
    exec 7>&- 8>&-
  fi
done
[ -z "$dry" ] || exit 0

kill_at=

# stop SECONDS: SIGTERM to all, and SIGKILL to those still there after so long: one that hangs does not see SIGTERM.
stop() {
  kill -TERM "${pids[@]}" 2>/dev/null || true
  kill_at=$((SECONDS + $1))
}

received=
on_signal() {
  received=${received:-$1}
  if [ -n "$kill_at" ]; then kill_at=0; else stop "$stop_within"; fi
}
trap 'on_signal 2' INT
trap 'on_signal 15' TERM
trap 'on_signal 1' HUP

status=0
while ((${#pids[@]})); do
  sleep 0.2 || true
  running=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      running+=("$pid")
    else
      code=0
      wait "$pid" || code=$?
      ((status)) || status=$code
    fi
  done
  pids=(${running[@]+"${running[@]}"})
  ((${#pids[@]})) || continue
  if ((status)) && [ -z "$kill_at" ]; then
    say "a process ended with status $status; stopping the others"
    stop 10
  elif [ -n "$kill_at" ] && ((SECONDS >= kill_at)); then
    say "${#pids[@]} processes have not ended; killing them"
    kill -KILL "${pids[@]}" 2>/dev/null || true
  fi
done
# The last lines are printed soon; a process that one of them has started may hold its output open for long.
for _ in {1..50}; do
  kill -0 "${readers[@]}" 2>/dev/null || break
  sleep 0.1
done
# All of them got SIGTERM, whatever came here.
[ "$status" != 143 ] || [ -z "$received" ] || status=$((128 + received))
exit "$status"
