"""Short names of sources, for metrics: hf:ORG/fineweb-edu:train is fineweb-edu."""

import re
from collections.abc import Sequence

from jaxtrain.data.source_spec import DataSource

_GENERIC = "train test validation valid val dev data part shard".split()  # names of files that say no source


def short_names(sources: Sequence[DataSource]) -> list[str]:
    """A name of each source, all different: the last part of its path, or of two that are alike more of them."""
    for parts in range(1, 9):
        names = [_short(source, parts) for source in sources]
        if len(set(names)) == len(names):
            return names
    return [f"{name}-{i}" for i, name in enumerate(names, 1)]


def _short(source: DataSource, parts: int) -> str:
    *folders, last = [part for part in source.name.split("/") if part] or [source.kind]
    stem = last.split(".")[0].split("*")[0].strip("-_")
    says = bool(stem) and re.sub(r"[-_]?\d+(-of-\d+)?$", "", stem).lower() not in _GENERIC
    own = [*folders[max(0, len(folders) - parts + says) :], stem]
    if parts > 1:
        own = [source.kind, *own, source.split, *(value for _, value in source.options)]
    elif source.kind == "tinytown":
        own = [source.kind, *own]
    return re.sub(r"[^\w.-]+", "-", "-".join(filter(None, own))).strip("-") or source.kind
