"""Scores and metrics of episodes: the environment's rewards with those of --reward, and what is reported of them."""

import numpy as np
import pytest

from jaxtrain.data.prompts import Prompt
from jaxtrain.rewards.function_args import Logs, TrainerState
from jaxtrain.rewards.functions import RewardScores
from jaxtrain.rewards.models import CompletionScorer
from jaxtrain.rl import episode_rows
from jaxtrain.rl.environment_spec import EnvironmentSpec
from jaxtrain.rl.episode_rows import Episode
from tests.rl.test_episodes import Counts, sampled, text_of

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


def test_functions_are_reported_beside_the_environment():
    own = np.array([0.5, np.nan, 3.0], "f")
    logs = Logs({"note": ["a", "b", "c"]}, {})
    scorer = CompletionScorer(None, [("reward", "f")], lambda *args: RewardScores(own, {"f": own}, logs))
    result = episode_rows.with_environment(scorer, TOTALS).evaluate({}, [], [], TrainerState())
    assert result.total.dtype == np.float32 and result.total[:2].tolist() == [1.5, 2.0], "None adds nothing"
    assert np.isnan(result.total[2]), "an episode with a fault has no score"
    assert list(result.by_function) == ["environment", "f"] and result.logs is logs


def test_an_environment_alone_is_not_reported_as_one_of_several():
    zero = CompletionScorer(lambda rows, prompts, texts: np.zeros(3), [])
    result = episode_rows.with_environment(zero, TOTALS).evaluate({}, [], [], TrainerState())
    assert list(result.by_function) == ["environment"] and result.total[:2].tolist() == [1.0, 2.0]


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
