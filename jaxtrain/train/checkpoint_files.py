"""The files of a checkpoint that are read before its arrays: the metadata, and checksums of what Orbax has written.

Orbax reads damaged files of its own in part, goes on in background threads, and prints what those raise. So they are
verified before it opens them. jax is not imported here.
"""

import json
from pathlib import Path
from typing import Any

from jaxtrain.config import is_remote
from jaxtrain.files import atomic, checksums, paths

STATE, META = "state", "meta"  # Orbax's names of a checkpoint's items
LARGEST = 1 << 20  # bytes of a file that is verified whole; of larger ones, which hold arrays, the size is
_NOT_READ = ("_sharding",)  # what restoring does without


class DamagedMeta(ValueError):
    """The metadata of a checkpoint cannot be read. The message names the file."""


def read_meta(step: Path) -> dict[str, Any]:
    """{"meta", "leaves", ...} as they were saved, without their checksum. Raises DamagedMeta."""
    file = _meta_file(step)
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        if body.pop("sha256") != checksums.json_sha256(body):
            raise ValueError("it differs from what was written (SHA-256)")
        return dict(body)
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedMeta(f"{file} is damaged: {error}") from error


def sealed_meta(body: dict[str, Any]) -> dict[str, Any]:
    """What `read_meta` reads, with its checksum."""
    return {**body, "sha256": checksums.json_sha256(body)}


def replace_meta(step: Path, meta: dict[str, Any]) -> None:
    """Replaces the `meta` of a checkpoint by other JSON values. Raises DamagedMeta."""
    body, meta = read_meta(step), json.loads(json.dumps(meta))
    if body["meta"] != meta:
        atomic.write_text(_meta_file(step), json.dumps(sealed_meta({**body, "meta": meta})))


def write_checksums(state: Path) -> None:
    """Writes checksums.json of the folder in which Orbax has saved a state, before the checkpoint is complete."""
    checksums.write(state, _NOT_READ, largest=LARGEST, sizes=_sizes(state))


def damage(state: Path) -> tuple[str, str]:
    """(what differs in the folder of a state from its checksums.json, what is wrong with that file itself).

    Both are empty where nothing is, and in a checkpoint of an earlier release, which has no such file.
    """
    try:
        checksums.read(state)
    except ValueError as error:
        return "", str(error)
    return next(checksums.wrong(state, sizes=_sizes(state)), ""), ""


def _meta_file(step: Path) -> Path:
    return step / META / "metadata"


def _sizes(folder: Path) -> dict[str, int] | None:
    return paths.sizes(folder) if is_remote(folder) else None
