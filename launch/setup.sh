#!/usr/bin/env bash
# Sourced by the launchers, or run on its own to set up and do nothing else:
#
#   launch/setup.sh [EXTRA...]     makes .venv, or brings it up to date, with these extras of setup.py
#
#   JAXTRAIN_ACCELERATOR=cpu|cuda|tpu   instead of looking for a GPU or TPU
#   JAXTRAIN_PYTHON=python3.12          the Python to make .venv with, instead of looking for one
#   JAXTRAIN_EXTRAS=hf                  further extras, separated by commas
#   JAXTRAIN_INSTALLER=pip|uv           instead of uv where it is there, else pip
#   JAXTRAIN_HASHES=off                 a CPU without the hashes of launch/cpu.lock: for an index with builds of its own

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
BEFORE=$ROOT/.venv.before # what .venv was before the install that is under way, its files by hard links
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

# has_gpu [FS], has_tpu [FS]: whether there is one. FS is where the file system's root is mounted.
has_gpu() {
  local node
  case $(command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null) in
    "GPU "*) return 0 ;;
  esac
  for node in "${1:-}"/dev/nvidia[0-9]* "${1:-}"/dev/dxg; do
    [ ! -e "$node" ] || return 0
  done
  return 1
}

has_tpu() {
  # Other devices use the same nodes, so the machine has to be Google's too.
  local node product=''
  [ ! -r "${1:-}/sys/class/dmi/id/product_name" ] || read -r product <"${1:-}/sys/class/dmi/id/product_name"
  [[ $product == Google* || -n ${TPU_WORKER_ID:-}${TPU_ACCELERATOR_TYPE:-} ]] || return 1
  for node in "${1:-}"/dev/accel[0-9]* "${1:-}"/dev/vfio/[0-9]*; do
    [ ! -e "$node" ] || return 0
  done
  return 1
}

# accelerator [FS]: cpu, cuda or tpu.
accelerator() {
  case ${JAXTRAIN_ACCELERATOR:-} in
    cpu | cuda | tpu) echo "$JAXTRAIN_ACCELERATOR" && return ;;
    ?*) fail 2 "JAXTRAIN_ACCELERATOR=$JAXTRAIN_ACCELERATOR: write cpu, cuda or tpu, or leave it unset" ;;
  esac
  case $(command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null) in
    "GPU "*) echo cuda && return ;;
  esac
  if has_tpu "${1:-}"; then echo tpu; else echo cpu; fi
}

# require_device KIND [FS]: before gigabytes are installed for a device that a command would not find.
require_device() {
  case $1 in
    cuda) has_gpu "${2:-}" || fail 2 "JAXTRAIN_ACCELERATOR=cuda: there is no NVIDIA GPU here (nvidia-smi -L lists none)" \
      "leave it unset, or install all the same: launch/setup.sh" ;;
    tpu) has_tpu "${2:-}" || fail 2 "JAXTRAIN_ACCELERATOR=tpu: there is no TPU here (no /dev/accel* or /dev/vfio/* of one)" \
      "leave it unset, or install all the same: launch/setup.sh" ;;
  esac
}

# find_python: the command of a Python to use, a tested version where there is one.
find_python() {
  local candidate version line newer='' refused=() candidates=(python3 python3.13 python3.12 python3.11)
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
      # The shim says which versions there are, and how to choose one.
      while IFS= read -r line; do
        [ -z "$line" ] || refused+=("    $line")
      done < <("$candidate" -I -c pass 2>&1 >/dev/null | head -n 12)
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

# packages_of EXTRA...: the packages that these extras of setup.py name.
packages_of() {
  local python=$1
  shift
  "$python" -I - "$ROOT/setup.py" "$@" <<'PY'
import ast, re, sys
tree = ast.parse(open(sys.argv[1], encoding="utf-8").read())
given = {word.arg: word.value for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords}
extras = ast.literal_eval(given["extras_require"]) if "extras_require" in given else {}
names = [re.match(r"[\w.-]+", line)[0] for extra in sys.argv[2:] for line in extras.get(extra, ())]
print(", ".join(dict.fromkeys(names)))
PY
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

# restore: puts back the .venv that an install which did not finish has changed.
restore() {
  [ -d "$BEFORE" ] || return 0
  if [ -e "$VENV" ] && [ ! -e "$VENV/installing" ]; then # it finished, but for this
    rm -rf "$BEFORE"
    return
  fi
  say "going back to the .venv from before an install that did not finish"
  rm -rf "$VENV.removed"
  [ ! -e "$VENV" ] || mv "$VENV" "$VENV.removed"
  mv "$BEFORE" "$VENV"
  [ ! -e "$VENV.removed/install.log" ] || cp "$VENV.removed/install.log" "$VENV/install.log.new"
  [ ! -e "$VENV/install.log.new" ] || mv "$VENV/install.log.new" "$VENV/install.log"
  rm -rf "$VENV.removed"
}

# remember: keeps what .venv is now for `restore`. Installers replace files and do not write into them, so that hard links
# do; where there are none, files are copied.
remember() {
  rm -rf "$BEFORE" "$BEFORE.part"
  cp -al "$VENV" "$BEFORE.part" 2>/dev/null || { rm -rf "$BEFORE.part" && cp -Rp "$VENV" "$BEFORE.part"; }
  mv "$BEFORE.part" "$BEFORE"
}

make_venv() {
  local python=$1 reason
  rmdir "$VENV" 2>/dev/null || true # what a kill right after mkdir leaves
  if [ -e "$VENV" ]; then
    [ -e "$VENV/root" ] || fail 2 "$VENV was not made by launch; move it away: mv .venv .venv.mine"
    reason=$(unusable)
    if [ -z "$reason" ]; then
      remember
      return
    fi
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
  restore
  fail 1 "could not install; the whole log is $VENV/install.log" \
    "the usual causes: the package index is out of reach (proxy, PIP_INDEX_URL) or the disk is full; then run it again"
}

# log COMMAND...: runs it with its output in the log, a new file: the one that there was may have a second link.
log() {
  "$@" >>"$VENV/install.log" 2>&1
}

# installer: uv where it is there, else pip.
installer() {
  case ${JAXTRAIN_INSTALLER:-} in
    pip | uv) echo "$JAXTRAIN_INSTALLER" ;;
    ?*) fail 2 "JAXTRAIN_INSTALLER=$JAXTRAIN_INSTALLER: write pip or uv, or leave it unset" ;;
    *) if command -v uv >/dev/null; then echo uv; else echo pip; fi ;;
  esac
}

# uv_install ARGUMENT...: as pip_install, with the indexes that pip's environment names.
uv_install() {
  local given=(--python "$VENV/bin/python" --no-progress)
  [ -z "${PIP_NO_INDEX:-}" ] || given+=(--no-index)
  [ -z "${PIP_INDEX_URL:-}" ] || given+=(--default-index "$PIP_INDEX_URL")
  local -x UV_INDEX=${UV_INDEX:-${PIP_EXTRA_INDEX_URL:-}} UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
  [ -z "${PIP_CERT:-}" ] || local -x SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}
  log uv pip install "${given[@]}" "$@"
}

# pip_install ARGUMENT...: by uv, and by pip where there is no uv, or where it fails: it does not read pip's settings.
pip_install() {
  if [ "$(installer)" = uv ]; then
    ! uv_install "$@" || return 0
    [ "${JAXTRAIN_INSTALLER:-}" != uv ] || install_failed
    say "uv could not install; trying pip"
  fi
  log "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@" || install_failed
}

# install EXTRA...
install() {
  local python extra list
  [ -w "$ROOT" ] || fail 2 "$ROOT is not writable, so .venv cannot be made there"
  python=$(find_python)
  lock "$python"
  restore
  if ! installed "$@"; then
    installer >/dev/null
    list=$(packages_of "$python" "$@")
    [ -z "$list" ] || say "$(IFS=, && echo "$*") need $list"
    make_venv "$python"
    # The lock is installed whole, so all its extras are there at once.
    # shellcheck disable=SC2086
    ! locked "$@" || set -- $LOCKED
    list=$(IFS=, && echo "$*")
    say "installing jaxtrain[$list] with $(installer), a minute or two the first time (log: $VENV/install.log)"
    : >"$VENV/installing"
    rm -f "$VENV/install.log"
    if locked "$@"; then
      pip_install --require-hashes --requirement "$ROOT/launch/cpu.lock"
      pip_install --no-deps --no-build-isolation --editable "${ROOT}[$list]"
    else
      pip_install --constraint "$ROOT/constraints.txt" --editable "${ROOT}[$list]"
    fi
    for extra; do
      rm -f "$VENV/installed/$extra" # it may have a second link
      stamp >"$VENV/installed/$extra"
    done
    rm "$VENV/installing"
    rm -rf "$BEFORE"
    say "installed in $SECONDS s"
  fi
  exec 9>&-
}

# setup EXTRA...: sets PYTHON and JAX_PLATFORMS. A second call installs nothing.
setup() {
  local kind extras
  kind=$(accelerator '')
  IFS=, read -r -a extras <<<"$kind${JAXTRAIN_EXTRAS:+,$JAXTRAIN_EXTRAS}"
  if ! installed "${extras[@]}" "$@"; then
    # Run on its own it prepares a machine, or an image, for a device that is elsewhere.
    [ "${BASH_SOURCE[0]}" = "$0" ] || require_device "$kind"
    install "${extras[@]}" "$@"
  fi
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
