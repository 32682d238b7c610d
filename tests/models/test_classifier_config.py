"""config.json of sequence classifiers: what is read of each family, and what is refused."""

import json

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.models import classifier_config
from tests import hf_classifiers


@pytest.mark.parametrize("kind", classifier_config.FAMILIES)
def test_the_shape_is_read_by_each_familys_keys(tmp_path, kind):
    cfg = classifier_config.read(hf_classifiers.write(tmp_path, kind))
    assert (cfg.kind, cfg.layers, cfg.heads, cfg.activation) == (kind, 2, 4, "gelu")
    assert cfg.labels == ("NEGATIVE", "POSITIVE") and not cfg.multi_label
    # RoBERTa's table of positions has two rows before the first token's.
    assert (cfg.first_position, cfg.max_len) == ((2, 22) if kind == "roberta" else (0, 24))


def test_labels_without_names_are_transformers_own(tmp_path):
    folder = hf_classifiers.write(tmp_path)
    file = folder / "config.json"
    values = json.loads(file.read_text())
    del values["id2label"]
    file.write_text(json.dumps(values))
    assert classifier_config.read(folder).labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "no classifier that can be read"),
        ({"architectures": ["RobertaForMaskedLM"]}, "no classifier that can be read"),
        ({"hidden_act": "silu"}, "hidden_act='silu'"),
        ({"position_embedding_type": "relative_key"}, "absolute positions"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers='two' is not a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"max_position_embeddings": True}, "max_position_embeddings=True"),
        ({"id2label": {"1": "a", "2": "b"}}, "does not name labels 0, 1"),
        ({"id2label": ["a"]}, "does not name labels 0, 1"),
        ({"id2label": {}}, "has no label"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_its_key(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as refused:
        classifier_config.read(hf_classifiers.write(tmp_path, **changes))
    assert "config.json" in str(refused.value)
