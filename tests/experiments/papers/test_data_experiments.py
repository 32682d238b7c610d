"""Deduplication and filtering: their corpora and measures by hand, and their verdicts on made-up results."""

import dataclasses
import types

import numpy as np
import pytest

from experiments.papers import dedup, filtering, recipes
from experiments.papers.recipes import CorpusFlags
from jaxtrain.config import ConfigError
from tests.experiments.papers.drawn import outcomes

SMALL = dedup.Dedup(corpus=CorpusFlags(documents=1200), repeated=dedup.DedupFlags(copies=10))


@pytest.fixture(scope="module")
def copied():
    return dedup.with_copies(SMALL, np.random.Generator(np.random.Philox(0)), 0)


def test_the_corpus_has_the_copies_that_the_flags_say(copied):
    corpus, sources, originals = copied
    assert len(corpus) == len(sources) == 1200
    groups = {s for s in sources if s >= 0}
    assert len(groups) == 24 and sum(s >= 0 for s in sources) == 240
    for group in groups:
        members = [corpus[i] for i, s in enumerate(sources) if s == group]
        assert len(members) == 10 and len({dedup.serial_of(text) for text in members}) == 1
        # Five are edited, each at some word.
        assert sources.index(group) == group and 2 <= len(set(members)) <= 6
    assert sorted(originals) == sorted({dedup.serial_of(corpus[group]) for group in groups})
    assert all(corpus.count(text) >= 5 for text in originals.values())
    serials = [dedup.serial_of(text) for text, s in zip(corpus, sources, strict=True) if s < 0]
    assert len(set(serials)) == len(serials) == 960


def test_copies_are_found_and_measured(copied):
    corpus, sources, _ = copied
    unique = dedup.deduplicate(corpus, SMALL.near)
    precision, recall = dedup.precision_and_recall(sources, unique)
    assert precision >= 0.95 and recall >= 0.95
    assert dedup.precision_and_recall([0, 0, 0, -1, 4, 4], [0, 3, 4]) == (1.0, 1.0)
    # A single document dropped, a copy kept: of two dropped one is right, and of three copies too many one is gone.
    assert dedup.precision_and_recall([0, 0, 0, -1, 4, 4], [0, 1, 4, 5]) == (0.5, pytest.approx(1 / 3))
    assert dedup.precision_and_recall([0, 0, -1], [2]) == (0.0, 0.0)  # all copies gone: none of them rightly


def test_what_a_run_has_memorised():
    texts = [
        f"No. {serial}\none two three four five six seven eight nine ten eleven"
        for serial in ("AAAAAA", "BBBBBB")
    ]

    class Runs:
        seed = 0

        def sample(self, run, prompts, *flags, max_new):
            if "--temperature=0" in flags:
                body = texts[0].partition("\n")[2]
                return [
                    {"prompt": "No. AAAAAA", "completion": body},
                    {"prompt": "No. BBBBBB", "completion": "other"},
                ]
            return [{"completion": text} for text in (*texts, "No. CCCCCC\n", "plain")]

        def rows(self, run):
            return [{"eval/loss": 1.5}]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "write_records", lambda *_: "jsonl:x")
        found = dedup.memorisation(SMALL, Runs(), None, texts)
    assert found == {"loss": 1.5, "recited": 1, "documents": 2, "emitted": 2, "samples": 4}


def test_the_verdict_of_deduplication(tmp_path):
    def seed(emitted=150, loss=0.98, recall=1.0):
        one = {"recited": 40, "documents": 48, "samples": 2_000}
        arms = {
            "copies": one | {"emitted": emitted, "loss": 1.0},
            "deduplicated": one | {"emitted": 0, "loss": loss},
        }
        return arms | {"precision": 0.99, "recall": recall}

    cfg = dedup.Dedup()
    assert dedup.ratio(seed(), "emitted") == 150  # with none left, as if it were one
    assert outcomes(dedup, cfg, [seed()] * 3, tmp_path) == [True] * 4
    assert outcomes(dedup, cfg, [seed(4, 1.02, 0.9)] * 3, tmp_path) == [False, False, True, False]


def test_area_under_the_curve_by_hand():
    assert filtering.auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == pytest.approx(0.75)
    assert filtering.auc([0.5, 0.5], [True, False]) == 0.5
    assert filtering.auc([0.1, 0.9], [False, True]) == 1


def test_the_verdict_of_filtering(tmp_path):
    def seed(classifier, auc=0.99):
        loss = {"none": 1.0, "rules": 0.9, "classifier": classifier, "oracle": 0.8}
        return {"loss": loss, "auc": auc, "documents": dict.fromkeys(loss, 1)}

    cfg = filtering.Filtering()
    assert filtering.gained(seed(0.85), "classifier") == pytest.approx(0.75)
    assert filtering.gained({"loss": dict.fromkeys(filtering.FILTERS, 1.0)}, "classifier") == 0
    assert outcomes(filtering, cfg, [seed(0.81)] * 3, tmp_path) == [True, True]
    assert outcomes(filtering, cfg, [seed(0.85, auc=0.97)] * 3, tmp_path) == [False, False]


def test_flags_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="--repeated"):
        dedup.DedupFlags(repeated=1.0)
    with pytest.raises(ConfigError, match="--junk"):
        filtering.FilteringFlags(junk=0.0)
    many = dataclasses.replace(
        SMALL, corpus=CorpusFlags(documents=500), repeated=dedup.DedupFlags(copies=400)
    )
    with pytest.raises(ConfigError, match="not one document"):
        dedup.with_copies(many, None, 0)


def test_filters_leave_corpora_that_share_a_tokenizer(tmp_path):
    """The whole measure but the training, whose commands are recorded."""
    commands = []
    runs = types.SimpleNamespace(
        folder=tmp_path, seed=3, train=lambda *command: commands.append(command) or len(commands),
        rows=lambda run: [{"eval/loss": 1.0 / run}],
    )  # fmt: skip
    cfg = filtering.Filtering(
        corpus=CorpusFlags(documents=500, held_out=20), junked=filtering.FilteringFlags(labels=200)
    )
    found = filtering.measure(cfg, runs)
    assert found["auc"] > 0.98 and found["documents"]["oracle"] < found["documents"]["none"] == 500
    assert found["loss"] == {"none": 1.0, "rules": 0.5, "classifier": 1 / 3, "oracle": 0.25}
    shared = [
        {one for one in command if one.startswith(("--tokenizer", "--eval_data"))} for command in commands
    ]
    assert all(one == shared[0] and len(one) == 2 for one in shared)
    corpora = {one for command in commands for one in command if one.startswith("--data")}
    assert len(corpora) >= 3, "equal corpora are one run"
