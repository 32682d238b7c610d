"""Low-rank adapters as a transform of parameters: what is trained is small, what the model sees is whole.

LoRA, W = W₀ + (α / r) · A B (Hu et al. 2021, arXiv:2106.09685, section 4.1); with DoRA, W = m · V / ‖V‖ for that same
sum V, ‖·‖ over the inputs of each output and constant in the gradient (Liu et al. 2024, arXiv:2402.09353, sections 4.1
and 4.3).

The trained tree is the part of the parameters' tree that is trained: {"a", "b"[, "m"]} in the place of an adapted
kernel, and a whole leaf where a stage has one that its base lacks, such as a reward model's head. Whole kernels exist
while a step runs, and their gradients too: it is the optimizer's state, the checkpoints and the reference that shrink.
Over quantized kernels (models/quantized_weights.py) neither does.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config import ConfigError, Lora
from jaxtrain.models import quantized_weights
from jaxtrain.types import Axes, Key, Params, sides

Path = tuple[str, ...]
WHOLE = (
    "score"  # branches of this name, wherever they are, are trained as they are: no language model has one
)


def targets(axes: Axes, settings: Lora) -> list[Path]:
    """The kernels that have adapters. Raises ConfigError, listing all, for a pattern that finds none."""
    kernels = ["/".join(path) for path in axes if path[-1] == "kernel"]
    chosen: set[str] = set()
    for pattern in settings.lora_targets.split(","):
        try:
            here = {name for name in kernels if pattern and re.search(pattern, name)}
        except re.error as error:
            raise ConfigError(f"--lora_targets={settings.lora_targets}: {pattern!r}: {error}") from error
        if not here:
            raise ConfigError(
                f"--lora_targets={settings.lora_targets}: {pattern!r} finds none of {', '.join(kernels)}"
            )
        chosen |= here
    return [path for path in axes if "/".join(path) in chosen]


def adapter_axes(axes: Axes, settings: Lora) -> Axes:
    """The logical axes of the trained tree."""
    out = {path: names for path, names in axes.items() if WHOLE in path}
    for path in targets(axes, settings):
        stack, reads, writes = ([axes[path][i] for i in side] for side in sides(axes[path]))
        out[(*path, "a")] = (*stack, *reads, "rank")
        out[(*path, "b")] = (*stack, "rank", *writes)
        if settings.dora:
            out[(*path, "m")] = (*stack, *writes)
    return out


def init(params: Params, key: Key, axes: Axes, settings: Lora) -> Params:
    """The trained tree of parameters f[...]: A is N(0, 1 / inputs) and B is 0, so that it changes nothing yet."""
    rank, kernels = settings.lora_rank, {path: _leaf(params, path) for path in targets(axes, settings)}
    whole = {path: quantized_weights.shape(kernel) for path, kernel in kernels.items()}
    shapes = {path: _shapes(axes[path], shape, rank) for path, shape in whole.items()}
    # One draw for all: XLA takes half a second to compile each generator.
    sizes = [math.prod(a) for a, _ in shapes.values()]
    draws = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    out: Params = {}
    for path in axes:
        if WHOLE in path:
            _put(out, path, _leaf(params, path))
    for (path, (a, b)), draw in zip(shapes.items(), draws, strict=True):
        _, reads, _ = sides(axes[path])
        inputs = math.prod(whole[path][i] for i in reads)
        adapter = {"a": draw.reshape(a) * inputs**-0.5, "b": jnp.zeros(b)}
        if settings.dora:
            adapter["m"] = quantized_weights.column_norms(quantized_weights.in_f32(kernels[path]), reads)
        _put(out, path, adapter)
    return out


def merge(base: Params, trained: Params, axes: Axes, settings: Lora) -> Params:
    """Whole parameters from those that training starts from and the trained tree.

    Quantized kernels stay so, with their adapters beside them. Where the adapters were trained over such, kernels
    f32[...] are rounded first, so that the result is the model that was trained.
    """
    base = quantized_weights.as_trained(base, axes, settings.base_weights)
    out = jax.tree.map(lambda x: x, base)
    for path in axes:
        if WHOLE in path:
            _put(out, path, _leaf(trained, path))
    for path in targets(axes, settings):
        kernel, adapter = _leaf(base, path), _leaf(trained, path)
        scaled = {**adapter, "b": settings.lora_alpha / settings.lora_rank * adapter["b"]}
        if quantized_weights.is_quantized(kernel):
            _put(out, path, {**kernel, **scaled})
        else:
            _put(out, path, quantized_weights.adapted(kernel, scaled, sides(axes[path])))
    return out


def _shapes(names: tuple[str | None, ...], shape: tuple[int, ...], rank: int) -> tuple[tuple, tuple]:
    stack, reads, writes = ([shape[i] for i in side] for side in sides(names))
    return (*stack, *reads, rank), (*stack, rank, *writes)


def _leaf(tree: Params, path: Path) -> Params:
    for name in path:
        tree = tree[name]
    return tree


def _put(tree: Params, path: Path, value: Params) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
