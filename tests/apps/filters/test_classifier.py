"""The trainable classifier: what it learns, that it is the same each time, its file, and what it refuses."""

import numpy as np
import pytest

from jaxtrain.apps.filters import classifier
from jaxtrain.apps.filters.classifier import ClassifierFilter
from jaxtrain.config import ConfigError
from tests.apps.filters.world import labelled

GOOD = [one.text for one in labelled() if not one.defect]
BAD = [one.text for one in labelled() if one.defect in ("shuffled", "boilerplate")]


@pytest.fixture(scope="module")
def model():
    return classifier.train(GOOD[:350], BAD[:150])


def test_five_hundred_labels_tell_junk_from_text(model):
    check = classifier.classifier_check(model, 0.5)
    wrong = sum(bool(check(text)) for text in GOOD[350:])
    right = sum(bool(check(text)) for text in BAD[150:])
    assert right / len(BAD[150:]) >= 0.98 and right / (right + wrong) >= 0.98


def test_one_update_by_hand():
    """One good and one bad document, one epoch: AdaGrad's first step has length lr for every feature."""
    model = classifier.train(["abc"], ["xyz"], epochs=1, lr=0.5)
    dense = model.dense_weights()
    good, bad = classifier.features("abc"), classifier.features("xyz")
    assert len(good) == len(bad) == 2  # a word and three bytes
    assert dense[good] == pytest.approx(-0.5, abs=1e-6) and dense[bad] == pytest.approx(0.5, abs=1e-6)
    p = classifier.bad_probability("xyz", dense, model.bias)
    assert p == pytest.approx(1 / (1 + np.exp(-(2 * 0.5 / np.sqrt(2) + model.bias))), abs=1e-6)


def test_the_same_documents_give_the_same_file(model, tmp_path):
    mark = classifier.save(model, tmp_path / "a.npz")
    again = classifier.train(GOOD[:350], BAD[:150])
    assert classifier.save(again, tmp_path / "b.npz") == mark
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert classifier.train(GOOD[:350], BAD[:150], seed=1).fingerprint != mark
    read = classifier.load(tmp_path / "a.npz")
    assert read.facts == model.facts and read.fingerprint == mark
    by_file = classifier.check(ClassifierFilter(classifier=str(tmp_path / "a.npz"), max_bad=0.0))
    assert [by_file(t)[0].score for t in (GOOD[0], BAD[0])] == [
        classifier.classifier_check(model, 0.0)(t)[0].score for t in (GOOD[0], BAD[0])
    ]


def test_files_that_are_none_are_refused(model, tmp_path):
    path = tmp_path / "a.npz"
    for content in (b"", b"no zip", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="--classifier"):
            classifier.load(path)
    with pytest.raises(ConfigError, match="--classifier"):
        classifier.load(tmp_path / "missing.npz")
    classifier.save(model._replace(bias=model.bias + 1), path)
    with np.load(path) as held:
        parts = dict(held)
    parts["weights"] = parts["weights"] * 2
    np.savez(path, **parts)
    with pytest.raises(ConfigError, match="changed"):
        classifier.load(path)
    with pytest.raises(ConfigError, match="both labels"):
        classifier.train(["a"], [])
    with pytest.raises(ConfigError, match="--max_bad"):
        ClassifierFilter(max_bad=2.0)
    assert not classifier.check(ClassifierFilter())("anything")


@pytest.mark.parametrize("text", ["", " ", "a", "\ud800", "日本語", "x" * 100_000])
def test_any_text_has_a_probability(model, text):
    assert 0 <= classifier.bad_probability(text, model.dense_weights(), model.bias) <= 1
