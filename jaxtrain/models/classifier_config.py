"""A Hugging Face config.json of a sequence classifier, and what its tensors are called. jax is not imported here."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError
from jaxtrain.models import hf_config

_OF_BERT = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "out": "attention.output.dense", "norm1": "attention.output.LayerNorm", "up": "intermediate.dense",
    "down": "output.dense", "norm2": "output.LayerNorm",
}  # fmt: skip
_OF_DISTILBERT = {
    "q": "attention.q_lin", "k": "attention.k_lin", "v": "attention.v_lin", "out": "attention.out_lin",
    "norm1": "sa_layer_norm", "up": "ffn.lin1", "down": "ffn.lin2", "norm2": "output_layer_norm",
}  # fmt: skip


class ClassifierFamily(NamedTuple):
    """How one architecture names its tensors and the keys of its config.json, and what its head is."""

    architecture: str
    layers: str  # the tensors of layer i are LAYERS.i.NAME
    names: Mapping[str, str]
    tables: tuple[str, ...]  # of the embeddings, word first
    head: tuple[str, str]  # its two linear layers
    head_activation: str
    keys: tuple[str, str, str]  # of layers, heads, activation
    padded: bool = False  # RoBERTa's positions begin behind that of its padding


_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_KEYS = ("num_hidden_layers", "num_attention_heads", "hidden_act")
FAMILIES = {
    "bert": ClassifierFamily("BertForSequenceClassification", "bert.encoder.layer", _OF_BERT,
        tuple(f"bert.embeddings.{name}" for name in _TABLES), ("bert.pooler.dense", "classifier"), "tanh", _KEYS),
    "roberta": ClassifierFamily("RobertaForSequenceClassification", "roberta.encoder.layer", _OF_BERT,
        tuple(f"roberta.embeddings.{name}" for name in _TABLES), ("classifier.dense", "classifier.out_proj"), "tanh",
        _KEYS, padded=True),
    "distilbert": ClassifierFamily("DistilBertForSequenceClassification", "distilbert.transformer.layer",
        _OF_DISTILBERT, tuple(f"distilbert.embeddings.{name}" for name in _TABLES[:2]),
        ("pre_classifier", "classifier"), "relu", ("n_layers", "n_heads", "activation")),
}  # fmt: skip
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """What config.json says of a classifier: the shape, the labels by number, the most tokens of a text."""

    kind: str
    layers: int
    heads: int
    activation: str
    eps: float
    first_position: int
    max_len: int
    labels: tuple[str, ...]
    multi_label: bool  # labels that do not exclude each other


def read(folder: Path) -> ClassifierConfig:
    """The config of a folder's classifier. Raises ConfigError where config.json is not that of one that can be read."""
    path = folder / "config.json"
    config = hf_config.load(path)
    kind = config.get("model_type")
    if kind not in FAMILIES or FAMILIES[kind].architecture not in (config.get("architectures") or ()):
        known = ", ".join(family.architecture for family in FAMILIES.values())
        raise ConfigError(
            f"{path}: model_type={kind!r}, architectures={config.get('architectures')} is no classifier that can be "
            f"read; known are {known}. A language model with a scalar head is trained by ./launch/run reward"
        )
    family = FAMILIES[kind]
    activation = config.get(family.keys[2])
    positions = config.get("position_embedding_type", "absolute")
    if activation not in ACTIVATIONS or positions != "absolute":
        raise ConfigError(
            f"{path}: {family.keys[2]}={activation!r}, position_embedding_type={positions!r}: known are "
            f"{', '.join(ACTIVATIONS)} and absolute positions"
        )
    first = _whole(path, config, "pad_token_id", 1) + 1 if family.padded else 0
    return ClassifierConfig(
        kind=kind,
        layers=_whole(path, config, family.keys[0]),
        heads=_whole(path, config, family.keys[1]),
        activation=activation,
        eps=config.get("layer_norm_eps", 1e-12),
        first_position=first,
        max_len=_whole(path, config, "max_position_embeddings", 512) - first,
        labels=_labels(path, config),
        multi_label=config.get("problem_type") == "multi_label_classification",
    )


def _whole(path: Path, config: Mapping[str, Any], key: str, default: int = 0) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 20:
        raise ConfigError(f"{path}: {key}={value!r} is not a whole number above 0")
    return value


def _labels(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the labels in order; transformers has two without names where config.json says nothing."""
    named = config.get("id2label")
    if named is None:
        return tuple(f"LABEL_{i}" for i in range(_whole(path, config, "num_labels", 2)))
    try:
        labels = tuple(str(named[str(i)]) for i in range(len(named)))
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: id2label={named!r} does not name labels 0, 1, ...") from error
    if not labels:
        raise ConfigError(f"{path}: id2label has no label")
    return labels
