"""Scores and metrics of episodes: the environment's rewards with those of --reward, and what is reported of them."""

import numpy as np
import pytest

from jaxtrain.data.prompts import Prompt
from jaxtrain.rewards.function_args import Logs, TrainerState
from jaxtrain.rewards.functions import RewardScores
from jaxtrain.rewards.models import CompletionScorer
from jaxtrain.rl import episode_rows, flat_groups
from jaxtrain.rl.environment_spec import EnvironmentSpec
from jaxtrain.rl.episode_rows import Episode
from tests.rl.test_episodes import Counts, Lengths, sampled, text_of

TOTALS = np.array([1.0, 2.0, np.nan], "f")


def test_the_score_of_the_last_completion_is_added(monkeypatch):
    """Its prompt is all that stands before it; a reward model sees the whole row."""
    seen = {}

    def score(rows, prompts, texts):
        seen.update(rows=rows, prompts=prompts, texts=texts)
        return np.array([0.5, np.nan, -1.0, 0.0])

    scorer = CompletionScorer(score, [("reward model", "x")])
    batch = sampled(monkeypatch, Counts, scorer=scorer)
    assert batch.scores.tolist() == [4.5, 4.0, 3.0, 4.0]
    assert batch.stats["rewards/environment/mean"].tolist() == [4.0] * 4
    assert seen["texts"] == ["Yo"] * 4 and (seen["rows"]["length"] == batch.rows["length"]).all()
    messages = seen["prompts"][0].messages
    assert [message["role"] for message in messages] == ["system", "user", *["assistant", "user"] * 2]
    assert text_of(seen["prompts"][0].ids).endswith("Human: Turn 2.\nAI:")


@pytest.mark.parametrize(
    "flags, wanted",
    [
        ({"score_cap": 0.25}, [2.25, 2.25]),
        ({"truncated": "subtract", "truncated_penalty": 0.5}, [2.0, 2.0]),
        ({"truncated": "replace", "truncated_penalty": 0.5}, [-0.5, -0.5]),
    ],
)
def test_caps_are_of_the_score_and_penalties_of_the_episode(monkeypatch, flags, wanted):
    """Two turns, which the limit of turns cuts off: 2 of the environment and .5 of the scorer."""
    scorer = CompletionScorer(lambda rows, prompts, texts: np.full(4, 0.5, "f"), [("reward model", "x")])
    batch = sampled(monkeypatch, Counts, scorer=scorer, max_turns=2, scores=flags)
    assert batch.scores[:2].tolist() == wanted and batch.scores.dtype == np.float32
    assert batch.rows["turn_rewards"].sum(1).tolist() == [2.0] * 4
    assert batch.stats.get("objective/scores_capped", np.ones(4)).all()


def test_groups_of_equal_scores_are_replaced_by_other_episodes(monkeypatch):
    def graded(high):
        scores = np.array([0.0, 0.0, 0.0, high], "f")
        return CompletionScorer(lambda rows, prompts, texts: scores, [("reward model", "x")])

    batch = sampled(monkeypatch, Counts, scorer=graded(0.0), group=2)
    fresh = sampled(monkeypatch, Lengths, scorer=graded(5.0), group=2)
    both, new = flat_groups.refilled(batch, fresh, 2)
    assert new.tolist() == [True, True, False, False] and both.scores.tolist() == [6.0, 11.0, 4.0, 4.0]
    assert both.rows["turn_rewards"].sum(1).tolist() == [6.0, 6.0, 4.0, 4.0]
    assert both.turns[1] is fresh.turns[3] and both.turns[3] is batch.turns[3]


def test_functions_are_reported_beside_the_environment():
    own = np.array([0.5, np.nan, 3.0], "f")
    logs = Logs({"note": ["a", "b", "c"]}, {})
    scorer = CompletionScorer(None, [("reward", "f")], lambda *args: RewardScores(own, {"f": own}, logs))
    result = episode_rows.with_environment(scorer, TOTALS).evaluate({}, [], [], TrainerState())
    assert result.total.dtype == np.float32 and result.total[:2].tolist() == [0.5, 0.0], "None adds nothing"
    assert np.isnan(result.total[2]), "an episode with a fault has no score"
    assert list(result.by_function) == ["environment", "f"] and result.logs is logs


def test_an_environment_alone_is_not_reported_as_one_of_several():
    zero = CompletionScorer(lambda rows, prompts, texts: np.zeros(3), [])
    result = episode_rows.with_environment(zero, TOTALS).evaluate({}, [], [], TrainerState())
    assert list(result.by_function) == ["environment"] and result.total[:2].tolist() == [0.0, 0.0]


def test_metrics_are_of_the_episodes_that_report_them():
    one, other = EnvironmentSpec("a:One", Counts, 0.5), EnvironmentSpec("b:Two", Counts, 0.5)
    prompt = Prompt(({"role": "user", "content": "Q"},))
    episodes = [
        Episode(one, prompt, 0, completions=[(1, 2)], rewards=[0.5], metrics={"n": 2.0}),
        Episode(other, prompt, 0, completions=[(1, 2), (4, 5)], rewards=[1.0, 2.0], full=True),
        Episode(other, prompt, 0, completions=[(1, 2)], rewards=[1.0], fault="raised"),
    ]
    metrics = {name: column.tolist() for name, column in episode_rows.episode_metrics(episodes).items()}
    nan = pytest.approx(np.nan, nan_ok=True)
    assert metrics == {
        "environment/n": [2.0, nan, nan],
        "environment/One/reward": [0.5, nan, nan],
        "environment/Two/reward": [nan, 3.0, nan],
        "environment/turns": [1.0, 2.0, 1.0],
        "environment/full": [0.0, 1.0, 0.0],
        "environment/faults": [0.0, 0.0, 1.0],
    }
    alone = episode_rows.episode_metrics(episodes[1:])
    assert "environment/Two/reward" not in alone, "of one environment it is the score"


def test_an_episode_is_named_by_its_turn_and_the_last_question():
    episode = Episode(
        None, None, 0, completions=[(1, 2)], messages=[{"role": "user", "content": "a\nb " * 30}]
    )
    assert episode.place(7) == f"turn 1 of row 7 ({('a b ' * 30)[:40]}…)"
