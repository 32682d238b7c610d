"""Sequence classifiers of Hugging Face: the logits are transformers', padding changes nothing, files are checked."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.models import classifier_config, text_classifier
from tests import hf_classifiers

TOKENS = [[0, 5, 6, 9, 4, 2], [0, 8, 2], [0, 4, 11, 12, 7, 7, 14, 2]]


def rows(width=8):
    """(tokens i32[B, width], lengths), padded with garbage."""
    padded = np.random.default_rng(0).integers(4, 20, (len(TOKENS), width))
    for row, ids in zip(padded, TOKENS, strict=True):
        row[: len(ids)] = ids
    return jnp.asarray(padded, jnp.int32), jnp.array([len(ids) for ids in TOKENS])


def of(folder):
    cfg = classifier_config.read(folder)
    return text_classifier.read(folder, cfg), cfg


@pytest.mark.parametrize("kind", classifier_config.FAMILIES)
def test_logits_are_those_of_transformers(tmp_path, kind):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = hf_classifiers.write(tmp_path, kind)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    params, cfg = of(folder)
    ours = text_classifier.logits(params, *rows(), cfg)
    with torch.no_grad():
        expected = [theirs(torch.tensor([ids])).logits[0].numpy() for ids in TOKENS]
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("kind", classifier_config.FAMILIES)
def test_what_stands_behind_a_text_changes_nothing(tmp_path, kind):
    params, cfg = of(hf_classifiers.write(tmp_path, kind))
    short, wide = (text_classifier.logits(params, *rows(width), cfg) for width in (8, 16))
    np.testing.assert_allclose(short, wide, atol=1e-6)
    assert np.unique(np.asarray(short).round(4)).size == short.size, "each text has logits of its own"


def test_older_names_of_norms_are_read(tmp_path):
    """Checkpoints of the first releases call a norm's weight and bias gamma and beta."""
    from safetensors.numpy import load_file, save_file

    folder = hf_classifiers.write(tmp_path, "bert")
    before = text_classifier.logits(of(folder)[0], *rows(), of(folder)[1])
    file = folder / "model.safetensors"
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(file).items()
    }
    save_file(older, file)
    params, cfg = of(folder)
    np.testing.assert_array_equal(text_classifier.logits(params, *rows(), cfg), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_position_embeddings": 30}, "24 positions, where config.json says 30"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "2 labels, where config.json says 3"),
        ({"num_attention_heads": 3}, "15 components of a head times heads, where config.json says 16"),
    ],
)
def test_other_sizes_than_the_configs_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        of(hf_classifiers.write(tmp_path, **changes))


def test_missing_and_damaged_files_are_named(tmp_path):
    folder = hf_classifiers.write(tmp_path, num_hidden_layers=3)
    with pytest.raises(ConfigError, match=r"has no tensor roberta\.encoder\.layer\.2\."):
        of(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        of(folder)
    file.unlink()
    with pytest.raises(ConfigError, match=r"has no model\.safetensors"):
        of(folder)
