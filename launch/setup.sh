#!/usr/bin/env bash
# Sourced by the launchers, or run on its own to set up and do nothing else:
#
#   launch/setup.sh [EXTRA...]     makes .venv, or brings it up to date, with these extras of setup.py
#
#   JAXTRAIN_ACCELERATOR=cpu|cuda|tpu   instead of looking for a GPU or TPU
#   JAXTRAIN_PYTHON=python3.12          the Python to make .venv with, instead of looking for one
#   JAXTRAIN_EXTRAS=hf                  further extras, separated by commas
#   JAXTRAIN_HASHES=off                 a CPU without the hashes of launch/cpu.lock: for an index with builds of its own

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
TESTED="3.11 3.12 3.13"
LOCKED="cpu filters serve" # the extras that launch/cpu.lock holds

say() { printf 'launch: %s\n' "$*" >&2; }

# fail STATUS MESSAGE...: status 2 says that the same command would fail again.
fail() {
  local status=$1 line
  shift
  for line; do say "$line"; done
  exit "$status"
}

# accelerator [FS]: cpu, cuda or tpu. FS is where the file system's root is mounted.
accelerator() {
  case ${JAXTRAIN_ACCELERATOR:-} in
    cpu | cuda | tpu) echo "$JAXTRAIN_ACCELERATOR" && return ;;
    ?*) fail 2 "JAXTRAIN_ACCELERATOR=$JAXTRAIN_ACCELERATOR: want cpu, cuda or tpu, or leave it unset" ;;
  esac
  case $(command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null) in
    "GPU "*) echo cuda && return ;;
  esac
  # Other devices use the same nodes, so the machine has to be Google's too.
  local node product=''
  [ ! -r "${1:-}/sys/class/dmi/id/product_name" ] || read -r product <"${1:-}/sys/class/dmi/id/product_name"
  for node in "${1:-}"/dev/accel[0-9]* "${1:-}"/dev/vfio/[0-9]*; do
    if [ -e "$node" ] && [[ $product == Google* || -n ${TPU_WORKER_ID:-}${TPU_ACCELERATOR_TYPE:-} ]]; then
      echo tpu && return
    fi
  done
  echo cpu
}

# find_python: the command of a Python to use, a tested version where there is one.
find_python() {
  local candidate version newer='' refused=() candidates=(python3 python3.13 python3.12 python3.11)
  [ -z "${JAXTRAIN_PYTHON:-}" ] || candidates=("$JAXTRAIN_PYTHON")
  for candidate in "${candidates[@]}"; do
    if ! command -v "$candidate" >/dev/null; then
      [ -z "${JAXTRAIN_PYTHON:-}" ] || refused+=("  $candidate: no such command")
      continue
    fi
    # A version manager's shim may be on PATH and still not run.
    version=$("$candidate" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=''
    if [ -z "$version" ]; then
      refused+=("  $candidate: does not run as Python 3")
    elif [ "${version%%.*}" -lt 3 ] || [ "${version#*.}" -lt 11 ]; then
      refused+=("  $candidate: Python $version, too old")
    elif ! "$candidate" -I -c 'import ensurepip, venv' >/dev/null 2>&1; then
      refused+=("  $candidate: Python $version without its venv module (Debian: apt-get install python$version-venv)")
    elif [[ " $TESTED " == *" $version "* ]]; then
      echo "$candidate" && return
    else
      newer=${newer:-$candidate}
    fi
  done
  if [ -n "$newer" ]; then
    say "$newer is newer than the tested Pythons ($TESTED); trying it"
    echo "$newer" && return
  fi
  fail 2 "jaxtrain needs Python 3.11 or newer (tested: $TESTED), with its venv module; found" \
    "${refused[@]:-  none on PATH}" "install one, or name it: JAXTRAIN_PYTHON=/path/to/python3.12"
}

full_version() { "$1" -I -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

# The stamp of an installed extra: what it was installed from.
stamp() {
  printf '%s\n' "$ROOT"
  cat "$ROOT/setup.py" "$ROOT/constraints.txt" "$ROOT/launch/cpu.lock"
}

# locked EXTRA...: whether launch/cpu.lock has all that these need.
locked() {
  local extra
  [ "${JAXTRAIN_HASHES:-on}" != off ] || return 1
  for extra; do
    [[ " $LOCKED " == *" $extra "* ]] || return 1
  done
}

# unusable: why .venv cannot be kept; nothing where it can.
unusable() {
  if [ -e "$VENV/installing" ]; then
    echo "an earlier install did not finish"
  elif [ ! -x "$VENV/bin/python" ]; then
    echo "its Python is gone"
  elif [ "$(<"$VENV/root")" != "$ROOT" ]; then
    echo "it was made for $(<"$VENV/root")"
  elif [ -n "${JAXTRAIN_PYTHON:-}" ] &&
    ! grep -qx "version = $(full_version "$JAXTRAIN_PYTHON")" "$VENV/pyvenv.cfg"; then
    echo "it has another Python than $JAXTRAIN_PYTHON"
  fi
}

# installed EXTRA...: whether .venv has them, from setup.py and constraints.txt as they are now.
installed() {
  local extra wanted
  [ -e "$VENV/root" ] && [ -z "$(unusable)" ] || return 1
  wanted=$(stamp)
  for extra; do
    [ -r "$VENV/installed/$extra" ] && [ "$(<"$VENV/installed/$extra")" = "$wanted" ] || return 1
  done
}

# One install at a time: descriptor 9 holds the lock until it is closed, by a kill too. flock(1) is not everywhere.
lock() {
  exec 9>"$ROOT/.venv.lock"
  "$1" -I -c 'import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("launch: waiting for another launch, which is installing", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)'
}

make_venv() {
  local python=$1 reason
  rmdir "$VENV" 2>/dev/null || true # what a kill right after mkdir leaves
  if [ -e "$VENV" ]; then
    [ -e "$VENV/root" ] || fail 2 "$VENV was not made by launch; move it away: mv .venv .venv.mine"
    reason=$(unusable)
    [ -n "$reason" ] || return 0
    say "removing .venv: $reason"
    rm -rf "$VENV.removed"
    mv "$VENV" "$VENV.removed" # at once, where a kill half-way through rm would leave a part of it
    rm -rf "$VENV.removed"
  fi
  say "making .venv with $("$python" -V)"
  mkdir "$VENV"
  printf '%s\n' "$ROOT" >"$VENV/root"
  : >"$VENV/installing"
  mkdir "$VENV/installed"
  "$python" -m venv "$VENV" >"$VENV/install.log" 2>&1 || install_failed
}

install_failed() {
  tail -n 40 "$VENV/install.log" >&2
  fail 1 "could not install; the whole log is $VENV/install.log" \
    "the usual causes: the package index is out of reach (proxy, PIP_INDEX_URL) or the disk is full; then run it again"
}

pip_install() {
  "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@" \
    >>"$VENV/install.log" 2>&1 || install_failed
}

# install EXTRA...
install() {
  local python extra list
  [ -w "$ROOT" ] || fail 2 "$ROOT is not writable, so .venv cannot be made there"
  python=$(find_python)
  lock "$python"
  if ! installed "$@"; then
    make_venv "$python"
    # The lock is installed whole, so all its extras are there at once.
    # shellcheck disable=SC2086
    ! locked "$@" || set -- $LOCKED
    list=$(IFS=, && echo "$*")
    say "installing jaxtrain[$list], a minute or two the first time (log: $VENV/install.log)"
    : >"$VENV/installing"
    if locked "$@"; then
      pip_install --require-hashes --requirement "$ROOT/launch/cpu.lock"
      pip_install --no-deps --no-build-isolation --editable "${ROOT}[$list]"
    else
      pip_install --constraint "$ROOT/constraints.txt" --editable "${ROOT}[$list]"
    fi
    for extra; do stamp >"$VENV/installed/$extra"; done
    rm "$VENV/installing"
    say "installed in $SECONDS s"
  fi
  exec 9>&-
}

# setup EXTRA...: sets PYTHON and JAX_PLATFORMS. A second call installs nothing.
setup() {
  local kind extras
  kind=$(accelerator '')
  IFS=, read -r -a extras <<<"$kind${JAXTRAIN_EXTRAS:+,$JAXTRAIN_EXTRAS}"
  installed "${extras[@]}" "$@" || install "${extras[@]}" "$@"
  PYTHON=$VENV/bin/python
  # With cpu as the second platform, a GPU or TPU that does not start is an error, not a slow run.
  case $kind in
    cpu) export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} ;;
    *) export JAX_PLATFORMS=${JAX_PLATFORMS:-$kind,cpu} ;;
  esac
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  setup "$@"
  say "ready: $PYTHON, JAX_PLATFORMS=$JAX_PLATFORMS"
fi
