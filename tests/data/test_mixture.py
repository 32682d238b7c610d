"""Weights by step: which source each row is of, by hand and in every share; what contradicts itself."""

import json
from collections import Counter

import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import mixture, pipeline, source_spec
from tests.runs import jsonl, rows, same_arrays


def parse(text):
    return source_spec.parse(text)


def order(weights, count):
    """The sources of the first rows, one after the other."""
    found, taken = [], [0] * len(weights)
    for _ in range(count):
        found.append(mixture._next(weights, taken))
        taken[found[-1]] += 1
    return found


def test_rows_are_spread_evenly():
    assert order((1, 1), 6) == [0, 1, 0, 1, 0, 1]
    assert order((3, 1), 8) == [0, 0, 1, 0, 0, 0, 1, 0]
    assert order((0, 2, 1), 6) == [1, 2, 1, 1, 2, 1]


@pytest.mark.parametrize("weights", [(1,), (7, 3), (1, 1, 1), (1, 0, 5), (999, 1), (3, 5, 7, 11)])
def test_the_number_of_a_row_says_how_many_are_before_it(weights):
    taken = [0] * len(weights)
    for n, source in enumerate(order(weights, 150)):
        assert mixture.counts(weights, n) == taken
        taken[source] += 1
    n = 10**9 + 7
    found = mixture.counts(weights, n)
    assert sum(found) == n
    assert all(abs(a - n * w / sum(weights)) <= len(weights) for a, w in zip(found, weights, strict=True))


def test_each_source_goes_on_where_it_stood():
    sources = parse("jsonl:a*0.7@0,jsonl:a*0.2@5,jsonl:b*0.3@0,jsonl:b*0.8@5,jsonl:c*1@10")
    assert [source.name for source in sources] == ["a", "b", "c"]
    sets = [[f"{name}{i}" for i in range(200)] for name in "abc"]
    mixed = mixture._Rows(sets, mixture.segments(sources, batch_size=20))
    taken = [mixed[i] for i in range(400)]
    for name in "abc":
        own = [row for row in taken if row[0] == name]
        assert own == [f"{name}{i}" for i in range(len(own))], "in order, none left out, none twice"
    shares = [Counter(row[0] for row in taken[part * 100 : part * 100 + 100]) for part in range(4)]
    assert shares[0] == {"a": 70, "b": 30} and shares[1] == {"a": 20, "b": 80}
    assert shares[2]["c"] == pytest.approx(50, abs=1) and shares[3]["b"] == pytest.approx(40, abs=1)
    assert [mixed[i] for i in (399, 0, 250, 101)] == [taken[i] for i in (399, 0, 250, 101)]


def test_a_weight_may_be_0_for_a_while():
    sources = parse("jsonl:a*1@0,jsonl:a*0@3,jsonl:b*1@3,jsonl:a*1@6")
    assert mixture.steps(sources) == [0, 3, 6]
    assert [mixture.weights_at(sources, step) for step in (0, 2, 3, 6, 99)] == [
        [1, 0], [1, 0], [0, 1], [1, 1], [1, 1],
    ]  # fmt: skip
    plain = parse("jsonl:a*0.7,jsonl:b*0.3,jsonl:b")
    assert [(one.weight, one.schedule) for one in plain] == [(0.7, ()), (0.3, ()), (1.0, ())], "as it was"
    assert repr(plain[0]).count("schedule") == 0, "older fingerprints have no such field"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jsonl:a*0.7@0", "weights by step act only beside another source"),
        ("jsonl:a*0.7@0,jsonl:a*0.2@5", "weights by step act only beside another source"),
        ("jsonl:a*0.7@5,jsonl:b*0.2@9", "no source has a weight above 0 at step 0"),
        ("jsonl:a*1@0,jsonl:a*0@7,jsonl:b*0@0", "no source has a weight above 0 at step 7"),
        ("jsonl:a*0.7@0,jsonl:a*0.2@0,jsonl:b", "jsonl:a has two weights at step 0"),
        ("jsonl:a*0.7@0,jsonl:a*0.2,jsonl:b", "jsonl:a has a weight with a step and one without"),
        ("jsonl:a,jsonl:a*0.2@4,jsonl:b", "jsonl:a has a weight with a step and one without"),
        ("jsonl:a*0.7@-1,jsonl:b", "@-1 must be the number of a step, such as"),
        ("jsonl:a*0.7@,jsonl:b", "@ must be the number of a step"),
        ("jsonl:a*0.7@1e4,jsonl:b", "@1e4 must be the number of a step"),
        ("tinytown:pretrain*-1@3,jsonl:b", r"the weight \*-1 must be a number above 0"),
    ],
)
def test_what_contradicts_itself_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_held_out_data_has_no_weights():
    cfg = config.Corpus(data="tinytown:pretrain", eval_data="tinytown:pretrain*1@0,jsonl:x.jsonl*1@0")
    with pytest.raises(ConfigError, match="every document is read once: leave out the weight"):
        source_spec.check(cfg)


@pytest.fixture(scope="module")
def corpora(bench):
    numbers = [{"text": " ".join(str(i * 7 % 10) for i in range(n))} for n in range(4, 60)]
    one = bench.corpus.removeprefix("--data=")
    return one, jsonl(bench.folder / "digits.jsonl", numbers)


def test_batches_have_their_steps_shares_and_the_table_says_them(bench, corpora):
    one, two = corpora
    cfg = config.Corpus(
        data=f"{one}*0.75@0,{one}*0.25@4,{two}*0.25@0,{two}*0.75@4", eval_share=0.2, tokenizer="byte", seq_len=32,
        batch_size=8, cache_dir=bench.cache.partition("=")[2],
    )  # fmt: skip
    data = pipeline.prepare(cfg, seed=0)

    def digits(batch):
        return int(np.isin(batch["tokens"], list(b"0123456789")).any(-1).sum())

    assert [digits(data.train.batch(i)) for i in range(8)] == [2, 2, 2, 2, 6, 6, 6, 6]
    said = json.dumps(data.table)
    assert "75% from step 0, 25% from step 4 of the rows; at most of them an epoch is" in said


def test_a_run_resumes_to_the_bit_over_a_change(bench, corpora):
    one, two = corpora
    data = f"--data={one}*1@0,{one}*1@6,{two}*3@6"
    flags = ("--steps=12", "--eval_every=0", "--sample_every=0", "--checkpoint_every=5", "--keep=3")
    whole, again = bench.folder / "whole", bench.folder / "again"
    bench.main(*flags, f"--workdir={whole}", data=data)
    bench.main(*flags, f"--workdir={again}", data=data)
    for step in ("12", "10"):  # as a run that was killed after step 5
        for path in sorted((again / "checkpoints" / step).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (again / "checkpoints" / step).rmdir()
    assert "resuming from step 5 of 12" in bench.main(*flags, f"--workdir={again}", data=data)
    same_arrays(whole, again, 12)
    assert rows(again)[-1]["eval/loss"] == rows(whole)[-1]["eval/loss"]
