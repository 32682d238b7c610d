"""Compiled programs in the cache, each with a checksum.

jax stores and reads them, and verifies nothing: of 13 damaged entries of a small program 2 were run as they were, and
what such a program computes nobody knows. jax has no public way to put another cache in the place of its own.
"""

import functools
import hashlib
import sys
from pathlib import Path

_MARK = b"jaxtrain SHA-256"  # between a program and its checksum
_SIZE = hashlib.sha256().digest_size


def sealed(program: bytes) -> bytes:
    """An entry of the cache: the program as jax stores it, and its checksum."""
    return program + _MARK + hashlib.sha256(program).digest()


def unsealed(entry: bytes) -> bytes | None:
    """The program of an entry; None where it has no checksum. Raises ValueError where it differs from its checksum."""
    program, mark = entry[: -_SIZE - len(_MARK)], entry[-_SIZE - len(_MARK) : -_SIZE]
    if mark != _MARK:
        return None
    if hashlib.sha256(program).digest() != entry[-_SIZE:]:
        raise ValueError("it differs from what was written (SHA-256)")
    return program


@functools.cache
def verify(folder: Path) -> None:
    """From now on programs that jax stores in a folder have a checksum, and those that it reads are verified.

    What differs, or has none, is removed with a line, and compiled anew.
    """
    from jax._src.lru_cache import LRUCache

    get, put = LRUCache.get, LRUCache.put

    def verified_get(self: LRUCache, key: str) -> bytes | None:
        entry = get(self, key)
        if entry is None or str(self.path) != str(folder):
            return entry
        path = folder / f"{key}-cache"
        try:
            if (program := unsealed(entry)) is not None:
                return program
            _say_once(folder)
        except ValueError as error:
            print(f"{path}: {error}: compiled anew", file=sys.stderr, flush=True)
        path.unlink(missing_ok=True)
        return None

    def sealed_put(self: LRUCache, key: str, value: bytes) -> None:
        put(self, key, sealed(value) if str(self.path) == str(folder) else value)

    LRUCache.get, LRUCache.put = verified_get, sealed_put


@functools.cache
def _say_once(folder: Path) -> None:
    print(
        f"{folder}: programs without a checksum, of an earlier release or cut off, are compiled anew",
        file=sys.stderr,
        flush=True,
    )
