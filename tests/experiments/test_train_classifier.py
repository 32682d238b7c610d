"""The command that trains the filter's classifier: labels in a field or in two sources, its file, what it refuses."""

import json
import re

import pytest

from experiments import train_classifier
from experiments.train_classifier import ClassifierTraining, LabelledDocuments, TrainClassifier
from jaxtrain.apps.filters import classifier
from jaxtrain.apps.filters.classifier import ClassifierFilter
from jaxtrain.config import ConfigError
from tests.apps.filters.world import labelled


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    chosen = [one for one in labelled() if one.defect in ("", "shuffled", "boilerplate")][:1500]
    sides = {"good": [one for one in chosen if not one.defect], "bad": [one for one in chosen if one.defect]}
    for name, ones in {"all": chosen, **sides}.items():
        rows = [json.dumps({"text": one.text, "defect": one.defect}) for one in ones]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def run(files, out, **kwargs):
    named = {key: f"jsonl:{files / value}.jsonl" for key, value in kwargs.items()}
    chosen = LabelledDocuments(cache_dir=str(files / "cache"), **named)
    train_classifier.main(TrainClassifier(labelled=chosen, training=ClassifierTraining(out=str(out))))
    return classifier.load(out)


def test_labels_in_a_field_or_two_sources_give_a_classifier_that_works(files, tmp_path, capsys):
    one = run(files, tmp_path / "a.npz", data="all")
    said = capsys.readouterr().out
    two = run(files, tmp_path / "b.npz", good="good", bad="bad")
    assert one.facts["good"] == two.facts["good"] and one.facts["bad"] == two.facts["bad"]
    precision, recall = (float(re.search(rf"{name} +([\d.]+)", said)[1]) for name in ("precision", "recall"))
    assert precision >= 0.98 and recall >= 0.98 and one.fingerprint in said
    check = classifier.check(ClassifierFilter(classifier=str(tmp_path / "a.npz")))
    junk = [one.text for one in labelled() if one.defect == "shuffled"][-50:]
    assert sum(bool(check(text)) for text in junk) >= 49


def test_mistakes_are_told(files, tmp_path):
    for wrong in ({"good": "x"}, {"data": "x", "good": "y", "bad": "z"}):
        with pytest.raises(ConfigError, match="--good and --bad"):
            LabelledDocuments(**wrong)
    with pytest.raises(ConfigError, match="name labelled documents"):
        train_classifier.main(TrainClassifier())
    with pytest.raises(ConfigError, match="--out"):
        run(files, tmp_path / "missing" / "a.npz", data="all")
    with pytest.raises(ConfigError, match="0 bad documents"):
        run(files, tmp_path / "a.npz", data="good")
    with pytest.raises(ConfigError, match="--held_share"):
        ClassifierTraining(held_share=1.0)
    chosen = LabelledDocuments(
        data=f"jsonl:{files / 'all.jsonl'}", label_field="zz", cache_dir=str(files / "cache")
    )
    with pytest.raises(ConfigError, match="--label_field=zz"):
        train_classifier.main(
            TrainClassifier(labelled=chosen, training=ClassifierTraining(out=str(tmp_path / "a.npz")))
        )
