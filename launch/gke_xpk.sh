#!/usr/bin/env bash
# Runs a stage on TPU slices of a GKE cluster, with xpk (pip install xpk):
#
#   launch/gke_xpk.sh [--dry-run] cluster                     makes the cluster
#   launch/gke_xpk.sh [--dry-run] run STAGE [--flag=value]    submits the stage as a workload
#   launch/gke_xpk.sh [--dry-run] list | stop | delete        the workloads, end this one, delete the cluster
#
# CLUSTER, WORKLOAD, TYPE, SLICES, ZONE, PROJECT, IMAGE and SPOT=1 say which; the defaults are below.
# IMAGE is one made from launch/Dockerfile with ACCELERATOR=tpu and pushed to a registry that the cluster reads.
# GKE tells jax where the other processes are. Put --workdir where every host sees it: in a bucket,
# --workdir=gs://BUCKET/PATH (build IMAGE with EXTRAS=remote), or on a volume that every host mounts.
set -euo pipefail
# shellcheck source=launch/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

CLUSTER=${CLUSTER:-jaxtrain}
WORKLOAD=${WORKLOAD:-jaxtrain-${USER:-run}}
TYPE=${TYPE:-v5p-16}
SLICES=${SLICES:-1}
ZONE=${ZONE:-us-east5-a}
IMAGE=${IMAGE:-jaxtrain:tpu}
where=(--cluster="$CLUSTER" --zone="$ZONE" ${PROJECT:+"--project=$PROJECT"})

dry=
[ "${1:-}" != --dry-run ] || { dry=1 && shift; }

call() {
  if [ -n "$dry" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}

action=${1:-}
shift || true
case $action in
  cluster) call xpk cluster create "${where[@]}" --tpu-type="$TYPE" --num-slices="$SLICES" ${SPOT:+--spot} ;;
  run)
    [ $# -gt 0 ] || fail 2 "name a stage: launch/gke_xpk.sh run pretrain --workdir=gs://BUCKET/runs/pretrain"
    call xpk workload create "${where[@]}" --workload="$WORKLOAD" --docker-image="$IMAGE" --tpu-type="$TYPE" \
      --num-slices="$SLICES" --max-restarts=10 --restart-on-exit-codes=1,42 --command="launch/run $(printf '%q ' "$@")"
    ;;
  list) call xpk workload list "${where[@]}" ;;
  stop) call xpk workload delete "${where[@]}" --workload="$WORKLOAD" ;;
  delete) call xpk cluster delete "${where[@]}" ;;
  *) fail 2 "usage: launch/gke_xpk.sh [--dry-run] cluster | run STAGE [--flag=value ...] | list | stop | delete" ;;
esac
