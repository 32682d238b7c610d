#!/usr/bin/env bash
# Runs a stage on a Cloud TPU VM, one process a host, with gcloud:
#
#   launch/tpu_vm.sh [--dry-run] create                      makes the TPU VM
#   launch/tpu_vm.sh [--dry-run] run STAGE [--flag=value]    copies HEAD to every host and starts the stage there
#   launch/tpu_vm.sh [--dry-run] logs                        follows the first host's output
#   launch/tpu_vm.sh [--dry-run] stop                        SIGTERM to the stage on every host: it saves and ends
#   launch/tpu_vm.sh [--dry-run] delete
#
# NAME, ZONE, TYPE, IMAGE and SPOT=1 say which one; the defaults are below. --dry-run prints the commands.
# Put --workdir where every host sees it if there is more than one host, or if SPOT may take the machine: in a bucket,
# --workdir=gs://BUCKET/PATH, which the machine's service account may write, or on a disk that every host mounts.
set -euo pipefail
# shellcheck source=launch/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

NAME=${NAME:-jaxtrain}
ZONE=${ZONE:-us-east5-a}
TYPE=${TYPE:-v5p-16}
IMAGE=${IMAGE:-v2-alpha-tpuv5}

dry=
[ "${1:-}" != --dry-run ] || { dry=1 && shift; }

call() {
  if [ -n "$dry" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}

tpu() { call gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }

# extras ARGUMENTS: those of setup.py that the hosts install.
extras() {
  local names=${JAXTRAIN_EXTRAS:-}
  case $1 in *gs://* | *s3://*) names=${names:+$names,}remote ;; esac
  printf %s "$names"
}

# remote COORDINATOR HOSTS ARGUMENTS: what each host runs. An image's own Python may be too old.
remote() {
  cat <<REMOTE
set -e
mkdir -p jaxtrain && cd jaxtrain
if [ -e stage.pid ] && kill -0 "\$(cat stage.pid)" 2>/dev/null; then
  echo "\$(hostname): a stage is running; stop it first" >&2
  exit 1
fi
tar xzf ../jaxtrain.tgz
export JAXTRAIN_ACCELERATOR=tpu JAXTRAIN_COORDINATOR=$1:8476 JAXTRAIN_NUM_PROCESSES=$2 JAXTRAIN_EXTRAS=$(extras "$3")
JAXTRAIN_PROCESS_ID=\$(curl -sf -H Metadata-Flavor:Google \
  http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number)
export JAXTRAIN_PROCESS_ID
launch/setup.sh || { sudo apt-get update -q && sudo apt-get install -y -q python3.11-venv && launch/setup.sh; }
nohup launch/supervise.py -- launch/run $3>stage.log 2>&1 </dev/null &
echo \$! >stage.pid
REMOTE
}

run_stage() {
  local addresses='HOST_0 HOST_1' archive=jaxtrain.tgz hosts
  [ $# -gt 0 ] || fail 2 "name a stage: launch/tpu_vm.sh run pretrain --workdir=gs://BUCKET/runs/pretrain"
  if [ -z "$dry" ]; then
    addresses=$(tpu describe "$NAME" --format='value[delimiter=" "](networkEndpoints[].ipAddress)')
    archive=$(mktemp -d)/jaxtrain.tgz
  fi
  read -r -a hosts <<<"$addresses"
  call git -C "$ROOT" archive --format=tar.gz --output="$archive" HEAD
  tpu scp "$archive" "$NAME:jaxtrain.tgz" --worker=all
  tpu ssh "$NAME" --worker=all --command="$(remote "${hosts[0]}" "${#hosts[@]}" "$(printf '%q ' "$@")")"
}

action=${1:-}
shift || true
# shellcheck disable=SC2016 # for the hosts to expand
case $action in
  create) tpu create "$NAME" --accelerator-type="$TYPE" --version="$IMAGE" ${SPOT:+--spot} ;;
  run) run_stage "$@" ;;
  logs) tpu ssh "$NAME" --worker=0 --command="tail -n 100 -F jaxtrain/stage.log" ;;
  stop) tpu ssh "$NAME" --worker=all --command='kill -TERM "$(cat jaxtrain/stage.pid)"' ;;
  delete) tpu delete "$NAME" --quiet ;;
  *) fail 2 "usage: launch/tpu_vm.sh [--dry-run] create | run STAGE [--flag=value ...] | logs | stop | delete" ;;
esac
