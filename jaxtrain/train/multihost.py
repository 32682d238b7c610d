"""What the hosts of a run send each other outside of a step: values, and whether all of them run the same.

Each function is called by all hosts, after processes.initialize. With one host there is nothing to send.
"""

import hashlib
import pickle
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxtrain import config
from jaxtrain.config import ConfigError, Failure
from jaxtrain.train import slowest_host, workdir

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
PACKAGES = ("jaxtrain", "experiments")  # whose code must be the same
LOCAL = ("cache_dir",)  # flags that may differ between hosts
SEEN_WITHIN = 15.0  # seconds in which a network file system shows a new file to the other hosts
LISTED = 3  # differences that a message has
_MISSING = "missing"


def gather(value: T) -> list[T]:
    """The value of each host, in the order of hosts; it may be anything that pickle takes."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    with slowest_host.waiting():
        sizes = multihost_utils.process_allgather(np.int32(len(data))).ravel()
        padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)  # few shapes: each compiles a program
        padded[: len(data)] = data
        rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def barrier() -> None:
    """Waits until every host has come here: what one wrote before it, the others may read after it."""
    gather(None)


def share(count: int) -> slice:
    """This host's part of `count` things of which each is some host's, where the result is gathered."""
    index, hosts = jax.process_index(), jax.process_count()
    return slice(index * count // hosts, (index + 1) * count // hosts)


def gather_results(action: Callable[[], T]) -> list[T]:
    """What an action returns on each host, in the order of hosts.

    Where it raises ConfigError or Failure on one host, all raise it, so that none waits for that one.
    """
    result, error = None, None
    try:
        result = action()
    except (ConfigError, Failure) as caught:
        error = caught
    every = gather((result, error and (isinstance(error, Failure), str(error))))
    if error is not None:
        raise error
    for host, (_, failed) in enumerate(every):
        if failed is not None:
            raise (Failure if failed[0] else ConfigError)(f"host {host} stopped: {failed[1]}")
    return [result for result, _ in every]


def require_same(facts: Mapping[str, Any], remedy: str) -> None:
    """Raises ConfigError, on all hosts, which names what one host has otherwise than the first."""
    digest = hashlib.sha256(repr(sorted(facts.items())).encode()).digest()
    if len(set(gather(digest))) == 1:
        return
    first, *others = gather(dict(facts))
    different = [
        f"{name} is {first.get(name, _MISSING)!r} on host 0, {other.get(name, _MISSING)!r} on host {host}"
        for host, other in enumerate(others, 1)
        for name in {**first, **other}
        if first.get(name, _MISSING) != other.get(name, _MISSING)
    ]
    more = f", and {len(different) - LISTED} more" if len(different) > LISTED else ""
    raise ConfigError(f"the hosts differ: {'; '.join(different[:LISTED])}{more}. {remedy}")


def require_same_start(cfg: config.ConfigT, stage: str) -> None:
    """Raises ConfigError unless all hosts run the same command with the same flags, code and versions."""
    if jax.process_count() == 1:
        return
    flags = {f"--{field.name}": value for _, field, value in config.leaves(cfg) if field.name not in LOCAL}
    versions = {f"the version of {name}": text for name, text in workdir.versions().items()}
    require_same(
        {"the stage": stage} | flags | versions | _code(),
        "Start every host with the same command, the same code and the same packages",
    )


def _code() -> dict[str, str]:
    """Digests of the source files."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in paths}


def require_seen(folder: Path, flag: str) -> None:
    """Raises ConfigError unless every host sees the files that the first one writes to a folder."""
    if jax.process_count() == 1:
        return
    file = folder / f".seen-{secrets.token_hex(8)}"
    first = jax.process_index() == 0
    if first:
        file.touch()
    try:
        name = gather(file.name)[0]
        blind = [host for host, seen in enumerate(gather(_appears(folder / name))) if not seen]
    finally:
        if first:
            file.unlink(missing_ok=True)
    if blind:
        hosts = f"host{'s' * (len(blind) > 1)} {', '.join(map(str, blind))}"
        raise ConfigError(
            f"--{flag}={folder}: {hosts} of {jax.process_count()} cannot see what host 0 writes there: name a folder "
            "on a disk that all hosts mount (NFS, Filestore, Lustre), or in a bucket of gs://"
        )


def _appears(file: Path) -> bool:
    until = time.monotonic() + SEEN_WITHIN
    while not file.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
