"""Process rewards: where steps end, what their function gets, where its scores stand, and what is wrong with them."""

import types

import numpy as np
import pytest

from jaxtrain.config import ConfigError, Failure, Scores
from jaxtrain.ops import returns
from jaxtrain.rewards import functions
from jaxtrain.rl import advantages, rollouts, scoring, step_scores
from jaxtrain.rl.config import Episodes, StepScores
from tests.rl.test_scoring import END, PROMPTS, TOKENS, completion, scored, settings

COMPLETIONS = [completion("a\n\nbé\n"), completion("one line"), completion("x\ny", ended=False)]


def text_of(ids):
    return TOKENS.decode_completion([i for i in ids if i != END])


def batch():
    found, _ = scored(settings(max_new=20), COMPLETIONS, scores=(1.0, 2.0, float("nan")))
    return found


def with_scores(tmp_path, body, name="f"):
    (tmp_path / "steps.py").write_text(body)
    reward = functions.resolve(f"{tmp_path}/steps.py:{name}", "process_reward")
    return step_scores.with_step_scores(batch(), PROMPTS, reward, text_of, "\n")


def test_a_step_ends_with_its_separator_or_the_completion():
    ids = [each.ids for each in COMPLETIONS]
    assert step_scores.split(ids[0], text_of, "\n") == [
        ("a", 2),
        ("bé", 7),
    ]  # two bytes of é; the end is no step
    assert step_scores.split(ids[1], text_of, "\n") == [("one line", 9)]
    assert step_scores.split(ids[2], text_of, "\n") == [("x", 2), ("y", 3)]
    assert step_scores.split([END], text_of, "\n") == [] and step_scores.split([], text_of, "\n") == []
    assert step_scores.split(ids[0], text_of, "\n\n") == [("a", 3), ("bé\n", 8)]


def test_scores_stand_at_the_last_token_of_their_step_and_are_added(tmp_path):
    body = (
        "def f(prompts, completions, steps, n):\n"
        "    assert prompts == ['Hi?', 'Why not?', 'Go'] and n == [1, 1, 1]\n"
        "    assert steps == [['a', 'bé'], ['one line'], ['x', 'y']], steps\n"
        "    assert completions == ['a\\n\\nbé\\n', 'one line', 'x\\ny']\n"
        "    return [[0.5, -1], [2], None]\n"
    )
    found = with_scores(tmp_path, body)
    rewards, mask = found.rows["turn_rewards"], found.rows["mask"]
    places = [np.flatnonzero(row) for row in mask]
    assert rewards[0, places[0][[1, 6]]].tolist() == [0.5, -1] and rewards[1, places[1][8]] == 2
    assert np.abs(rewards).sum() == 3.5
    assert found.scores[:2].tolist() == [0.5, 4.0] and np.isnan(found.scores[2])
    assert found.stats["rewards/process/mean"].tolist() == [-0.5, 2, 0]
    assert found.stats["process/steps"].tolist() == [2, 1, 2]
    assert found.extra["step_scores"].tolist() == ["0.5, -1", "2", "0, 0"]


def test_ppo_has_each_score_as_a_reward_where_it_stands(tmp_path):
    """GAE by hand with γ = λ = 1 and no values: a token's advantage is what follows of step scores and score."""
    found = with_scores(
        tmp_path, "def f(steps, **columns):\n    return [[1] * len(each) for each in steps]\n"
    )
    rows = {**found.rows, "old_logps": np.zeros_like(found.rows["mask"])}
    rewards = np.asarray(advantages._rewards(rows, found.scores, 0.0))
    a, _ = returns.gae(rewards, np.zeros_like(rewards), rows["mask"], gamma=1.0, lam=1.0)
    tokens = np.asarray(a)[0][rows["mask"][0] > 0]
    assert tokens.tolist() == [3, 3, 2, 2, 2, 2, 2, 1]  # 2 steps, then the score of 1 at the end


WRONG = [
    (
        "return [1, 2, 3]",
        r"steps.py:f returned a float|returned a int at row 0 \(Hi\?\), not a list of a score a step",
    ),
    ("return [[1], [2], [3, 4]]", r"returned 1 scores for 2 steps at row 0 \(Hi\?\)"),
    (
        "return [[1, 2], [float('nan')], [3, 4]]",
        r"returned nan at row 1 \(Why not\?\), which is not a finite number",
    ),
    ("return [[1, 'a'], [2], [3, 4]]", "returned 'a' at row 0"),
    ("return [[1, 2]]", "returned 1 values for 3 completions"),
    ("raise KeyError('no')", "raised KeyError: 'no'"),
]


@pytest.mark.parametrize("body, message", WRONG)
def test_scores_that_are_none_end_the_run_with_their_place(tmp_path, body, message):
    with pytest.raises(Failure, match=message):
        with_scores(tmp_path, f"def f(steps, **columns):\n    {body}\n")


def config_of(text, **flags):
    cfg = settings(max_new=20, **flags)
    cfg.steps = StepScores(process_reward=text)
    return cfg


def test_prompts_are_those_that_the_completions_are_of(tmp_path):
    (tmp_path / "s.py").write_text(
        "def f(completions, prompts, steps):\n    return [[len(p)] * len(s) for p, s in zip(prompts, steps)]\n"
    )
    cfg = config_of(f"{tmp_path}/s.py:f", batch_size=3, minibatches=1)
    how, _ = scoring_setup()
    setup = rollouts.RolloutConfig(PROMPTS, how, None, None, None, None)
    order = rollouts.prompt_order(3, cfg.run.seed, 6, 3)

    def sample(state, taken, count):
        assert (taken, count) == (6, 3)
        prompts = [PROMPTS[i] for i in order]
        return scoring.score_completions(cfg, how, prompts, [completion("a")] * 3)

    wrap = step_scores.wrapper_of(cfg, types.SimpleNamespace(tokenizer=TOKENS))
    found = wrap(setup, sample)(None, 6)
    lengths = [len(PROMPTS[i].messages[0]["content"]) for i in order]
    assert found.stats["rewards/process/mean"].tolist() == lengths


def scoring_setup():
    scorer = scoring.CompletionScorer(lambda rows, prompts, texts: [0.0] * len(texts), [])
    return scoring.ScoringConfig(scorer, TOKENS, (END,), frozenset(), None), None


def test_flags_that_contradict_it_are_refused(tmp_path):
    (tmp_path / "s.py").write_text("def f(completions, steps, answer):\n    return []\n")
    name = f"{tmp_path}/s.py:f"
    assert step_scores.wrapper_of(config_of(""), None) is None
    turns = config_of(name)
    turns.episodes = Episodes(env="tinytown:search")
    with pytest.raises(ConfigError, match="--env gives rewards of its own by turn; leave out one of them"):
        step_scores.wrapper_of(turns, None)
    cut = config_of(name)
    cut.scores = Scores(reward="gold", truncate_at=".")
    with pytest.raises(ConfigError, match="--truncate_at ends a completion before its last token"):
        step_scores.wrapper_of(cut, None)
    setup = rollouts.RolloutConfig(PROMPTS, scoring_setup()[0], None, None, None, None)
    wrap = step_scores.wrapper_of(config_of(name), types.SimpleNamespace(tokenizer=TOKENS))
    with pytest.raises(
        ConfigError, match=r"s\.py:f: it needs answer, which --data=tinytown:sft does not have"
    ):
        wrap(setup, None)
    with pytest.raises(ConfigError, match="--step_separator=;: acts only with --process_reward"):
        StepScores(step_separator=";")
    assert StepScores(process_reward="m:f", step_separator="\\n\\n").separator() == "\n\n"
