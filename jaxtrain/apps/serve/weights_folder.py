"""Folders of weights that a running server may load, and their reading.

A folder is that of ./launch/run export or of transformers: config.json of the served architecture, and safetensors.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxtrain.apps.serve.errors import invalid_param
from jaxtrain.config import ConfigError
from jaxtrain.files import checksums
from jaxtrain.generate.engine import Engine
from jaxtrain.models import hf, hf_config
from jaxtrain.stages.load_model import LoadedModel
from jaxtrain.types import Params

# Keys of config.json that say nothing of the model's function.
_FREE = (
    "dtype",
    "torch_dtype",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "initializer_range",
    "use_cache",
)
_VERSION_DIGITS = 12


class WeightsFolder:
    """The folder below which weights may lie, and a lock: weights are loaded one after the other."""

    def __init__(self, root: Path):
        self.root, self.lock = Path(os.path.realpath(root)), asyncio.Lock()

    def locate(self, text: str) -> Path:
        """The folder that a request names. Raises ApiError where it, or a file of it, is not below the root."""
        try:
            folder = Path(os.path.realpath(self.root / text))
            inside = folder.is_relative_to(self.root)
            present = inside and folder.is_dir()
            files = list(folder.iterdir()) if present else []
            out = [file.name for file in files if not Path(os.path.realpath(file)).is_relative_to(self.root)]
        except (
            OSError,
            ValueError,
            RuntimeError,
        ) as error:  # a null byte, a name too long, links in a circle
            raise invalid_param("model_path", f"it cannot be read: {error}") from error
        if not inside:
            raise invalid_param(
                "model_path", "weights are loaded from folders below --weights_dir only", "path_not_allowed"
            )
        if not present:
            raise invalid_param("model_path", f"there is no folder {text[:200]} below --weights_dir")
        if out:
            message = f"{out[0][:200]} is a link to a file that is not below --weights_dir"
            raise invalid_param("model_path", message, "path_not_allowed")
        return folder


def weights_reader(loaded: LoadedModel, engine: Engine) -> Callable[[Path], Params]:
    """A function of a folder that returns its parameters as the engine takes them.

    Raises ConfigError, which names file and tensor, where config.json describes another model, a tensor is missing, too
    many, of another shape or not finite, or a file differs from checksums.json.
    """
    model, plan, start = loaded.model, loaded.plan, loaded.source

    def read(folder: Path) -> Params:
        checksums.require(folder, "model_path")
        checksums.require_weights(folder, "model_path")
        served, given = hf_config.write(start.arch), hf_config.write(hf_config.read(folder))
        for name in [*served, *(name for name in given if name not in served)]:
            if name not in _FREE and served.get(name) != given.get(name):
                raise ConfigError(
                    f"{folder / 'config.json'}: {name} is {given.get(name)}, that of the served model is "
                    f"{served.get(name)}"
                )
        abstract = plan.abstract(lambda: model.init(jax.random.key(0)), model.axes)
        params = hf.read(folder, start.arch, abstract)
        for path, leaf in jax.tree.leaves_with_path(params):
            if not bool(jnp.isfinite(leaf).all()):
                raise ConfigError(f"{folder}: {jax.tree_util.keystr(path)} has values that are not finite")
        return engine.ready(params, ())

    return read


def version_of(folder: Path) -> str:
    """A version that follows from the files of weights alone: the beginning of the SHA-256 of their SHA-256s."""
    known, digest = checksums.read(folder) or {}, hashlib.sha256()
    for file in sorted(folder.glob(checksums.WEIGHTS)):
        digest.update(
            f"{file.name} {known.get(file.name, (0, None))[1] or checksums.of_file(file)}\n".encode()
        )
    return digest.hexdigest()[:_VERSION_DIGITS]
