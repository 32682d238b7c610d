"""Sampled completions and their scores, and prompts that leave room for one."""

import types

import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.rewards import models
from jaxtrain.rewards.function_args import TrainerState
from jaxtrain.rewards.models import CompletionScorer
from jaxtrain.rl import scoring
from jaxtrain.rl.config import Episodes, RolloutSampler, Watch
from jaxtrain.rl.scoring import ScoringConfig
from jaxtrain.stages.sampling import SampledTokens
from tests.rewards.test_models import OnePlan

TOKENS = ByteTokenizer()
BOS, END = TOKENS.bos, TOKENS.eos
SCORES = (0.7, -0.3, 0.2)


def ids(text):
    return [int(i) for i in TOKENS.encode([text])[0]]


def prompt(text):
    return Prompt(({"role": "user", "content": text},), np.array([BOS, *ids(text)], np.int32), {"n": 1})


def completion(text, ended=True):
    return SampledTokens([*ids(text), END] if ended else ids(text), ended)


PROMPTS = [prompt("Hi?"), prompt("Why not?"), prompt("Go")]
COMPLETIONS = [completion("Yes. No."), completion("It is"), completion("So be it", ended=False)]


def settings(seq_len=32, max_new=10, too_long="cut", batch_size=4, minibatches=3, seed=0, **scores):
    return types.SimpleNamespace(
        samples=config.Rollouts(max_new=max_new, minibatches=minibatches),
        scores=config.Scores(reward="gold", **scores),
        data=config.Dialogs(seq_len=seq_len, too_long=too_long, batch_size=batch_size),
        run=config.Run(seed=seed),
        watch=Watch(),
        episodes=Episodes(),
        sampler=RolloutSampler(),
    )


def scored(cfg, completions=COMPLETIONS, scores=SCORES, gold=None, ends=(END,)):
    """(the scored batch, the arguments of its scorer)."""
    seen = {}

    def score(rows, prompts, texts):
        seen.update(rows=rows, prompts=prompts, texts=texts)
        return list(scores)

    how = ScoringConfig(
        scorer=CompletionScorer(score, []), tokenizer=TOKENS, ends=ends,
        truncation_tokens=scoring.truncation_tokens(TOKENS, cfg.scores), gold=gold,
    )  # fmt: skip
    return scoring.score_completions(cfg, how, PROMPTS, completions), seen


def test_a_scorer_gets_the_texts_and_its_scores_stay_floats():
    batch, seen = scored(settings())
    assert batch.scores.dtype == np.float32 and batch.scores.tolist() == np.array(SCORES, "f").tolist()
    assert seen["texts"] == ["Yes. No.", "It is", "So be it"] and seen["prompts"] is PROMPTS
    assert batch.ended.tolist() == [True, True, False]
    lengths = [len(each.ids) for each in COMPLETIONS]
    assert batch.stats["completions/mean_length"].tolist() == lengths == [9, 6, 8]
    assert batch.stats["completions/clipped_ratio"].tolist() == [0, 0, 1]
    for row, (prompt, new) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        in_loss = batch.rows["targets"][row][batch.rows["mask"][row] > 0]
        assert in_loss.tolist() == new.ids
        assert seen["rows"]["length"][row] == len(prompt.ids) + len(new.ids) == batch.rows["length"][row]


def test_any_end_is_in_the_loss_and_no_part_of_the_text():
    other = ids("!")[0]  # an end that the tokenizer decodes
    completions = [SampledTokens([*ids("Yes"), other], True), *COMPLETIONS[1:]]
    batch, seen = scored(settings(), completions, ends=(END, other))
    assert seen["texts"] == ["Yes", "It is", "So be it"] and batch.ended.tolist() == [True, True, False]
    assert batch.rows["targets"][0][batch.rows["mask"][0] > 0].tolist() == [*ids("Yes"), other]


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
    batch, _ = scored(settings(**flags))
    np.testing.assert_allclose(batch.scores, wanted, atol=1e-6)
    assert batch.rows["mask"].sum(1).tolist() == [9, 6, 8]


def test_a_completion_is_scored_up_to_a_token_and_trained_on_whole():
    batch, seen = scored(settings(truncate_at=".", truncate_from=0, truncated="replace", truncated_penalty=3))
    assert seen["texts"] == ["Yes.", "It is", "So be it"]
    assert seen["rows"]["length"].tolist() == [len(PROMPTS[0].ids) + 4, *batch.rows["length"][1:]]
    assert batch.rows["mask"].sum(1).tolist() == [9, 6, 8]
    assert batch.ended.tolist() == [True, False, False]  # the second has an end token, and none of these
    np.testing.assert_allclose(batch.scores, [0.7, -3, -3])
    assert batch.stats["completions/clipped_ratio"].tolist() == [0, 1, 1]
    later = scored(settings(truncate_at=".", truncate_from=4))[1]
    assert later["texts"][0] == "Yes. No."
    assert not scored(settings(truncate_at=".", truncate_from=8))[0].ended.any()


def test_a_text_that_no_token_has_is_refused():
    with pytest.raises(ConfigError, match="--truncate_at=So be: the tokenizer has no token with this text"):
        scoring.truncation_tokens(TOKENS, config.Scores(truncate_at="So be"))
    assert scoring.truncation_tokens(TOKENS, config.Scores()) == frozenset()


LONG = [prompt("a"), prompt("b" * 20), prompt("c" * 29)]


@pytest.mark.parametrize(
    "too_long, sizes, wanted",
    [
        ("cut", [2, 21, 22], ["1 prompts longer than 22 tokens lost their beginning"]),
        ("drop", [2, 21], ["1 prompts longer than 22 tokens left out"]),
    ],
)
def test_prompts_leave_room_for_completions(too_long, sizes, wanted):
    fitting, lines = scoring.fitting_prompts(LONG, settings(too_long=too_long), BOS)
    assert [len(each.ids) for each in fitting] == sizes and lines == wanted
    assert all(each.ids[0] == BOS for each in fitting)


def test_no_prompt_that_fits_is_an_error_with_its_numbers():
    with pytest.raises(ConfigError, match=r"--data=tinytown:sft: no prompt fits 22 tokens.*shortest has 30"):
        scoring.fitting_prompts(LONG[2:], settings(too_long="drop"), BOS)
    with pytest.raises(ConfigError, match="--max_new=32: --seq_len=32 leaves no room for a prompt"):
        scoring.fitting_prompts(LONG, settings(max_new=32), BOS)


def test_functions_are_scored_with_ids_and_their_logs_are_written(tmp_path):
    (tmp_path / "mine.py").write_text("""
def ids(completions, completion_ids, trainer_state, log_extra, log_metric, **columns):
    log_extra("first", [each[0] for each in completion_ids])
    log_metric("step", trainer_state.global_step)
    return [None if len(each) == 6 else len(each) for each in completion_ids]

def one(completions, n, **columns):
    return [None if text == "It is" else i for text, i in zip(completions, n)]
""")
    text = f"{tmp_path}/mine.py:ids,{tmp_path}/mine.py:one*0.5"
    how = ScoringConfig(models.function_scorer(text, OnePlan()), TOKENS, (END,), frozenset(), None)
    state = TrainerState(global_step=7)
    batch = scoring.score_completions(settings(), how, PROMPTS, COMPLETIONS, state)
    np.testing.assert_array_equal(batch.scores, [9.5, np.nan, 8.5])
    assert batch.scored.tolist() == [True, False, True]
    np.testing.assert_array_equal(batch.stats["rewards/ids/mean"], [9, np.nan, 8])
    assert batch.stats["step"].tolist() == [7.0] * 3 and batch.stats["completions/unscored"].tolist() == [
        0,
        1,
        0,
    ]
    assert batch.extra["first"][0] == ids("Y")[0]


def test_verified_rewards_are_reported_each_by_its_name_with_its_faults():
    text = r'regex?pattern="It"*2,format?structure=boxed,regex?column=own&name=own'
    how = ScoringConfig(models.function_scorer(text, OnePlan()), TOKENS, (END,), frozenset(), None)
    prompts = [
        each._replace(record={"own": own}) for each, own in zip(PROMPTS, ("Y", "(", None), strict=True)
    ]
    batch = scoring.score_completions(settings(), how, prompts, COMPLETIONS)
    assert {"rewards/regex/mean", "rewards/format/mean", "rewards/own/mean"} <= batch.stats.keys()
    parts = [batch.stats[f"rewards/{name}/mean"] for name in ("regex", "format", "own")]
    np.testing.assert_allclose(batch.scores, 2 * parts[0] + parts[1] + np.nan_to_num(parts[2]))
    np.testing.assert_allclose(batch.stats["own/bad_pattern"], [1 / 3] * 3, rtol=1e-6)
    np.testing.assert_allclose(batch.stats["own/no_pattern"], [1 / 3] * 3, rtol=1e-6)
    assert np.isnan(parts[2]).tolist() == [False, True, True]
