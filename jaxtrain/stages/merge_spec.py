"""--merge: which models are merged, by what weights, and whether they fit each other. jax is not imported.

--merge=MODEL[*WEIGHT],MODEL[*WEIGHT],...        MODEL is what --init_from takes
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError
from jaxtrain.files import hf_hub
from jaxtrain.models.zoo import Arch
from jaxtrain.stages import export_files, init_from
from jaxtrain.stages.init_from import InitFrom

FROM_BASE = ("task", "ties")  # methods that add differences from a base model to it
# Of an architecture what says nothing about its parameters or its function.
_FREE = ("dropout", "init_std", "family", "max_len")


class MergeInput(NamedTuple):
    """A model that is merged."""

    name: str  # as --merge has it
    start: InitFrom
    weight: float


class Merge(NamedTuple):
    """Models that fit each other, and how they are merged."""

    method: str  # linear, slerp, task, ties
    inputs: tuple[MergeInput, ...]
    base: InitFrom | None
    density: float  # of TIES
    scale: float  # of the merged task vector
    start: InitFrom  # what the result is: architecture, tokenizer, lineage
    notes: tuple[str, ...]  # for people


def resolve(text: str, method: str, base: str, density: float, scale: float) -> Merge:
    """The merge of --merge, --merge_method, --merge_base, --merge_density and --merge_scale.

    Raises ConfigError for models of other architectures or tokenizers, and for weights that the method cannot take.
    """
    pairs = _split(text, method)
    if (method in FROM_BASE) != bool(base):
        if base:
            raise ConfigError(f"--merge_base={base}: acts only with --merge_method={' or '.join(FROM_BASE)}")
        raise ConfigError(
            f"--merge_method={method}: name with --merge_base the model that they were trained from"
        )
    inputs = tuple(MergeInput(name, init_from.load_run(name, "merge"), weight) for name, weight in pairs)
    origins = [one.start.lineage["origin"] for one in inputs]
    for i, one in enumerate(inputs):
        if (first := origins.index(origins[i])) < i:
            raise ConfigError(
                f"--merge={text}: {inputs[first].name} and {one.name} are the same checkpoint; leave out one of them"
            )
    first = inputs[0]
    for one in inputs[1:]:
        _require_same(first.name, first.start, one.name, one.start, "merge")
    start = init_from.load_run(base, "merge_base") if base else None
    if start:
        _require_same(first.name, first.start, base, start, "merge_base")
    result, notes = _result(inputs, method)
    return Merge(method, inputs, start, density, scale, result, notes)


def _split(text: str, method: str) -> list[tuple[str, float]]:
    """(name, weight) of each model; linear and slerp have shares, whose sum is 1."""
    pairs = [_weighted(part.strip(), text, method) for part in text.split(",")]
    if len(pairs) < 2:
        raise ConfigError(f"--merge={text}: name two models or more, such as runs/a*0.5,runs/b*0.5")
    if method == "slerp" and len(pairs) != 2:
        raise ConfigError(f"--merge={text}: slerp takes two models, not {len(pairs)}")
    if method in FROM_BASE:
        return pairs
    total = sum(weight for _, weight in pairs)
    return [(name, weight / total) for name, weight in pairs]


def _weighted(part: str, text: str, method: str) -> tuple[str, float]:
    name, star, number = part.rpartition("*")
    if not star:
        name, number = part, "1"
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight == 0 or (weight < 0 and method != "task"):
        least = "other than 0" if method == "task" else "above 0"
        raise ConfigError(f"--merge={text}: the weight *{number} must be a number {least}, such as *0.5")
    if not name.strip():
        raise ConfigError(f"--merge={text}: a part of it names no model")
    return name.strip(), weight


def _require_same(name: str, one: InitFrom, other_name: str, other: InitFrom, flag: str) -> None:
    """Raises ConfigError where two models differ in architecture or tokenizer."""
    a, b = _shape(one.arch), _shape(other.arch)
    if differences := [f"{key} {a[key]} and {b[key]}" for key in a if a[key] != b[key]]:
        raise ConfigError(
            f"--{flag}: {name} and {other_name} have different architectures ({', '.join(differences)}); only "
            "models of one architecture can be merged"
        )
    if one.tokenizer.fingerprint != other.tokenizer.fingerprint:
        sizes = f"{one.tokenizer.vocab_size} and {other.tokenizer.vocab_size} tokens"
        raise ConfigError(
            f"--{flag}: {name} and {other_name} have different tokenizers ({sizes}): a row of one's embedding "
            "is another token in the other"
        )


def _shape(arch: Arch) -> dict[str, Any]:
    values = dataclasses.asdict(arch)
    table = {"positions table": arch.max_len} if arch.positions == "learned" else {}
    resolved = {"kv_heads": arch.K, "head_width": arch.C}
    return {**{name: value for name, value in values.items() if name not in _FREE}, **resolved, **table}


def _result(inputs: tuple[MergeInput, ...], method: str) -> tuple[InitFrom, tuple[str, ...]]:
    """What the merged model is, and notes on it: the shortest context, the first chat template."""
    models = [one.start for one in inputs]
    contexts = [start.arch.max_len for start in models if start.arch.max_len]
    chosen = next((i for i, start in enumerate(models) if start.tokenizer.chat_template), 0)
    template = models[chosen].tokenizer.chat_template
    others = {start.tokenizer.chat_template for start in models} - {template}
    notes = (f"chat template: that of {inputs[chosen].name}; not all have the same",) if others else ()
    bases = {export_files.base_model(start) for start in models}
    base_origin = models[0].lineage if len(bases) == 1 else {}
    shown = ", ".join(f"{_short(one.name)}*{one.weight:g}" for one in inputs)
    lineage = {
        "run": None, "stage": "merge", "step": None, "parent": base_origin, "origin": f"{method} of {shown}",
    }  # fmt: skip
    arch = dataclasses.replace(models[chosen].arch, max_len=min(contexts, default=0))
    return models[chosen]._replace(arch=arch, lineage=lineage, origins=()), notes


def _short(name: str) -> str:
    """A model's name without its folder; one of the Hub whole."""
    plain = name.removeprefix(hf_hub.PREFIX)
    return (
        plain
        if plain != name and not Path(plain).is_absolute() and plain.count("/") == 1
        else Path(plain).name
    )
