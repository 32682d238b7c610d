"""One row for each objective: what the property tests need to know of it. A new objective adds its row here."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.objectives.next_token import next_token
from jaxtrain.types import LM, Objective
from tests import tiny

VOCAB = 24


class Case(NamedTuple):
    objective: Callable[[LM], Objective]
    batch: Callable[[int], dict[str, np.ndarray]]  # rows -> a ragged batch
    positions: tuple[str, ...]  # columns [B, T] whose content is free where nothing may depend on it
    free: Callable[[dict[str, np.ndarray]], np.ndarray]  # batch -> bool[B, T], where it is free
    arch: dict[str, Any] = {}  # noqa: RUF012  changes to the tiny Llama
    frozen: Any = ()
    like: str = ""  # the case that this one is a variant of


def _packed(rows: int) -> dict[str, np.ndarray]:
    return tiny.batch(rows, 12, VOCAB)


def _with_entropy(rows: int) -> dict[str, np.ndarray]:
    made = _packed(rows)
    logp = -2.0 * made["mask"].sum(1)
    return {**made, "logp": logp.astype(np.float32), "has_logp": (made["row"] % 3 > 0).astype(np.float32)}


def _padding(batch: dict[str, np.ndarray]) -> np.ndarray:
    return batch["segments"] == 0


CASES: dict[str, Case] = {
    "next_token": Case(
        lambda model: functools.partial(next_token, model=model, z_loss=1e-2),
        _packed,
        ("tokens", "targets", "positions"),
        _padding,
    ),
    "next_token_entropy": Case(
        lambda model: functools.partial(next_token, model=model),
        _with_entropy,
        ("tokens", "targets"),
        _padding,
        like="next_token",
    ),
    "masked": Case(
        lambda model: functools.partial(next_token, model=model),
        _packed,
        ("tokens", "targets"),
        _padding,
        arch={"causal": False},
        like="next_token",
    ),
}


def build(case: Case, **changes) -> LM:
    """The case's objective's model, tiny."""
    arch = tiny.shrink(
        "llama3.1-8b", **{"layers": 2, "vocab": VOCAB, "init_std": 0.1, **case.arch, **changes}
    )
    return tiny.model(arch)
