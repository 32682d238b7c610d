"""Paths that match a pattern."""

import glob
import os
import re
from collections.abc import Iterator

from jaxtrain.config import ConfigError

_ANY = re.compile(
    r"(?:^|(?<=/))\*\*(?:/+|$)"
)  # the part ** of a pattern: folders, how many and how deep it may be


def matches(pattern: str) -> list[str]:
    """The paths that match a pattern of glob, sorted, each once. ** follows links, but none to a folder that it is in.

    Raises ConfigError for a folder that ** must look into and cannot.
    """
    return sorted(set(_matches(pattern)))


def _matches(pattern: str) -> Iterator[str]:
    part = _ANY.search(pattern)
    if part is None:
        yield from glob.iglob(pattern)
        return
    before, after = pattern[: part.start()], pattern[part.end() :]
    for base in glob.iglob(before) if before else ("",):
        for folder in _folders(base):
            if after:
                yield from _matches(glob.escape(folder) + after)
            elif folder:
                yield folder
            if not after and not pattern.endswith("/"):
                yield from glob.iglob(f"{glob.escape(folder)}*")


def _folders(base: str) -> Iterator[str]:
    """A folder, whose path ends in a slash or is empty, and those inside it, but hidden ones."""
    left: list[tuple[str, frozenset[tuple[int, int]]]] = [(base, frozenset())]
    while left:
        path, above = left.pop()
        try:
            state = os.stat(path or ".")
            here = (state.st_dev, state.st_ino)
            if here in above:
                continue
            names = os.listdir(path or ".")
        except OSError as error:
            raise ConfigError(f"{path or '.'}: cannot be looked into ({error.strerror})") from error
        yield path
        inside = [f"{path}{name}/" for name in names if name[0] != "."]
        left += [(one, above | {here}) for one in inside if os.path.isdir(one)]
