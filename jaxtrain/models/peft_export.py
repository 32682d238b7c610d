"""A run's adapters as PEFT reads them: the inverse of models/peft.py."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from safetensors.numpy import save_file

from jaxtrain.config import ConfigError, Lora
from jaxtrain.files import hf_hub
from jaxtrain.models import hf, hf_layout, lora, peft
from jaxtrain.models.hf_layout import ParamLeaf
from jaxtrain.models.zoo import Arch
from jaxtrain.types import Axes, Params, sides


class _Pair(NamedTuple):
    """A layer's adapter as arrays of its kernel's axes, the rank in place of its outputs, or of its inputs."""

    leaf: ParamLeaf
    first: np.ndarray  # A, f32[inputs..., r, 1...]
    second: np.ndarray  # B, f32[r, 1..., outputs...]
    inputs: int  # axes of inputs


def write(
    folder: Path,
    trained: Params,
    abstract: Params,
    arch: Arch,
    axes: Axes,
    settings: Lora,
    *,
    base: tuple[str, str],
    extra: Mapping[str, bytes] | None = None,
    fetch: Callable[[Array], np.ndarray] = np.asarray,
    primary: bool = True,
) -> None:
    """A folder that PEFT loads: adapter_config.json, which names `base` (name, revision), and the adapters in f32.

    `trained` is the tree of adapters, `abstract` and `axes` are the base model's parameters. Kernels that share a
    tensor (q, k and v of GPT-2) have one adapter there, whose rank is the sum of theirs. All processes call this, as
    they call models/hf.py's `write`. Raises ConfigError where the folder is not empty, and for DoRA.
    """
    if settings.dora:
        raise ConfigError(
            "--adapter: DoRA's norms are not written; leave --adapter out, and the model is merged"
        )
    if arch.experts and any("mlp" in path for path in lora.targets(axes, settings)):
        raise ConfigError(
            "--adapter: PEFT has no adapters on a router or on single experts, which transformers holds in one tensor; "
            "train with --lora_targets=attention, or leave --adapter out, and the model is merged"
        )
    tensors = _tensors(trained, abstract, arch, axes, settings, fetch)
    config = _config(abstract, arch, axes, settings, base)
    with hf.appearing(folder, primary) as partial:
        if partial:
            for name, data in {hf_hub.ADAPTER_CONFIG: hf.dumped(config), **(extra or {})}.items():
                (partial / name).parent.mkdir(exist_ok=True)
                (partial / name).write_bytes(data)
            save_file(tensors, partial / hf_hub.ADAPTER, metadata={"format": "pt"})


def _tensors(
    trained: Params,
    abstract: Params,
    arch: Arch,
    axes: Axes,
    settings: Lora,
    fetch: Callable[[Array], np.ndarray],
) -> dict[str, np.ndarray]:
    """lora_A f32[r, inputs] and lora_B f32[outputs, r] by the names that PEFT gives them."""
    leaves, beside = _leaves(abstract, arch)
    by_tensor: dict[str, list[_Pair]] = {}
    for path in lora.targets(axes, settings):
        adapter = trained
        for name in path:
            adapter = adapter[name]
        a, b = (np.asarray(fetch(adapter[name]), np.float32) for name in ("a", "b"))
        _, reads, writes = sides(axes[path])
        for layer, name in enumerate(leaves[path].tensors):
            first = a[layer].reshape(*a.shape[1:], *(1,) * (len(writes) - 1))
            second = b[layer].reshape(b.shape[1], *(1,) * (len(reads) - 1), *b.shape[2:])
            by_tensor.setdefault(name, []).append(_Pair(leaves[path], first, second, len(reads)))
    turned, tensors = hf.is_turned(arch), {}
    for name, pairs in by_tensor.items():
        firsts = [pair.leaf.source.flat(pair.first) for pair in pairs]
        seconds = [_padded(pair, beside[pair.leaf.source.name]) for pair in pairs]
        module = f"{peft.PREFIX}{hf.full_name(name, arch).removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = _stacked(firsts, turned, 0)
        tensors[f"{module}.lora_B.weight"] = _stacked(seconds, turned, 1)
    return tensors


def _leaves(abstract: Params, arch: Arch) -> tuple[dict[lora.Path, ParamLeaf], dict[str, list[ParamLeaf]]]:
    """(the leaves by path, those that share a tensor by its name)."""
    leaves = {leaf.path: leaf for leaf in hf_layout.leaves(abstract, arch)}
    beside: dict[str, list[ParamLeaf]] = {}
    for leaf in leaves.values():
        beside.setdefault(leaf.source.name, []).append(leaf)
    return leaves, beside


def _padded(pair: _Pair, beside: Sequence[ParamLeaf]) -> np.ndarray:
    """B for the whole tensor, which the kernel shares with others: 0 for them."""
    rank = pair.second.shape[: pair.inputs]
    zeros = ((leaf, np.zeros((*rank, *leaf.shape[pair.inputs :]), np.float32)) for leaf in beside)
    return hf.joined([(leaf, pair.second if leaf is pair.leaf else array) for leaf, array in zeros])


def _stacked(arrays: Sequence[np.ndarray], turned: bool, axis: int) -> np.ndarray:
    """Arrays [outputs, inputs], or `turned`, side by side along an axis."""
    return np.ascontiguousarray(np.concatenate([x.T if turned else x for x in arrays], axis))


def _config(
    abstract: Params, arch: Arch, axes: Axes, settings: Lora, base: tuple[str, str]
) -> dict[str, Any]:
    """adapter_config.json; modules are named by what follows the layer's number."""
    leaves, _ = _leaves(abstract, arch)
    counts: dict[str, int] = {}
    for path in lora.targets(axes, settings):
        module = leaves[path].source.name.rpartition("{}.")[2].removesuffix(".weight")
        counts[module] = counts.get(module, 0) + 1
    rank, alpha = settings.lora_rank, settings.lora_alpha
    alpha = int(alpha) if alpha == int(alpha) else alpha
    joint = {module: count for module, count in counts.items() if count > 1}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base[0],
        "revision": base[1] or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": hf.is_turned(arch),
        "init_lora_weights": True,
        "target_modules": sorted(counts),
        "rank_pattern": {module: rank * count for module, count in joint.items()},
        "alpha_pattern": {module: alpha * count for module, count in joint.items()},
        "modules_to_save": None,
    }
