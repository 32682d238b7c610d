"""Twins and faults of texts."""

import sys

import numpy as np
import pytest

from jaxtrain.apps.synthesis import screening
from jaxtrain.apps.synthesis.screening import NearDuplicateIndex
from jaxtrain.config import ConfigError


def jaccard(a, b):
    own, other = screening._shingles(a), screening._shingles(b)
    return len(own & other) / len(own | other)


@pytest.mark.parametrize("near", [0.1, 0.3, 0.5, 0.75, 0.8, 1.0])
def test_the_first_near_duplicate_is_the_one_that_comparing_all_finds(near):
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(list("abcde"), rng.integers(1, 9))) for _ in range(150)]
    seen, kept, twins = NearDuplicateIndex(near), [], 0
    for text in texts:
        kind, name = seen.twin(text)
        same = [i for i, other in enumerate(kept) if other.split() == text.split()]
        alike = [i for i, other in enumerate(kept) if jaccard(text, other) >= near and near < 1]
        if same:
            assert (kind, name) == ("duplicate", same[0])
        elif alike:
            assert (kind, name) == ("near duplicate", alike[0])
        else:
            assert kind == "" and name is None
            seen.add(text, len(kept))
            kept.append(text)
        twins += bool(kind)
    assert 10 < twins < 150


def test_case_and_spaces_make_no_other_text_and_above_1_nothing_is_a_twin():
    for near, wanted in ((1.0, "duplicate"), (1.1, "")):
        seen = NearDuplicateIndex(near)
        seen.add("How do I  paint a boat?", "x")
        assert seen.twin("how do I paint\na boat?")[0] == wanted
        assert seen.twin("how do I paint two boats?")[0] == ""


def test_lengths():
    assert screening.length_fault("  abc ", 3, 3) == ""
    assert screening.length_fault("abc", 4, 0).startswith("short: fewer than 4")
    assert screening.length_fault("abcd", 1, 3).startswith("long: more than 3")


def test_a_language_needs_the_extra(monkeypatch):
    assert screening.language_check("")("whatever") == ""
    monkeypatch.setattr(screening.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"--language=en: needs py3langid: pip install 'jaxtrain\[filters\]'"
    ):
        screening.language_check("en")


def test_languages_are_told_apart():
    pytest.importorskip("py3langid")
    fault = screening.language_check("en")
    assert fault("How do I wash a bike, and what do I need for it?") == ""
    assert fault("Comment est-ce que je lave un vélo, et de quoi ai-je besoin ?") == "language: fr, not en"
    with pytest.raises(ConfigError, match=r"--language=xx: not one of .*en"):
        screening.language_check("xx")
    assert "py3langid" in sys.modules
