"""The preflight of a run: the data as the loss sees it, sizes, memory, cost."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtrain.files.terminal import wrapped

ROWS, SHOWN = 2, 400  # rows shown of the first batch, characters of each


def first_rows(batch: Mapping[str, np.ndarray], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The targets of the first rows as text, one document after the other, each on lines of its own.

    What is not in the loss stands between ⟨ and ⟩, by its number of tokens where it has no text.
    """
    out = []
    for row, count, positions, text in itertools.islice(decoded_rows(batch, decode), ROWS):
        out.append(f"  row {row}: {count} of {positions} positions are in the loss")
        out += wrapped(text[:SHOWN], "    ")
        if len(text) > SHOWN:
            out.append(f"    … and {len(text) - SHOWN} more characters")
    return out


def decoded_rows(
    batch: Mapping[str, np.ndarray], decode: Callable[[Sequence[int]], str]
) -> Iterator[tuple[int, int, int, str]]:
    """(row, positions in the loss, positions, its targets as text) of every row; alternatives are rows one by one."""
    names = ("targets", "mask", "segments")
    flat = {name: batch[name].reshape(-1, batch[name].shape[-1]) for name in names}
    for row, targets in enumerate(flat["targets"]):
        mask, segments = flat["mask"][row] > 0, flat["segments"][row]
        here = [segments == number for number in range(1, segments.max() + 1)]
        text = "\n".join(_marked(targets[at], mask[at], decode) for at in here)
        yield row, int(mask.sum()), len(mask), text


def _marked(targets: np.ndarray, mask: np.ndarray, decode: Callable[[Sequence[int]], str]) -> str:
    edges = np.flatnonzero(np.diff(mask.astype(int), prepend=-1, append=-1))
    parts = []
    for start, stop in itertools.pairwise(edges):
        text = decode([int(t) for t in targets[start:stop]])
        parts.append(text if mask[start] else f"⟨{text or stop - start}⟩")
    return "".join(parts)


def memory(abstract_state: Any, batch: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """Sizes that are known before anything is computed: parameters and training state, over all devices and on one."""
    state = jax.tree.leaves(abstract_state)
    params = jax.tree.leaves(abstract_state.params)
    count = sum(leaf.size for leaf in params)
    total = sum(leaf_bytes(leaf) for leaf in state)
    one = sum(leaf_bytes(leaf, shard=True) for leaf in state)
    return [
        ("parameters", f"{count:,}"),
        ("training state", f"{total / 2**20:,.1f} MiB, {one / 2**20:,.1f} MiB on each device"),
        ("batch", f"{sum(x.nbytes for x in batch.values()) / 2**20:,.2f} MiB on this host"),
    ]


def leaf_bytes(leaf: Any, shard: bool = False) -> int:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 8
    shape = leaf.sharding.shard_shape(leaf.shape) if shard else leaf.shape
    return int(np.prod(shape)) * leaf.dtype.itemsize
