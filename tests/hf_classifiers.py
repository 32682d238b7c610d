"""Tiny folders of Hugging Face sequence classifiers with random weights, and a tokenizer of words."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from jaxtrain.models.classifier_config import FAMILIES

WORDS = "<s> <pad> </s> [UNK] the a film movie was is good bad great dull fun story and not very really i it".split()
LABELS = ("NEGATIVE", "POSITIVE")
WIDTH, HEADS, LAYERS, FF, POSITIONS = 16, 4, 2, 32, 24


def config(kind, labels=LABELS, **changes):
    """config.json as transformers writes it."""
    shape = {
        "distilbert": {"dim": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "hidden_dim": FF, "activation": "gelu"},
    }.get(kind, {
        "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": FF,
        "hidden_act": "gelu", "type_vocab_size": 1 if kind == "roberta" else 2, "layer_norm_eps": 1e-5,
    })  # fmt: skip
    return {
        "architectures": [FAMILIES[kind].architecture], "model_type": kind, "vocab_size": len(WORDS), "pad_token_id": 1,
        "max_position_embeddings": POSITIONS, "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)}, **shape, **changes,
    }  # fmt: skip


def tensors(kind, labels=LABELS, seed=0):
    """Random weights under the names of the family, [outputs, inputs] as torch has them."""
    family, rng = FAMILIES[kind], np.random.default_rng(seed)
    made = {}

    def linear(name, outputs, inputs):
        made[f"{name}.weight"] = rng.normal(0, 0.3, (outputs, inputs)).astype(np.float32)
        made[f"{name}.bias"] = rng.normal(0, 0.3, outputs).astype(np.float32)

    def norm(name):
        made[f"{name}.weight"] = rng.normal(1, 0.3, WIDTH).astype(np.float32)
        made[f"{name}.bias"] = rng.normal(0, 0.3, WIDTH).astype(np.float32)

    rows = (len(WORDS), POSITIONS, 1 if kind == "roberta" else 2)
    for name, size in zip(family.tables, rows, strict=False):
        made[f"{name}.weight"] = rng.normal(0, 1, (size, WIDTH)).astype(np.float32)
    norm(family.tables[0].replace("word_embeddings", "LayerNorm"))
    for i in range(LAYERS):
        for ours, theirs in family.names.items():
            name = f"{family.layers}.{i}.{theirs}"
            if ours.startswith("norm"):
                norm(name)
            else:
                linear(name, FF if ours == "up" else WIDTH, FF if ours == "down" else WIDTH)
    linear(family.head[0], WIDTH, WIDTH)
    linear(family.head[1], len(labels), WIDTH)
    return made


def tokenizer_json():
    """tokenizer.json of words, which puts <s> before a text and </s> behind it."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return inner.to_str()


def write(folder, kind="roberta", labels=LABELS, seed=0, **changes):
    """Writes the folder and returns its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(kind, labels, **changes)))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    save_file(tensors(kind, labels, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
