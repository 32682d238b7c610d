"""Which numbers of a Hugging Face checkpoint are which parameter.

A parameter is a stack over layers of tensors that hold the same numbers, transposed and with heads flattened, so any
part of a parameter is a part of some tensors.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain.models.zoo import Arch
from jaxtrain.types import Params


class HfTensor(NamedTuple):
    """Where a parameter's numbers stand: the axes of one layer's array, grouped into the axes of a tensor.

    q of [D, H, C] in a tensor of [H·C, D] is ((1, 2), (0,)). A tensor that joins several parameters along its last
    axis has them as `part` 0, 1, ... of `parts`.
    """

    name: str  # with {} for the layer's number, without the prefix that says whose part it is
    axes: tuple[tuple[int, ...], ...]
    part: int = 0
    parts: int = 1

    def whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The tensor's shape, for a layer's array of `shape`."""
        sizes = [math.prod(shape[axis] for axis in group) for group in self.axes]
        return (*sizes[:-1], sizes[-1] * self.parts)

    def piece(self, tensor: Any, shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
        """array[index] of a layer's array of `shape`, read from a tensor that can be sliced."""
        cut, split = [], []
        for group in self.axes:
            inner = math.prod(shape[axis] for axis in group[1:])
            start, stop, _ = index[group[0]].indices(shape[group[0]])
            offset = self.part * shape[group[0]] * inner if group is self.axes[-1] else 0
            cut.append(slice(offset + start * inner, offset + stop * inner))
            split += [stop - start, *(shape[axis] for axis in group[1:])]
        order = [axis for group in self.axes for axis in group]
        array = tensor[tuple(cut)].reshape(split).transpose(np.argsort(order))
        leading = {group[0] for group in self.axes}
        return array[tuple(slice(None) if axis in leading else part for axis, part in enumerate(index))]

    def flat(self, array: np.ndarray) -> np.ndarray:
        """The tensor, or its part, of a whole layer's array."""
        order = [axis for group in self.axes for axis in group]
        return array.transpose(order).reshape(self._replace(parts=1).whole(array.shape))


_BIAS, _VECTOR, _SAME, _TURNED = ((0, 1),), ((0,),), ((0,), (1,)), ((1,), (0,))


def sources(arch: Arch) -> dict[tuple[str, ...], HfTensor]:
    """The source of every parameter that an architecture may have, by the parameter's path."""
    return _gpt2_sources() if arch.positions == "learned" else _llama_sources(arch)


def _llama_sources(arch: Arch) -> dict[tuple[str, ...], HfTensor]:
    sources_by_path = {
        ("embed",): HfTensor("embed_tokens.weight", _SAME),
        ("unembed",): HfTensor("lm_head.weight", _SAME),
        ("norm", "scale"): HfTensor("norm.weight", _VECTOR),
    }
    norms = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    if arch.post_norms:
        norms |= {
            "attention_post_norm": "post_attention_layernorm",
            "mlp_norm": "pre_feedforward_layernorm",
            "mlp_post_norm": "post_feedforward_layernorm",
        }
    for ours, name in norms.items():
        sources_by_path["layers", ours, "scale"] = HfTensor(f"layers.{{}}.{name}.weight", _VECTOR)
    heads = {"q": ((1, 2), (0,)), "k": ((1, 2), (0,)), "v": ((1, 2), (0,)), "out": ((2,), (0, 1))}
    for ours, axes in heads.items():
        name = f"layers.{{}}.self_attn.{'o' if ours == 'out' else ours}_proj"
        sources_by_path["layers", "attention", ours, "kernel"] = HfTensor(f"{name}.weight", axes)
        sources_by_path["layers", "attention", ours, "bias"] = HfTensor(
            f"{name}.bias", _VECTOR if ours == "out" else _BIAS
        )
    for ours in ("q_norm", "k_norm"):
        sources_by_path["layers", "attention", ours, "scale"] = HfTensor(
            f"layers.{{}}.self_attn.{ours}.weight", _VECTOR
        )
    for ours in ("gate", "up", "down"):
        name = f"layers.{{}}.mlp.{ours}_proj"
        sources_by_path["layers", "mlp", ours, "kernel"] = HfTensor(f"{name}.weight", _TURNED)
        sources_by_path["layers", "mlp", ours, "bias"] = HfTensor(f"{name}.bias", _VECTOR)
    return sources_by_path


def _gpt2_sources() -> dict[tuple[str, ...], HfTensor]:
    """GPT-2 multiplies from the left, so its kernels are not turned; q, k and v are one tensor."""
    layer = "h.{}."
    sources_by_path = {
        ("embed",): HfTensor("wte.weight", _SAME),
        ("positions",): HfTensor("wpe.weight", _SAME),
        ("unembed",): HfTensor("lm_head.weight", _SAME),
    }
    norms = {
        ("norm",): "ln_f",
        ("layers", "attention_norm"): f"{layer}ln_1",
        ("layers", "mlp_norm"): f"{layer}ln_2",
    }
    for path, name in norms.items():
        sources_by_path[*path, "scale"] = HfTensor(f"{name}.weight", _VECTOR)
        sources_by_path[*path, "bias"] = HfTensor(f"{name}.bias", _VECTOR)
    for part, ours in enumerate("qkv"):
        sources_by_path["layers", "attention", ours, "kernel"] = HfTensor(
            f"{layer}attn.c_attn.weight", ((0,), (1, 2)), part, 3
        )
        sources_by_path["layers", "attention", ours, "bias"] = HfTensor(
            f"{layer}attn.c_attn.bias", _BIAS, part, 3
        )
    kernels = {
        ("attention", "out"): ("attn.c_proj", ((0, 1), (2,))),
        ("mlp", "up"): ("mlp.c_fc", _SAME),
        ("mlp", "down"): ("mlp.c_proj", _SAME),
    }
    for path, (name, axes) in kernels.items():
        sources_by_path["layers", *path, "kernel"] = HfTensor(f"{layer}{name}.weight", axes)
        sources_by_path["layers", *path, "bias"] = HfTensor(f"{layer}{name}.bias", _VECTOR)
    return sources_by_path


class ParamLeaf(NamedTuple):
    """A parameter, and the tensors that hold it: one, or one a layer."""

    path: tuple[str, ...]
    source: HfTensor
    shape: tuple[int, ...]  # of one layer's array
    tensors: tuple[str, ...]


def leaves(tree: Params, arch: Arch) -> list[ParamLeaf]:
    """The leaves of a tree of parameters, in its order, with where they stand."""
    table, out = sources(arch), []
    for entries, leaf in jax.tree.leaves_with_path(tree):
        path = tuple(entry.key for entry in entries)
        stacked = path[0] == "layers"
        numbers = range(leaf.shape[0]) if stacked else (0,)
        names = tuple(table[path].name.format(i) for i in numbers)
        out.append(ParamLeaf(path, table[path], tuple(leaf.shape[stacked:]), names))
    return out
