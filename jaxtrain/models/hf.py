"""Weights of Hugging Face checkpoints: safetensors straight into sharded parameters, and back.

Reading copies those parts alone that lie on this host's devices, one at a time; writing copies one shard at a time.
"""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import Array
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxtrain.config import ConfigError
from jaxtrain.files.hf_hub import INDEX, SINGLE
from jaxtrain.models import hf_config, hf_families, hf_generation, hf_layout, mxfp4, peft
from jaxtrain.models.hf_layout import ParamLeaf
from jaxtrain.models.peft import ChangedTensor, TensorChange
from jaxtrain.models.zoo import Arch
from jaxtrain.types import Params

HEAD = "lm_head.weight"
AGAIN = "download or export the folder again"

# The same tensor goes by these names, as it is saved with or without a head, alone or inside a model of images.
_PREFIXES = (
    "language_model.model.", "model.language_model.", "language_model.", "transformer.", "gpt_neox.", "model.",
)  # fmt: skip
_HEADS = {family.head for family in hf_families.FAMILIES.values()}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".ckpt")
# Constants that older releases saved, and the half of a model that reads images.
_BUFFER = re.compile(r"(.*\.)?((attn|attention)\.(masked_)?bias|rotary_emb\.inv_freq)")
_VISION = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\..*")


class TensorPlace(NamedTuple):
    """Where a tensor stands; in MXFP4 its scales stand beside its blocks, or in another file."""

    file: Path
    name: str
    scales: tuple[Path, str] | None = None


class _OpenFiles(contextlib.ExitStack):
    """Files of weights, each opened once."""

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[Path, Any] = {}

    def tensor(self, place: TensorPlace) -> Any:
        """The tensor, which can be sliced."""
        parts = [(place.file, place.name), *([place.scales] if place.scales else [])]
        for file, _ in parts:
            if file not in self._files:
                self._files[file] = self.enter_context(_open(file))
        slices = [self._files[file].get_slice(name) for file, name in parts]
        return mxfp4.Mxfp4Tensor(*slices) if place.scales else slices[0]


def read(
    folder: Path,
    arch: Arch,
    abstract: Params,
    adapters: Sequence[Path] = (),
    each: Callable[[tuple[str, ...], Array], Any] = lambda path, leaf: leaf,
) -> Params:
    """The parameters of a folder's safetensors, each leaf with the shape, dtype and sharding of `abstract`.

    `each` makes of a leaf, by its path, what stands in its place, before the next one is read.

    `abstract` is the tree of jax.ShapeDtypeStruct that a plan makes of the model's init; a leaf without a sharding
    becomes an array on the default device. `adapters` are folders of PEFT adapters, which are merged in order. Raises
    ConfigError, with tensor and file, where the tensors are not exactly those of `arch`, or a file is missing or
    damaged.
    """
    files = _files(folder)
    leaves = hf_layout.leaves(abstract, arch)
    _check(folder, arch, leaves, files)
    structs, treedef = jax.tree.flatten_with_path(abstract)
    changes = _changes(adapters, arch, leaves, files)
    leaves_read = [
        each(tuple(entry.key for entry in path), _make(leaf, struct, files, changes))
        for leaf, (path, struct) in zip(leaves, structs, strict=True)
    ]
    return treedef.unflatten(leaves_read)


def _changes(
    adapters: Sequence[Path], arch: Arch, leaves: Sequence[ParamLeaf], files: Mapping[str, TensorPlace]
) -> dict[str, list[TensorChange]]:
    """The adapters' changes by the name of the tensor that they change."""
    if not adapters:
        return {}
    shapes = {}
    for name in {name for leaf in leaves for name in leaf.tensors}:
        with _OpenFiles() as opened:
            shapes[name] = tuple(opened.tensor(files[name]).get_shape())
    tied = (hf_layout.sources(arch)[("embed",)].name, HEAD) if arch.tied else ()
    read = (peft.changes(peft.open_adapter(folder)) for folder in adapters)
    return peft.match(read, _plain, shapes, tied, turned=is_turned(arch))


def is_turned(arch: Arch) -> bool:
    """Whether kernels are stored [inputs, outputs], as GPT-2's are."""
    return arch.positions == "learned"


def _make(
    leaf: ParamLeaf,
    struct: Any,
    files: Mapping[str, TensorPlace],
    changes: Mapping[str, Sequence[TensorChange]],
) -> Array:
    stacked = len(leaf.stack)

    def part(index: tuple[slice, ...]) -> np.ndarray:
        numbers = np.arange(len(leaf.tensors)).reshape(leaf.stack)[index[:stacked]]
        layers, inner = [leaf.tensors[number] for number in numbers.flat], index[stacked:]
        with _OpenFiles() as opened:  # closed with each part, so that pages read do not stay mapped
            tensors = (ChangedTensor(opened.tensor(files[name]), changes.get(name, ())) for name in layers)
            pieces = (leaf.source.piece(tensor, leaf.shape, inner) for tensor in tensors)
            first = next(pieces)
            if not stacked:
                return np.ascontiguousarray(first, struct.dtype)
            out = np.empty((len(layers), *first.shape), struct.dtype)
            out[0] = first
            for i, piece in enumerate(pieces, 1):
                out[i] = piece
        return out.reshape(*numbers.shape, *first.shape)

    if struct.sharding is None:
        return jnp.asarray(part((slice(None),) * len(struct.shape)))
    return jax.make_array_from_callback(struct.shape, struct.sharding, part)


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: cannot be read as safetensors ({error}); {AGAIN}") from error


def _files(folder: Path) -> dict[str, TensorPlace]:
    """Where each tensor stands, by its name without prefix; constants and vision are left out."""
    tensors: dict[str, TensorPlace] = {}
    vision = 0
    for file, promised in _shards(folder).items():
        with _open(file) as opened:
            names = set(opened.keys())
        for name in promised - names:
            raise ConfigError(f"{file}: has no tensor {name}, which {INDEX} says it has; {AGAIN}")
        for name in sorted(names):
            if _VISION.fullmatch(name):
                vision += 1
            elif not _BUFFER.fullmatch(name):
                plain = _plain(name)
                if plain in tensors:
                    raise ConfigError(
                        f"{file}: {name} is also {tensors[plain].name} in {tensors[plain].file.name}; {AGAIN}"
                    )
                tensors[plain] = TensorPlace(file, name)
    if vision:
        logging.warning("%s: %d tensors that read images are left out", folder, vision)
    for plain in [name for name in tensors if name.endswith(mxfp4.BLOCKS)]:
        whole = plain.removesuffix(mxfp4.BLOCKS)
        if scales := tensors.pop(whole + mxfp4.SCALES, None):
            tensors[whole] = tensors.pop(plain)._replace(scales=(scales.file, scales.name))
    return tensors


def _plain(name: str) -> str:
    name = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
    return HEAD if name in _HEADS else name


def _shards(folder: Path) -> dict[Path, set[str]]:
    """The files of a checkpoint, and the tensors that the index says are in each."""
    if (folder / SINGLE).exists():
        return {folder / SINGLE: set()}
    if not (folder / INDEX).exists():
        others = sorted(p.name for p in folder.iterdir() if p.suffix in _WEIGHTS) if folder.is_dir() else []
        raise ConfigError(
            f"{folder}: has neither {SINGLE} nor {INDEX} ({', '.join(others) or 'and no other weights'}); load it with "
            "transformers, save it with save_pretrained, and name that folder"
        )
    weights = hf_config.load(folder / INDEX).get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(file, str) for file in weights.values()):
        raise ConfigError(f"{folder / INDEX}: has no weight_map of tensors to files; {AGAIN}")
    shards: dict[Path, set[str]] = {}
    for name, file in weights.items():
        if Path(file).name != file or not (folder / file).is_file():
            raise ConfigError(f"{folder}: {INDEX} puts {name} in {file}, which is not there; {AGAIN}")
        shards.setdefault(folder / file, set()).add(name)
    return shards


def _check(folder: Path, arch: Arch, leaves: Sequence[ParamLeaf], files: Mapping[str, TensorPlace]) -> None:
    """Raises ConfigError for tensors that are missing, too many, or of another shape or type."""
    wanted = {name: leaf for leaf in leaves for name in leaf.tensors}
    missing, extra = sorted(wanted.keys() - files.keys()), sorted(files.keys() - wanted.keys())
    if missing == [HEAD]:
        raise ConfigError(
            f"{folder}: has no tensor {full_name(HEAD, arch)}: saved without its head. Save it from transformers' "
            "AutoModelForCausalLM, or, if its head is the embedding, set tie_word_embeddings to true in config.json"
        )
    if missing:
        raise ConfigError(
            f"{folder}: has no tensor {_some(missing)}, which config.json asks for; correct config.json or {AGAIN}"
        )
    if arch.tied and HEAD in extra:
        _require_tied(files[HEAD], files[hf_layout.sources(arch)[("embed",)].name])
        extra.remove(HEAD)
    if extra:
        raise ConfigError(
            f"{files[extra[0]].file}: tensor {_some([files[name].name for name in extra])} is none of the model that "
            "config.json describes; correct config.json, or remove what is not the language model's"
        )
    _require_shapes(wanted, files)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _require_shapes(wanted: Mapping[str, ParamLeaf], files: Mapping[str, TensorPlace]) -> None:
    by_file: dict[Path, list[str]] = {}
    for name in wanted:
        by_file.setdefault(files[name].file, []).append(name)
    for file, names in by_file.items():
        with _OpenFiles() as opened:
            for name in names:
                inside, leaf = files[name].name, wanted[name]
                tensor = opened.tensor(files[name])
                shape, want = tuple(tensor.get_shape()), leaf.source.whole(leaf.shape)
                if shape != want:
                    rows = " (vocab_size is its rows)" if leaf.path[0] in ("embed", "unembed") else ""
                    raise ConfigError(
                        f"{file}: {inside} has shape {shape}, config.json makes it {want}{rows}; correct config.json"
                    )
                if tensor.get_dtype() not in ("F32", "F16", "BF16"):
                    raise ConfigError(
                        f"{file}: {inside} is {tensor.get_dtype()}; F32, F16 and BF16 are read, quantised ones are not"
                    )


def _require_tied(head: TensorPlace, other: TensorPlace) -> None:
    """A tied model may hold its embedding twice, if both are the same."""
    with _OpenFiles() as opened:
        a, b = opened.tensor(head), opened.tensor(other)
        rows = a.get_shape()[0]
        parts = [slice(i, min(i + 4096, rows)) for i in range(0, rows, 4096)]
        same = a.get_shape() == b.get_shape() and all(np.array_equal(a[part], b[part]) for part in parts)
    if not same:
        raise ConfigError(
            f"{head.file}: {head.name} differs from {other.name}, yet config.json says tie_word_embeddings; "
            "set it to false"
        )


def check_target(folder: Path) -> None:
    """Raises ConfigError where an export would overwrite something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--to=hf:{folder} exists already: remove it or name another folder")


def write(
    folder: Path,
    params: Params,
    arch: Arch,
    *,
    dtype: str = "float32",
    shard_bytes: float = 5e9,
    ids: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    extra: Mapping[str, bytes] | None = None,
    fetch: Callable[[Array], np.ndarray] = np.asarray,
    primary: bool = True,
) -> None:
    """A folder that transformers loads: config.json, generation_config.json and the weights in safetensors.

    `ids` are the token numbers bos, eos (one or a list) and pad, as far as there are any; `generation` is the rest of
    generation_config.json, `extra` are further files by name, such as the tokenizer's. The folder appears at once, when
    everything is in it. All processes of a run call this, `fetch` brings an array that lies on all of them to each, a
    layer at a time, and the `primary` one writes. Raises ConfigError where the folder is not empty, where the
    architecture cannot be said, or where a weight is too large for `dtype`.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"--dtype={dtype}: choose float32, bfloat16 or float16")
    config = hf_config.write(arch, dtype=dtype, ids=ids)
    with appearing(folder, primary) as partial:
        generation = hf_generation.write(generation or {}, ids or {})
        files = {"config.json": dumped(config), hf_generation.FILE: dumped(generation), **(extra or {})}
        for name, data in files.items() if partial else ():
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_bytes(data)
        _write_shards(partial, params, arch, jnp.dtype(dtype), shard_bytes, fetch)


@contextlib.contextmanager
def appearing(folder: Path, primary: bool) -> Iterator[Path | None]:
    """A folder to write to, which takes its name when everything is in it; None where another process writes."""
    if not primary:
        yield None
        return
    check_target(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial)
        raise


def dumped(value: Any) -> bytes:
    """A JSON file as save_pretrained indents it."""
    return (json.dumps(value, indent=2) + "\n").encode()


Part = tuple[ParamLeaf, Any, tuple[int, ...]]  # a parameter, its value, a layer or an expert of a layer


def _write_shards(
    folder: Path | None,
    params: Params,
    arch: Arch,
    dtype: np.dtype,
    shard_bytes: float,
    fetch: Callable[[Array], np.ndarray],
) -> None:
    """The files of weights; without a folder the arrays are fetched alone, as the process that writes needs it."""
    leaves = hf_layout.leaves(params, arch)
    tensors: dict[str, list[Part]] = {}
    for leaf, value in zip(leaves, jax.tree.leaves(params), strict=True):
        for number, name in enumerate(leaf.tensors):
            tensors.setdefault(name, []).append((leaf, value, leaf.place(number)))
    sizes = {
        name: math.prod(parts[0][0].source.whole(parts[0][0].shape)) * dtype.itemsize
        for name, parts in tensors.items()
    }
    shards: list[list[str]] = [[]]
    for name in sorted(tensors, key=lambda name: (tensors[name][0][2][:1] or (0,), name)):
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + sizes[name] > shard_bytes:
            shards.append([])
        shards[-1].append(name)
    files = {}
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        arrays = {}
        for name in names:
            array = _tensor(full_name(name, arch), tensors[name], dtype, fetch)
            if folder:
                arrays[full_name(name, arch)] = array
        if folder:
            save_file(arrays, folder / file, metadata={"format": "pt"})
            files.update(dict.fromkeys(arrays, file))
    if folder and len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files}
        (folder / INDEX).write_bytes(dumped(index))


def full_name(name: str, arch: Arch) -> str:
    """A tensor's name with the prefix that the architecture gives it in transformers."""
    family = hf_families.FAMILIES[hf_families.nearest(arch)]
    return family.head if name == HEAD else family.prefix + name


def _tensor(
    name: str, parts: list[Part], dtype: np.dtype, fetch: Callable[[Array], np.ndarray]
) -> np.ndarray:
    """One tensor on the host, of a layer of one parameter or of several side by side."""
    whole = joined([(leaf, _array(leaf, value, place, fetch)) for leaf, value, place in parts])
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(whole, dtype)
    if np.isfinite(whole).all() and not np.isfinite(cast).all():
        raise ConfigError(
            f"--dtype={dtype.name}: {name} has a weight too large for it; use bfloat16 or float32"
        )
    return cast


def joined(parts: Sequence[tuple[ParamLeaf, np.ndarray]]) -> np.ndarray:
    """The tensor that holds a layer's arrays of one parameter, or of several side by side."""
    leaf, array = parts[0]
    whole = np.empty(leaf.source.whole(array.shape), array.dtype)
    for leaf, array in parts:
        leaf.source.put(whole, array)
    return whole


def _array(
    leaf: ParamLeaf, value: Any, place: tuple[int, ...], fetch: Callable[[Array], np.ndarray]
) -> np.ndarray:
    if not isinstance(value, Array):
        return np.asarray(value[place])
    if not place:
        return np.asarray(fetch(value))
    # An index that is an argument: one program a shape, not one a layer.
    start, size = (*place, *(0 for _ in leaf.shape)), (*(1 for _ in place), *leaf.shape)
    return np.asarray(fetch(jax.lax.dynamic_slice(value, start, size))).reshape(leaf.shape)
