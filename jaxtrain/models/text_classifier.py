"""Sequence classifiers of Hugging Face: an encoder of BERT's family with a head, read from a folder's safetensors.

    h = LN(word + position + type);  h = LN(h + Attention(h));  h = LN(h + W₂ f(W₁ h));  logits = head(h at token 0)

The norms come after the sums (arXiv:1810.04805); RoBERTa (arXiv:1907.11692) and DistilBERT (arXiv:1910.01108) are the
same network with other names. Nothing is trained here: such a model scores texts.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from safetensors import SafetensorError, safe_open

from jaxtrain.config import ConfigError
from jaxtrain.files.hf_hub import SINGLE
from jaxtrain.models.classifier_config import FAMILIES, ClassifierConfig

AGAIN = "download or export the folder again"
_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}


def read(folder: Path, cfg: ClassifierConfig) -> dict[str, Any]:
    """The parameters f32 of a folder's classifier, those of the layers stacked [L, ...]; kernels are [inputs, outputs].

    Raises ConfigError where the file is missing or damaged, or a tensor is not there.
    """
    file, family = folder / SINGLE, FAMILIES[cfg.kind]
    if not file.is_file():
        raise ConfigError(
            f"{folder}: has no {SINGLE}; load it with transformers, save it with save_pretrained, and name that folder"
        )
    try:
        with safe_open(file, framework="numpy") as opened:
            there = set(opened.keys())

            def tensor(name: str) -> np.ndarray:
                older = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta")
                found = next((one for one in (name, older) if one in there), "")
                if not found:
                    raise ConfigError(f"{file}: has no tensor {name}, which config.json asks for; {AGAIN}")
                return np.asarray(opened.get_tensor(found), np.float32)

            def norm_or_linear(name: str) -> dict[str, np.ndarray]:
                return {"weight": tensor(f"{name}.weight").T, "bias": tensor(f"{name}.bias")}

            layers = [
                {
                    ours: norm_or_linear(f"{family.layers}.{i}.{theirs}")
                    for ours, theirs in family.names.items()
                }
                for i in range(cfg.layers)
            ]
            tables = [tensor(f"{name}.weight") for name in family.tables]
            norm = norm_or_linear(family.tables[0].replace("word_embeddings", "LayerNorm"))
            head = [norm_or_linear(name) for name in family.head]
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: cannot be read as safetensors ({error}); {AGAIN}") from error
    _check(file, cfg, tables, head)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
    return jax.tree.map(jnp.asarray, {"tables": tables, "norm": norm, "layers": stacked, "head": head})


def _check(file: Path, cfg: ClassifierConfig, tables: Sequence[np.ndarray], head: Sequence[Any]) -> None:
    """Raises ConfigError where tensors have other sizes than config.json: a gather beyond a table would not fail."""
    positions, width = tables[1].shape
    for what, there, wanted in (
        ("positions", positions, cfg.first_position + cfg.max_len),
        ("labels", head[1]["weight"].shape[1], len(cfg.labels)),
        ("components of a head times heads", width // cfg.heads * cfg.heads, width),
    ):
        if there != wanted:
            raise ConfigError(f"{file}: {there} {what}, where config.json says {wanted}; {AGAIN}")


def logits(params: Mapping[str, Any], tokens: Array, length: Array, cfg: ClassifierConfig) -> Array:
    """f32[B, K]: the logits of the K labels of rows i32[B, T], whose first `length` tokens are the text."""
    here = jnp.arange(tokens.shape[1]) < length[:, None]
    word, position, *kinds = params["tables"]
    x = word[tokens] + position[jnp.arange(tokens.shape[1]) + cfg.first_position]
    for table in kinds:
        x = x + table[0]
    x = _norm(x, params["norm"], cfg.eps)
    split = (*tokens.shape, cfg.heads, x.shape[-1] // cfg.heads)

    def layer(x: Array, of: Mapping[str, Any]) -> tuple[Array, None]:
        q, k, v = (_linear(x, of[name]).reshape(split) for name in "qkv")
        scores = jnp.einsum("bqhc,bkhc->bhqk", q, k) / split[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(here[:, None, None], scores, -jnp.inf))
        mixed = jnp.einsum("bhqk,bkhc->bqhc", weights, v).reshape(x.shape)
        x = _norm(x + _linear(mixed, of["out"]), of["norm1"], cfg.eps)
        inner = _ACTIVATIONS[cfg.activation](_linear(x, of["up"]))
        return _norm(x + _linear(inner, of["down"]), of["norm2"], cfg.eps), None

    x, _ = jax.lax.scan(layer, x, params["layers"])
    first, last = params["head"]
    return _linear(_ACTIVATIONS[FAMILIES[cfg.kind].head_activation](_linear(x[:, 0], first)), last)


def _linear(x: Array, of: Mapping[str, Array]) -> Array:
    return x @ of["weight"] + of["bias"]


def _norm(x: Array, of: Mapping[str, Array], eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps) * of["weight"] + of["bias"]
    )
