"""Planted defects: labelled, of the promised shares, and without effect on other documents."""

import math
from collections import Counter

import pytest

from jaxtrain.worlds.tinytown.configs import Pretrain
from jaxtrain.worlds.tinytown.documents import document, documents

CLEAN = Pretrain()


DEFECTS = Pretrain(documents=6_000, originals=200, dup=0.1, near_dup=0.1, junk=0.1, spam=0.05, pii=0.05)


def test_defects_are_planted_and_labelled():
    clean = list(documents(CLEAN, 0, 0, 6_000))
    made = list(documents(DEFECTS, 0, 0, 6_000))
    counts = Counter(d.defect for d in made[200:])
    expected = {"": 0.6, "duplicate": 0.1, "near_duplicate": 0.1, "shuffled": 0.05, "boilerplate": 0.05}
    for name, share in (expected | {"spam": 0.05, "pii": 0.05}).items():
        assert counts[name] / 5_800 == pytest.approx(share, abs=0.015), name
    assert made[:200] == clean[:200]
    for i, (was, now) in enumerate(zip(clean, made, strict=True)):
        assert document(DEFECTS, 0, i) == now if i % 500 == 0 else True
        if now.defect == "":
            assert now == was
        elif now.defect == "duplicate":
            assert (now.text, now.logp) == clean[now.source][:2]
        else:
            assert math.isnan(now.logp)
        if now.defect == "near_duplicate":
            assert now.text != clean[now.source].text
        if now.defect == "shuffled":
            assert sorted(now.text) == sorted(was.text)
        if now.defect == "pii":
            assert now.planted in now.text and now.text.startswith(was.text)
        assert (now.source >= 0) == (now.defect in ("duplicate", "near_duplicate"))
        assert bool(now.planted) == (now.defect == "pii")


def test_duplicates_follow_zipf():
    config = Pretrain(documents=20_000, originals=100, dup=1.0)
    sources = Counter(d.source for d in documents(config, 0, 100, 5_100))
    harmonic = sum(1 / rank for rank in range(1, 101))
    assert sources[0] / 5_000 == pytest.approx(1 / harmonic, abs=0.02)
    assert sources[9] / 5_000 == pytest.approx(0.1 / harmonic, abs=0.01)
    assert not any(d.defect for d in documents(config, 0, 0, 500, "validation"))
