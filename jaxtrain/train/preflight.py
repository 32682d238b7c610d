"""What a run is about to do, shown before it does it: the data as the loss sees it, sizes, memory, cost."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

ROWS, WIDTH = 2, 400  # rows shown of the first batch, characters of each


def lines(table: Iterable[tuple[str, Any]]) -> list[str]:
    """A two-column table as text."""
    table = [(name, str(value)) for name, value in table]
    wide = max((len(name) for name, _ in table), default=0)
    return [f"  {name:<{wide}}  {value}" for name, value in table]


def first_rows(batch: Mapping[str, np.ndarray], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The targets of the first rows as text; what is not in the loss stands between ⟨ and ⟩."""
    out = []
    for row in range(min(ROWS, len(batch["targets"]))):
        targets, mask = batch["targets"][row], batch["mask"][row] > 0
        edges = np.flatnonzero(np.diff(mask.astype(int), prepend=-1, append=-1))
        parts = []
        for start, stop in itertools.pairwise(edges):
            text = decode([int(t) for t in targets[start:stop]])
            parts.append(text if mask[start] else f"⟨{text or stop - start}⟩")
        text = "".join(parts)
        text = text if len(text) <= WIDTH else f"{text[:WIDTH]} … ({len(text) - WIDTH} more characters)"
        out.append(f"  row {row}: {text!r}" if "\n" not in text else _indent(f"row {row}:", text))
    return out


def _indent(head: str, text: str) -> str:
    return "\n".join([f"  {head}", *(f"    {line}" for line in text.splitlines())])


def memory(abstract_state: Any, batch: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """Sizes that are known before anything is computed: parameters and training state, over all devices and on one."""
    state = jax.tree.leaves(abstract_state)
    params = jax.tree.leaves(abstract_state.params)
    count = sum(leaf.size for leaf in params)
    total = sum(_bytes(leaf) for leaf in state)
    one = sum(_bytes(leaf, shard=True) for leaf in state)
    return [
        ("parameters", f"{count:,}"),
        ("training state", f"{total / 2**20:,.1f} MiB, {one / 2**20:,.1f} MiB on each device"),
        ("batch", f"{sum(x.nbytes for x in batch.values()) / 2**20:,.2f} MiB on this host"),
    ]


def _bytes(leaf: Any, shard: bool = False) -> int:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 8
    shape = leaf.sharding.shard_shape(leaf.shape) if shard else leaf.shape
    return int(np.prod(shape)) * leaf.dtype.itemsize
