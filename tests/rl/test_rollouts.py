"""Drawn completions and what they score, the order of prompts, groups drawn again, and rollouts kept on disk."""

import json
import types

import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.rewards.models import CompletionScorer
from jaxtrain.rl import rollout_store, rollouts, scoring
from jaxtrain.rl.rollout_store import Rollout
from jaxtrain.rl.scoring import ScoredBatch, ScoringConfig
from jaxtrain.stages.sampling import SampledTokens

TOKENS = ByteTokenizer()
BOS, END = TOKENS.bos, TOKENS.eos
SCORES = (0.7, -0.3, 0.2)


def ids(text):
    return [int(i) for i in TOKENS.encode([text])[0]]


def asked(text):
    return Prompt(({"role": "user", "content": text},), np.array([BOS, *ids(text)], np.int32), {"n": 1})


def drawn(text, ended=True):
    return SampledTokens([*ids(text), END] if ended else ids(text), ended)


PROMPTS = [asked("Hi?"), asked("Why not?"), asked("Go")]
DRAWN = [drawn("Yes. No."), drawn("It is"), drawn("So be it", ended=False)]


def settings(seq_len=32, max_new=10, too_long="cut", batch_size=4, minibatches=3, seed=0, **scores):
    return types.SimpleNamespace(
        samples=config.Rollouts(max_new=max_new, minibatches=minibatches),
        scores=config.Scores(reward="gold", **scores),
        data=config.Dialogs(seq_len=seq_len, too_long=too_long, batch_size=batch_size),
        run=config.Run(seed=seed),
    )


def scored(cfg, found=DRAWN, scores=SCORES, gold=None):
    """(what is made of completions, what their judge was shown)"""
    seen = {}

    def judged(rows, openings, texts):
        seen.update(rows=rows, openings=openings, texts=texts)
        return list(scores)

    stops = scoring.truncation_tokens(TOKENS, cfg.scores)
    how = ScoringConfig(CompletionScorer(judged, []), TOKENS, END, stops, gold)
    return scoring.score_completions(cfg, how, PROMPTS, found), seen


def test_a_judge_sees_the_texts_and_its_scores_stay_floats():
    made, seen = scored(settings())
    assert made.scores.dtype == np.float32 and made.scores.tolist() == np.array(SCORES, "f").tolist()
    assert seen["texts"] == ["Yes. No.", "It is", "So be it"] and seen["openings"] is PROMPTS
    assert made.ended.tolist() == [True, True, False]
    lengths = [len(each.ids) for each in DRAWN]
    assert made.stats["completions/mean_length"].tolist() == lengths == [9, 6, 8]
    assert made.stats["completions/clipped_ratio"].tolist() == [0, 0, 1]
    for row, (prompt, new) in enumerate(zip(PROMPTS, DRAWN, strict=True)):
        learnt = made.rows["targets"][row][made.rows["mask"][row] > 0]
        assert learnt.tolist() == new.ids
        assert seen["rows"]["length"][row] == len(prompt.ids) + len(new.ids) == made.rows["length"][row]


@pytest.mark.parametrize(
    "flags, wanted",
    [
        ({"truncated": "score"}, SCORES),
        ({"truncated": "mask"}, SCORES),
        ({"truncated": "subtract", "truncated_penalty": 0.5}, (0.7, -0.3, -0.3)),
        ({"truncated": "replace", "truncated_penalty": 2.5}, (0.7, -0.3, -2.5)),
        # Lengths 9, 6, 8 of at most 10, over the last 4: nothing up to 6, then a quarter a token.
        ({"overlong_buffer": 4}, (0.7 - 0.75, -0.3, 0.2 - 0.5)),
    ],
)
def test_what_a_missing_end_and_great_length_cost(flags, wanted):
    made, _ = scored(settings(**flags))
    np.testing.assert_allclose(made.scores, wanted, atol=1e-6)
    assert made.rows["mask"].sum(1).tolist() == [9, 6, 8]


def test_a_completion_is_scored_up_to_a_token_and_learnt_from_whole():
    made, seen = scored(settings(truncate_at=".", truncate_from=0, truncated="replace", truncated_penalty=3))
    assert seen["texts"] == ["Yes.", "It is", "So be it"]
    assert seen["rows"]["length"].tolist() == [len(PROMPTS[0].ids) + 4, *made.rows["length"][1:]]
    assert made.rows["mask"].sum(1).tolist() == [9, 6, 8]
    assert made.ended.tolist() == [True, False, False]  # the second has an end token, and none of these
    np.testing.assert_allclose(made.scores, [0.7, -3, -3])
    assert made.stats["completions/clipped_ratio"].tolist() == [0, 1, 1]
    later = scored(settings(truncate_at=".", truncate_from=4))[1]
    assert later["texts"][0] == "Yes. No."
    assert not scored(settings(truncate_at=".", truncate_from=8))[0].ended.any()


def test_a_text_that_no_token_has_is_refused():
    with pytest.raises(ConfigError, match="--truncate_at=So be: the tokenizer has no token with this text"):
        scoring.truncation_tokens(TOKENS, config.Scores(truncate_at="So be"))
    assert scoring.truncation_tokens(TOKENS, config.Scores()) == frozenset()


def test_completions_are_told_with_score_kl_and_gold():
    made, _ = scored(settings(), gold=lambda question, text: float(len(question) - len(text)))
    told = {"objective/scores": made.scores, "objective/kl": np.array([0.5, 0.25, 0]), **made.stats}
    found = [json.loads(line) for line in scoring.rollout_lines(made, told).splitlines()]
    assert found[2] == {
        "prompt": "Go", "completion": "So be it", "ended": False, "score": 0.2, "kl": 0.0, "gold": -6.0,
    }  # fmt: skip
    assert [row["gold"] for row in found] == [-5, 3, -6] and len(found) == 3
    table = scoring._table(found, "00000004.jsonl")
    assert "rollouts/00000004.jsonl" in table and "So be it …" in table and "-6.00" in table
    assert max(map(len, table.splitlines())) <= 80


LONG = [asked("a"), asked("b" * 20), asked("c" * 29)]


@pytest.mark.parametrize(
    "too_long, sizes, said",
    [
        ("cut", [2, 21, 22], ["1 prompts longer than 22 tokens lost their beginning"]),
        ("drop", [2, 21], ["1 prompts longer than 22 tokens left out"]),
    ],
)
def test_prompts_leave_room_for_completions(too_long, sizes, said):
    found, lines = scoring.fitting_prompts(LONG, settings(too_long=too_long), BOS)
    assert [len(each.ids) for each in found] == sizes and lines == said
    assert all(each.ids[0] == BOS for each in found)


def test_no_prompt_that_fits_is_told_with_its_numbers():
    with pytest.raises(ConfigError, match=r"--data=tinytown:sft: no prompt fits 22 tokens.*shortest has 30"):
        scoring.fitting_prompts(LONG[2:], settings(too_long="drop"), BOS)
    with pytest.raises(ConfigError, match="--max_new=32: --seq_len=32 leaves no room for a prompt"):
        scoring.fitting_prompts(LONG, settings(max_new=32), BOS)


@pytest.mark.parametrize("count, more", [(7, 3), (5, 5), (3, 8)])
def test_every_prompt_comes_once_an_epoch(count, more):
    found = [i for taken in range(0, 60, more) for i in rollouts.prompt_order(count, 1, taken, more)]
    epochs = [found[i : i + count] for i in range(0, len(found) - count + 1, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert rollouts.prompt_order(count, 1, 4, more) == found[4 : 4 + more]
    assert [*rollouts.prompt_order(count, 2, 0, 60)] != found


def group_of(scores, name):
    """A rollout whose rows tell where they come from."""
    size = len(scores)
    own = np.array([f"{name}{i}" for i in range(size)], object)
    rows = {"tokens": np.arange(size)[:, None] + 100 * (name == "new")}
    return ScoredBatch(rows, np.array(scores, "f"), np.ones(size, bool), {"n": np.arange(size)}, own[:, None])


@pytest.mark.parametrize(
    "fresh, wanted",
    [
        ([2, 3, 4, 4, 5, 6, 7, 8], "old0 old1 new0 new1 old4 old5 new4 new5"),
        ([4, 4, 5, 6, 7, 7, 7, 7], "old0 old1 new2 new3 old4 old5 old6 old7"),
        ([4, 4, 5, 5, 7, 7, 7, 7], "old0 old1 old2 old3 old4 old5 old6 old7"),
    ],
)
def test_groups_that_teach_nothing_are_replaced_whole_and_in_their_places(fresh, wanted):
    made = group_of([0, 1, 1, 1, 1, 0, 2, 2], "old")
    assert rollouts._flat(made, 2).tolist() == [False, True, False, True]
    found, new = rollouts._refilled(made, group_of(fresh, "new"), 2)
    assert " ".join(found.words[:, 0]) == wanted
    at = [int(word[3:]) for word in wanted.split()]
    assert new.tolist() == [word.startswith("new") for word in wanted.split()]
    assert found.rows["tokens"][:, 0].tolist() == [i + 100 * n for i, n in zip(at, new, strict=True)]
    assert found.stats["n"].tolist() == at


def test_an_epoch_of_updates_takes_each_row_of_the_rollout_once():
    cfg = settings()
    held = Rollout(6, 1, 0, 0.1, {"tokens": np.zeros((12, 2))}, 0, 0.1)
    epochs = [np.concatenate([rollouts._rows(cfg, held, 3 * e + i) for i in range(3)]) for e in range(2)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    other = np.concatenate([rollouts._rows(cfg, held._replace(first=12), i) for i in range(3)])
    assert other.tolist() != epochs[0].tolist()


def run_in(path, *saved, primary=True):
    for step in saved:
        (path / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
    return types.SimpleNamespace(path=path, primary=primary)


def held(first, seed=0):
    columns = {"tokens": np.random.default_rng(seed).integers(0, 9, (4, 3)).astype(np.int32)}
    columns["stats/objective/kl"] = np.float32([0.1, np.nan, 1e30, 0])
    return Rollout(first, first // 4, 8 * first, 0.1 + 1e-9 * first, columns, 8 * first + 8, 0.3)


def there(path):
    return sorted(int(file.stem) for file in (path / "rollouts").iterdir())


def test_a_rollout_comes_back_to_the_bit(tmp_path):
    run = run_in(tmp_path)
    assert rollout_store.load_rollout(run, 0, 0.25) == Rollout(0, -1, 0, 0.25, {}, 0, 0.25)
    for first in (0, 4, 8):
        rollout_store.save_rollout(run, held(first, first))
    for step, first in ((0, 0), (3, 0), (4, 4), (7, 4), (30, 8)):
        found, wanted = rollout_store.load_rollout(run, step, 9.0), held(first, first)
        assert found._replace(columns={}) == wanted._replace(columns={})
        assert found.columns.keys() == wanted.columns.keys()
        for name, x in wanted.columns.items():
            assert found.columns[name].dtype == x.dtype and found.columns[name].tobytes() == x.tobytes()
    rollout_store.save_rollout(run_in(tmp_path, primary=False), held(12))
    assert there(tmp_path) == [0, 4, 8]


def test_only_rollouts_that_no_checkpoint_needs_are_deleted(tmp_path):
    run = run_in(tmp_path)
    for first in (0, 4, 8):
        rollout_store.save_rollout(run, held(first))
    run_in(tmp_path, 6, 10)  # step 6 goes on in the middle of the rollout of 4
    rollout_store.save_rollout(run, held(12))
    assert there(tmp_path) == [4, 8, 12]
    (tmp_path / "checkpoints" / "6").rmdir()
    rollout_store.save_rollout(run, held(16))
    assert there(tmp_path) == [8, 12, 16]


def test_a_rollout_that_is_damaged_or_gone_stops_the_run_with_its_name(tmp_path):
    run = run_in(tmp_path, 6)
    rollout_store.save_rollout(run, held(4))
    file = tmp_path / "rollouts" / "00000004.npz"
    whole = file.read_bytes()
    bits = bytearray(whole)
    bits[whole.index(b"NUMPY") + 140] ^= 1  # within the first array
    for damaged in (whole[:-40], whole[:100], b"", bits, whole.replace(b"facts", b"fakes")):
        file.write_bytes(damaged)
        with pytest.raises(Failure, match=rf"{file} is damaged .*start again in another --workdir"):
            rollout_store.load_rollout(run, 6, 0.1)
    file.unlink()
    with pytest.raises(Failure, match="has no rollout of step 6 or before"):
        rollout_store.load_rollout(run, 6, 0.1)
