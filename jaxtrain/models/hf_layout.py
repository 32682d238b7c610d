"""Which numbers of a Hugging Face checkpoint are which parameter.

A parameter is a stack over layers, and over experts, of tensors that hold the same numbers, transposed and with heads
flattened, so any part of a parameter is a part of some tensors.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain.models import hf_families
from jaxtrain.models.zoo import Arch
from jaxtrain.types import Params


class HfTensor(NamedTuple):
    """Where a parameter's numbers stand: the axes of one layer's array, grouped into the axes of a tensor.

    q of [D, H, C] in a tensor of [H·C, D] is ((1, 2), (0,)). A tensor that holds several parameters has each from
    `start` on along `axis`, `total` being its length there; or, with `parts`, it has head 0 of all of them in turn,
    then head 1, and this parameter is number `part`.
    """

    name: (
        str  # with {} for the layer's number, and an expert's, without the prefix that says whose part it is
    )
    axes: tuple[tuple[int, ...], ...]
    axis: int = 0
    start: int = 0
    total: int = 0  # 0: no other parameter stands before or behind this one
    part: int = 0
    parts: int = 1

    def whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The tensor's shape, for a layer's array of `shape`."""
        sizes = [math.prod(shape[axis] for axis in group) for group in self.axes]
        sizes[self.axis] = self.total or sizes[self.axis] * self.parts
        return tuple(sizes)

    def piece(self, tensor: Any, shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
        """array[index] of a layer's array of `shape`, read from a tensor that can be sliced."""
        cut, split = [], []
        for number, group in enumerate(self.axes):
            inner = math.prod(shape[axis] for axis in group[1:])
            start, stop, _ = index[group[0]].indices(shape[group[0]])
            offset, parts = (self.start, self.parts) if number == self.axis else (0, 1)
            cut.append(slice(offset + start * parts * inner, offset + stop * parts * inner))
            split += [stop - start, parts, *(shape[axis] for axis in group[1:])]
        array = tensor[tuple(cut)].reshape(split)
        for number in range(len(self.axes)):
            before = (slice(None),) * (sum(map(len, self.axes[:number])) + 1)
            array = array[*before, self.part if number == self.axis else 0]
        array = array.transpose(np.argsort([axis for group in self.axes for axis in group]))
        leading = {group[0] for group in self.axes}
        return array[tuple(slice(None) if axis in leading else part for axis, part in enumerate(index))]

    def flat(self, array: np.ndarray) -> np.ndarray:
        """The tensor, or this parameter's part of it, of a whole layer's array."""
        sizes = self._replace(total=0, parts=1).whole(array.shape)
        return array.transpose([axis for group in self.axes for axis in group]).reshape(sizes)

    def put(self, tensor: np.ndarray, array: np.ndarray) -> None:
        """Writes a whole layer's array where it stands in the tensor."""
        flat = self.flat(array)
        if self.parts > 1:
            before, after = flat.shape[: self.axis], flat.shape[self.axis + 1 :]
            count = array.shape[self.axes[self.axis][0]]
            parts = tensor.reshape(*before, count, self.parts, -1, *after)
            parts[(slice(None),) * (self.axis + 1) + (self.part,)] = flat.reshape(*before, count, -1, *after)
        else:
            stop = self.start + flat.shape[self.axis]
            tensor[(slice(None),) * self.axis + (slice(self.start, stop),)] = flat


_BIAS, _VECTOR, _SAME, _TURNED = ((0, 1),), ((0,),), ((0,), (1,)), ((1,), (0,))
_HEADS, _OUT = ((1, 2), (0,)), ((2,), (0, 1))

Path = tuple[str, ...]


def sources(arch: Arch) -> dict[Path, HfTensor]:
    """The source of every parameter that an architecture may have, by the parameter's path."""
    return _LAYOUTS[hf_families.FAMILIES[hf_families.nearest(arch)].layout](arch)


def _llama_sources(arch: Arch) -> dict[Path, HfTensor]:
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
    for ours in ("q", "k", "v", "out"):
        name = f"layers.{{}}.self_attn.{'o' if ours == 'out' else ours}_proj"
        axes, bias = (_OUT, _VECTOR) if ours == "out" else (_HEADS, _BIAS)
        sources_by_path["layers", "attention", ours, "kernel"] = HfTensor(f"{name}.weight", axes)
        sources_by_path["layers", "attention", ours, "bias"] = HfTensor(f"{name}.bias", bias)
    for ours in ("q_norm", "k_norm"):
        sources_by_path["layers", "attention", ours, "scale"] = HfTensor(
            f"layers.{{}}.self_attn.{ours}.weight", _BIAS if arch.qk_norm_joint else _VECTOR
        )
    for ours in ("gate", "up", "down"):
        name = f"layers.{{}}.mlp.{ours}_proj"
        sources_by_path["layers", "mlp", ours, "kernel"] = HfTensor(f"{name}.weight", _TURNED)
        sources_by_path["layers", "mlp", ours, "bias"] = HfTensor(f"{name}.bias", _VECTOR)
    return sources_by_path


def _phi3_sources(arch: Arch) -> dict[Path, HfTensor]:
    """Llama's, with q, k and v in one tensor, and gate and up in one."""
    sizes = {"q": arch.heads * arch.C, "k": arch.K * arch.C, "v": arch.K * arch.C}
    joined = {("attention", ours): ("self_attn.qkv_proj", _HEADS, sizes) for ours in sizes}
    halves = {"gate": arch.ff, "up": arch.ff}
    joined |= {("mlp", ours): ("mlp.gate_up_proj", _TURNED, halves) for ours in halves}
    sources_by_path = _llama_sources(arch)
    for (module, ours), (name, axes, lengths) in joined.items():
        start = sum(list(lengths.values())[: list(lengths).index(ours)])
        sources_by_path["layers", module, ours, "kernel"] = HfTensor(
            f"layers.{{}}.{name}.weight", axes, 0, start, sum(lengths.values())
        )
    return sources_by_path


def _expert_sources(
    arch: Arch, module: str = "mlp", names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
) -> dict[Path, HfTensor]:
    """Llama's, with a router and a tensor for each expert in place of the feed-forward layer."""
    sources_by_path = _llama_sources(arch)
    name = f"layers.{{}}.{module}"
    for ours, theirs in zip(("gate", "up", "down"), names, strict=True):
        sources_by_path["layers", "mlp", ours, "kernel"] = HfTensor(
            f"{name}.experts.{{}}.{theirs}.weight", _TURNED
        )
    sources_by_path["layers", "mlp", "router", "kernel"] = HfTensor(f"{name}.gate.weight", _TURNED)
    return sources_by_path


def _mixtral_sources(arch: Arch) -> dict[Path, HfTensor]:
    return _expert_sources(arch, "block_sparse_moe", ("w1", "w3", "w2"))


def _gpt_oss_sources(arch: Arch) -> dict[Path, HfTensor]:
    """Llama's, with all experts of a layer in one tensor, [E, inputs, outputs], in which gate and up alternate."""
    sources_by_path = _llama_sources(arch)
    sources_by_path["layers", "attention", "sinks"] = HfTensor("layers.{}.self_attn.sinks", _VECTOR)
    sources_by_path["layers", "mlp", "router", "kernel"] = HfTensor("layers.{}.mlp.router.weight", _TURNED)
    sources_by_path["layers", "mlp", "router", "bias"] = HfTensor("layers.{}.mlp.router.bias", _VECTOR)
    experts = {"gate": ("gate_up_proj", 0, 2), "up": ("gate_up_proj", 1, 2), "down": ("down_proj", 0, 1)}
    for ours, (theirs, part, parts) in experts.items():
        name = f"layers.{{}}.mlp.experts.{theirs}"
        sources_by_path["layers", "mlp", ours, "kernel"] = HfTensor(
            name, ((0,), (1,), (2,)), 2, part=part, parts=parts
        )
        sources_by_path["layers", "mlp", ours, "bias"] = HfTensor(
            f"{name}_bias", _SAME, 1, part=part, parts=parts
        )
    return sources_by_path


def _gpt2_sources(arch: Arch) -> dict[Path, HfTensor]:
    """GPT-2 multiplies from the left, so its kernels are not turned; q, k and v are one tensor."""
    size = arch.heads * arch.C
    out = {("positions",): HfTensor("wpe.weight", _SAME)}
    for number, ours in enumerate("qkv"):
        path, name = ("layers", "attention", ours), "h.{}.attn.c_attn"
        out[*path, "kernel"] = HfTensor(f"{name}.weight", ((0,), (1, 2)), 1, number * size, 3 * size)
        out[*path, "bias"] = HfTensor(f"{name}.bias", _BIAS, 0, number * size, 3 * size)
    names = {
        ("embed",): "wte",
        ("norm",): "ln_f",
        ("layers", "attention_norm"): "h.{}.ln_1",
        ("layers", "mlp_norm"): "h.{}.ln_2",
        ("layers", "attention", "out"): "h.{}.attn.c_proj",
        ("layers", "mlp", "up"): "h.{}.mlp.c_fc",
        ("layers", "mlp", "down"): "h.{}.mlp.c_proj",
    }
    return out | _plain_sources(names, ((0, 1), (2,)), _SAME)


def _neox_sources(arch: Arch) -> dict[Path, HfTensor]:
    """GPT-NeoX's q, k and v are one tensor, a head of each in turn."""
    out = {}
    for number, ours in enumerate("qkv"):
        path, name = ("layers", "attention", ours), "layers.{}.attention.query_key_value"
        out[*path, "kernel"] = HfTensor(f"{name}.weight", _HEADS, part=number, parts=3)
        out[*path, "bias"] = HfTensor(f"{name}.bias", _BIAS, part=number, parts=3)
    names = {
        ("embed",): "embed_in",
        ("norm",): "final_layer_norm",
        ("layers", "attention_norm"): "layers.{}.input_layernorm",
        ("layers", "mlp_norm"): "layers.{}.post_attention_layernorm",
        ("layers", "attention", "out"): "layers.{}.attention.dense",
        ("layers", "mlp", "up"): "layers.{}.mlp.dense_h_to_4h",
        ("layers", "mlp", "down"): "layers.{}.mlp.dense_4h_to_h",
    }
    return out | _plain_sources(names, _OUT, _TURNED)


def _plain_sources(names: dict[Path, str], out: tuple, mlp: tuple) -> dict[Path, HfTensor]:
    """Sources of embeddings, LayerNorms and layers with a bias; `out` and `mlp` are the axes of their kernels."""
    sources_by_path = {("unembed",): HfTensor("lm_head.weight", _SAME)}
    for path, name in names.items():
        weight = f"{name}.weight"
        if path == ("embed",):
            sources_by_path[path] = HfTensor(weight, _SAME)
            continue
        if path[-1].endswith("norm"):
            sources_by_path[*path, "scale"] = HfTensor(weight, _VECTOR)
        else:
            sources_by_path[*path, "kernel"] = HfTensor(weight, out if path[-1] == "out" else mlp)
        sources_by_path[*path, "bias"] = HfTensor(f"{name}.bias", _VECTOR)
    return sources_by_path


_LAYOUTS: dict[str, Callable[[Arch], dict[Path, HfTensor]]] = {
    "llama": _llama_sources,
    "phi3": _phi3_sources,
    "experts": _expert_sources,
    "mixtral": _mixtral_sources,
    "gpt_oss": _gpt_oss_sources,
    "gpt2": _gpt2_sources,
    "gpt_neox": _neox_sources,
}


class ParamLeaf(NamedTuple):
    """A parameter, and the tensors that hold it: one, one a layer, or one a layer and expert."""

    path: tuple[str, ...]
    source: HfTensor
    shape: tuple[int, ...]  # of one tensor's array
    tensors: tuple[str, ...]
    stack: tuple[
        int, ...
    ]  # the axes before `shape`, which number the tensors: (), (layers,) or (layers, experts)

    def place(self, number: int) -> tuple[int, ...]:
        """Where in the parameter the array of a tensor stands."""
        return tuple(int(i) for i in np.unravel_index(number, self.stack)) if self.stack else ()


def leaves(tree: Params, arch: Arch) -> list[ParamLeaf]:
    """The leaves of a tree of parameters, in its order, with where they stand."""
    table, out = sources(arch), []
    for entries, leaf in jax.tree.leaves_with_path(tree):
        path = tuple(entry.key for entry in entries)
        count = table[path].name.count("{}")
        stack, shape = tuple(leaf.shape[:count]), tuple(leaf.shape[count:])
        names = tuple(table[path].name.format(*place) for place in np.ndindex(stack))
        out.append(ParamLeaf(path, table[path], shape, names, stack))
    return out
