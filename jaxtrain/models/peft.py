"""PEFT's LoRA adapters: adapter_config.json and adapter_model.safetensors as changes of a base model's tensors.

W = W₀ + s · B A, with s = α / r, or α / √r for rank-stabilised adapters (Kalajdzievski 2023, arXiv:2312.03732). Which
modules are adapted is what the file has, so that lists, patterns and all-linear of target_modules need no reading. A
setting that makes another function of the tensors raises ConfigError with its key and value.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jaxtrain.config import ConfigError
from jaxtrain.files import hf_hub
from jaxtrain.models import hf_config

PREFIX = "base_model.model."
AGAIN = "download or export the adapter again"
MERGE = "merge it with PEFT's merge_and_unload, save the model, and name that folder"
_A, _B = (".lora_A.weight", ".lora_embedding_A"), (".lora_B.weight", ".lora_embedding_B")
_LEGAL: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "init_lora_weights": (
        True,
        False,
        None,
        "gaussian",
        "eva",
        "orthogonal",
    ),  # others change the base weights
}
# Keys of training, or of which modules there are; any other that is set is refused.
_READ = set(
    """auto_mapping base_model_name_or_path revision inference_mode r target_modules exclude_modules lora_alpha
    lora_dropout fan_in_fan_out use_rslora modules_to_save layers_to_transform layers_pattern rank_pattern alpha_pattern
    megatron_core loftq_config eva_config corda_config qalora_group_size runtime_config peft_version
    ensure_weight_tying""".split()
)


class PeftAdapter(NamedTuple):
    """An adapter on disk."""

    folder: Path
    config: Mapping[str, Any]

    @property
    def base(self) -> str:
        """The base model, as --init_from takes it. Raises ConfigError where the adapter names none."""
        name, revision = self.config.get("base_model_name_or_path"), self.config.get("revision")
        if not name or not isinstance(name, str):
            raise ConfigError(
                f"{self.folder / hf_hub.ADAPTER_CONFIG}: base_model_name_or_path={name!r}: write the folder or the "
                "repository of the base model there"
            )
        beside = self.folder / name
        if not Path(name).expanduser().is_dir() and beside.is_dir():
            return f"{hf_hub.PREFIX}{beside}"
        return f"{hf_hub.PREFIX}{name}" + (f"@{revision}" if revision else "")

    def scale(self, module: str, rank: int) -> float:
        """The factor of B A. Raises ConfigError where the tensors have another rank than the file says."""
        config, path = self.config, self.folder / hf_hub.ADAPTER_CONFIG
        said = _of_pattern(config.get("rank_pattern"), module, config.get("r"))
        alpha = _of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
        if said != rank:
            raise ConfigError(f"{path}: the rank of {module} is {said}, that of its tensors {rank}; {AGAIN}")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise ConfigError(f"{path}: lora_alpha={alpha!r} must be a number")
        return alpha / (rank**0.5 if config.get("use_rslora") else rank)


class TensorChange(NamedTuple):
    """What an adapter makes of one tensor of its base: a product that is added, or a tensor in its place."""

    source: str  # file and tensor, for messages
    a: np.ndarray  # f32[r, inputs], or the tensor in place of the base's
    b: np.ndarray | None = None  # f32[outputs, r]
    scale: float = 1.0
    turned: bool = False  # whether the tensor is [inputs, outputs]

    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor that is changed."""
        if self.b is None:
            return self.a.shape
        shape = (self.b.shape[0], self.a.shape[1])
        return shape[::-1] if self.turned else shape


class ChangedTensor:
    """A tensor that can be sliced, with its changes, which are computed for the slice alone."""

    def __init__(self, tensor: Any, changes: Sequence[TensorChange]):
        self._tensor, self._changes = tensor, changes

    def __getitem__(self, cut: tuple[slice, ...]) -> np.ndarray:
        """A part of the tensor, f32[...] where it is changed."""
        out = self._tensor[cut]
        for change in self._changes:
            if change.b is None:
                out = change.a[cut]
                continue
            rows, columns = cut[::-1] if change.turned else cut
            product = change.scale * (change.b[rows] @ change.a[:, columns])
            out = np.asarray(out, np.float32) + (product.T if change.turned else product)
        return out


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter; as transformers does, one beside a model's weights comes first."""
    return (folder / hf_hub.ADAPTER_CONFIG).is_file()


def open_adapter(folder: Path) -> PeftAdapter:
    """The adapter of a folder. Raises ConfigError for one that is no LoRA, with the key and its value."""
    path = folder / hf_hub.ADAPTER_CONFIG
    config = hf_config.load(path)
    for key, values in _LEGAL.items():
        if config.get(key, values[0]) not in values:
            allowed = " or ".join(json.dumps(value) for value in values)
            raise ConfigError(f"{path}: {key}={json.dumps(config[key])} is not read, only {allowed}; {MERGE}")
    for key in sorted(config.keys() - _LEGAL.keys() - _READ):
        if config[key]:
            raise ConfigError(f"{path}: {key}={json.dumps(config[key])} is not read; {MERGE}")
    return PeftAdapter(folder, config)


def changes(adapter: PeftAdapter) -> dict[str, TensorChange]:
    """The changes by the name that the tensor has in the base model. Raises ConfigError for tensors that are none."""
    file = adapter.folder / hf_hub.ADAPTER
    if not file.is_file():
        others = (
            ", ".join(sorted(p.name for p in adapter.folder.glob("adapter_model.*"))) or "nothing like it"
        )
        raise ConfigError(f"{file}: no such file ({others} is there); save the adapter as safetensors")
    try:
        tensors = {name: np.asarray(x, np.float32) for name, x in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: cannot be read as safetensors ({error}); {AGAIN}") from error
    out: dict[str, TensorChange] = {}
    for name in sorted(tensors):
        module = _without(name, _A)
        if module is None:
            if _without(name, _B) is None:
                plain = (
                    name.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
                )
                out[plain] = TensorChange(f"{file}: {name}", tensors[name])
            elif not any(_without(name, _B) == _without(other, _A) for other in tensors):
                raise ConfigError(f"{file}: {name} has no lora_A beside it; {AGAIN}")
            continue
        second = next((other for other in tensors if _without(other, _B) == module), None)
        a, b = tensors[name], tensors.get(second or "")
        if b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise ConfigError(f"{file}: {name} has no lora_B of its rank beside it; {AGAIN}")
        if "embedding" in name:
            a, b = b.T, a.T  # A reads tokens: the table's rows are what a kernel writes
        out[f"{module}.weight"] = TensorChange(
            f"{file}: {name}", a, b, adapter.scale(module, tensors[name].shape[0])
        )
    if not out:
        raise ConfigError(f"{file}: has no tensor; {AGAIN}")
    return out


def match(
    adapters: Iterable[Mapping[str, TensorChange]],
    plain: Callable[[str], str],
    shapes: Mapping[str, tuple[int, ...]],
    tied: Sequence[str],
    turned: bool,
) -> dict[str, list[TensorChange]]:
    """The changes by the tensor's name without prefix, in order.

    `shapes` are the base model's, by such names; `tied` are the names of one tensor that embeds and unembeds, `turned`
    whether kernels are stored [inputs, outputs]. Raises ConfigError for a change of what is not there, or of a part.
    """
    out: dict[str, list[TensorChange]] = {}
    for adapter in adapters:
        by_name = {plain(name): change for name, change in adapter.items()}
        for name in tied:
            if name in by_name:
                _require_both(by_name, tied, name)
        for name, change in by_name.items():
            if name in tied[1:]:
                continue
            change = change._replace(turned=turned)
            shape = change.shape()
            if shapes.get(name) != shape:
                has = f"has it as {shapes[name]}" if name in shapes else "has no such tensor"
                raise ConfigError(
                    f"{change.source} changes a tensor {shape}, and the base model {has}: name the base model that it "
                    f"was trained on, or {MERGE}"
                )
            out.setdefault(name, []).append(change)
    return out


def _require_both(by_name: Mapping[str, TensorChange], tied: Sequence[str], name: str) -> None:
    """The table and the head of a tied model must change alike, which only whole copies of both say."""
    both = [by_name.get(one) for one in tied]
    if any(one is None or one.b is not None for one in both) or not np.array_equal(both[0].a, both[1].a):
        raise ConfigError(
            f"{by_name[name].source}: the base model has one tensor for its embedding and its head "
            "(tie_word_embeddings), of which the adapter changes one side"
        )


def _without(name: str, ends: Sequence[str]) -> str | None:
    """The module of a tensor of an adapter, None where its name has none of the ends."""
    end = next((end for end in ends if name.endswith(end)), None)
    return None if end is None else name.removeprefix(PREFIX).removesuffix(end)


def _of_pattern(patterns: Any, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the module's whole name, or its end after a dot."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
