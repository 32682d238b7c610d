"""The rows of the sources of a run, and more held-out records where none of those that were chosen can be used."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from jaxtrain.config import ConfigError, Data
from jaxtrain.data import sources
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records
from jaxtrain.files import cache

RowsT = TypeVar("RowsT")
Opened = list[tuple[DataSource, Records]]


class NoneUsable(ConfigError):
    """Of a source's records none can be used."""


def rows_of(
    cfg: Data, train: Opened, held_out: Opened, make: Callable[[str, DataSource, Records], RowsT]
) -> tuple[list[RowsT], list[RowsT]]:
    """(what `make` returns of each source to train on, and of each held-out one).

    `make` is called with the flag, the source and its records, and raises NoneUsable. Where that happens to the records
    that --eval_share holds out of a source, twice as many are held out, those and the next by their hash, until one can
    be used; `train` and `held_out` then have the new records. Raises NoneUsable where half of the records do not help.
    """
    ours = [make("data", *pair) for pair in train]
    theirs: list[RowsT] = []
    for i, (source, records) in enumerate(held_out):
        while len(theirs) == i:
            try:
                theirs.append(make("eval_data" if cfg.eval_data else "data", source, records))
            except NoneUsable as error:
                if cfg.eval_data or records.index is None:
                    raise
                more = _more(train[i][1], records)
                if more is None:
                    raise NoneUsable(
                        f"{error}. These are held out, half of the records; name others with --eval_data"
                    ) from error
                train[i], (_, records) = (source, more[0]), more
                ours[i] = make("data", *train[i])
        held_out[i] = (source, records)
    return ours, theirs


def _more(train: Records, held: Records) -> tuple[Records, Records] | None:
    """(the records to train on, twice as many held out); None where half of them are."""
    numbers = np.concatenate([train.index, held.index])
    count = min(2 * len(held), len(numbers) // 2)
    if count <= len(held):
        return None
    order = numbers[np.argsort(sources.hash_of(numbers))]
    note = f"none of the {len(held):,} records held out can be used: {count:,} are held out"
    sides = []
    for records, chosen, notes in (
        (train, order[count:], train.notes),
        (held, order[:count], (*held.notes, note)),
    ):
        mark = cache.digest(records.fingerprint, "more held out", count)
        sides.append(replace(records, index=np.sort(chosen), fingerprint=mark, notes=notes))
    return sides[0], sides[1]
