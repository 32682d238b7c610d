"""Episodes of a scripted policy: what stands in their rows, how they end, and what an environment may do to them."""

import dataclasses
import types

import numpy as np
import pytest

from jaxtrain.config import ConfigError, Failure
from jaxtrain.data.chat import load_template
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.rewards.models import CompletionScorer
from jaxtrain.rl import environment_spec, episodes, rollouts
from jaxtrain.rl.config import Episodes
from jaxtrain.rl.environment_spec import EnvironmentSpec
from jaxtrain.rl.environments import Observation
from jaxtrain.rl.scoring import ScoringConfig
from jaxtrain.stages import sampling
from jaxtrain.stages.sampling import SampledTokens
from tests.rl.test_scoring import settings

TOKENS = ByteTokenizer()
PLAIN = load_template("plain", TOKENS)
PROMPTS = [Prompt(({"role": "user", "content": f"Q{i}"},), record={"n": i}) for i in range(4)]


class Counts:
    """Two turns of 1, then one of 2; whatever the policy says."""

    def reset(self, row, seed):
        self.row, self.seed, self.seen = row, seed, []
        return [{"role": "system", "content": "Count."}, *row["messages"]]

    def step(self, completion):
        self.seen.append(completion)
        turn = len(self.seen)
        return Observation(
            [{"role": "user", "content": f"Turn {turn}."}], 1.0 + (turn == 3), turn == 3, {"n": 1}
        )


class Lengths(Counts):
    """Rewards that depend on the completions."""

    def step(self, completion):
        return super().step(completion)._replace(reward=len(completion) % 7)


def policy(text="Yo", ended=True):
    """A policy that writes a text, or what a function says of (row, turn), with an end token or without."""
    requests_seen = []

    def start(params, base):
        def sample(requests, size):
            assert size >= len(requests)
            requests_seen.append(requests)
            texts = [text(i, len(requests_seen)) if callable(text) else text for i in range(len(requests))]
            ids = [[*TOKENS.encode([one])[0].tolist(), *([TOKENS.eos] * ended)] for one in texts]
            return [
                SampledTokens(one[: request.limit], ended and len(one) <= request.limit)
                for one, request in zip(ids, requests, strict=True)
            ]

        return sample

    return start, requests_seen


def sampled(monkeypatch, *environment, start=None, group=1, scorer=None, names=None, **flags):
    """The scored batch of episodes, 4 of them."""
    made = [EnvironmentSpec(cls.__name__, cls, 1 / len(environment)) for cls in environment]
    monkeypatch.setattr(environment_spec, "resolve", lambda text: made)
    monkeypatch.setattr(sampling, "request_sampler", lambda *a, **k: start or policy()[0])
    scores = flags.pop("scores", {})
    cfg = settings(batch_size=4, minibatches=1, seq_len=flags.pop("seq_len", 120), max_new=8, **scores)
    cfg.samples = dataclasses.replace(cfg.samples, group=group)
    cfg.episodes = Episodes(env="x:Y", **flags)
    plan = types.SimpleNamespace(shards=1, get=lambda x: x)
    session = types.SimpleNamespace(plan=plan, heads=None, base=())
    zero = CompletionScorer(lambda rows, prompts, texts: np.zeros(len(texts)), [])
    scoring = ScoringConfig(scorer or zero, TOKENS, (TOKENS.eos,), frozenset(), gold=None)
    setup = rollouts.RolloutConfig(PROMPTS, scoring, None, None, None, None)
    sample = episodes.episode_sampler(cfg, session, setup, template=PLAIN)
    return sample(types.SimpleNamespace(params=(), step=0), 0)


def text_of(ids):
    return TOKENS.decode([i for i in ids if i != TOKENS.eos])


def test_an_episode_is_one_row_with_the_completions_alone_in_the_loss(monkeypatch):
    batch = sampled(monkeypatch, Counts)
    for row in range(4):
        n = batch.rows["length"][row]
        ids, mask = batch.rows["tokens"][row, :n], batch.rows["mask"][row] > 0
        (number,) = [
            i for i, prompt in enumerate(PROMPTS) if prompt.messages[0]["content"] == batch.texts[row, 0]
        ]
        assert text_of(ids) == (
            f"Count.\nHuman: Q{number}\nAI:Yo\nHuman: Turn 1.\nAI:Yo\nHuman: Turn 2.\nAI:Yo"
        )
        assert text_of(batch.rows["targets"][row][mask]) == "YoYoYo"
        assert (batch.rows["targets"][row][mask] == TOKENS.eos).sum() == 3, "the end tokens are the policy's"
        rewards = batch.rows["turn_rewards"][row]
        ends = np.flatnonzero(mask & (batch.rows["targets"][row] == TOKENS.eos))
        assert rewards[ends].tolist() == [1, 1, 2] and rewards.sum() == 4
        assert [turn.get("reward") for turn in batch.turns[row]] == [None, None, 1, None, 1, None, 2]
    assert batch.scores.tolist() == [4.0] * 4 and batch.ended.all()
    assert batch.stats["environment/n"].tolist() == batch.stats["environment/turns"].tolist() == [3.0] * 4
    assert batch.stats["completions/mean_length"].tolist() == [9.0] * 4
    assert not batch.stats["environment/full"].any() and not batch.stats["environment/faults"].any()


def test_what_was_sampled_is_never_tokenised_again(monkeypatch):
    """A byte that is no UTF-8 stays the byte that it was."""
    start, _ = policy()

    def broken(params, base):
        sample = start(params, base)
        return lambda requests, size: [one._replace(ids=[0xFF, *one.ids]) for one in sample(requests, size)]

    byte = 0xFF
    batch = sampled(monkeypatch, Counts, start=broken)
    assert ((batch.rows["targets"] == byte) & (batch.rows["mask"] > 0)).sum() == 4 * 3
    assert all("\ufffd" in turn["content"] for turn in batch.turns[0] if turn["role"] == "assistant")


@pytest.mark.parametrize(
    "flags, ended, turns, stat",
    [
        ({"max_turns": 2}, True, 2, None),
        ({}, False, 1, None),
        ({"seq_len": 43}, True, 1, "environment/full"),
        ({"seq_len": 44}, True, 2, None),
    ],
    ids=["turns", "a completion", "the row", "its last token"],
)
def test_an_episode_that_a_limit_cuts_off_has_not_ended(monkeypatch, flags, ended, turns, stat):
    batch = sampled(monkeypatch, Counts, start=policy(ended=ended)[0], **flags)
    assert not batch.ended.any() and batch.stats["completions/clipped_ratio"].all()
    assert batch.stats["environment/turns"].tolist() == [turns] * 4
    assert batch.scores.tolist() == [float(turns)] * 4, "the reward of the last turn counts"
    assert batch.stats["environment/full"].all() == (stat is not None)
    assert (batch.rows["length"] <= batch.rows["tokens"].shape[1]).all()
    assert [turn["role"] for turn in batch.turns[0]][-1] == "assistant"


def test_rows_that_are_over_are_not_sampled_and_seeds_are_of_row_and_turn(monkeypatch):
    class Some(Counts):
        def step(self, completion):
            seen = super().step(completion)
            return seen._replace(done=True) if self.row["n"] % 2 else seen

    start, requests = policy()
    sampled(monkeypatch, Counts, start=start)
    other, fewer = policy()
    batch = sampled(monkeypatch, Some, start=other)
    assert [len(each) for each in requests] == [4, 4, 4] and [len(each) for each in fewer] == [4, 2, 2]
    seeds = [[request.seeds[0] for request in each] for each in requests]
    assert len({seed for each in seeds for seed in each}) == 12
    kept = [row for row in range(4) if batch.stats["environment/turns"][row] == 3]
    assert [request.seeds[0] for request in fewer[1]] == [seeds[1][row] for row in kept]
    assert all(request.limit == 120 - len(request.ids) for each in requests for request in each)


def test_a_group_has_one_row_and_one_seed_and_each_episode_its_instance(monkeypatch):
    made = []

    class Watched(Counts):
        def __init__(self):
            made.append(self)

    sampled(monkeypatch, Watched, group=2)
    assert len(made) == len({id(each) for each in made}) == 4
    pairs = sorted((each.row["n"], each.seed) for each in made)
    assert pairs[0] == pairs[1] != pairs[2] == pairs[3]
    assert all(each.row["messages"] == list(PROMPTS[each.row["n"]].messages) for each in made)
    assert all(each.seen == ["Yo"] * 3 for each in made)


def test_an_environment_may_change_its_row(monkeypatch):
    class Eats(Counts):
        def reset(self, row, seed):
            messages = super().reset(row, seed)
            row["list"].clear(), row.clear()
            return messages

        def step(self, completion):
            return Observation(done=True)

    rows = [prompt._replace(record={"list": [1, 2]}) for prompt in PROMPTS]
    monkeypatch.setitem(globals(), "PROMPTS", rows)
    sampled(monkeypatch, Eats, group=4)
    assert all(prompt.record == {"list": [1, 2]} for prompt in rows)


def bad(seen):
    """An environment whose second turn in half of the rows is `seen`, or what it raises or does."""

    class Bad(Counts):
        def step(self, completion):
            answer = super().step(completion)
            if self.row["n"] % 2 == 0 or len(self.seen) < 2:
                return answer
            return seen() if callable(seen) else seen

    return Bad


def raises():
    raise KeyError("no such move")


def hangs():
    while True:
        pass


FAULTS = {
    "raises": (raises, "raised KeyError: 'no such move' ("),
    "hangs": (hangs, "took longer than 0.3 s (--env_timeout)"),
    "not a number": (Observation([{"role": "user", "content": "?"}], float("nan")), "the reward nan"),
    "without end": (
        Observation([{"role": "user", "content": "x" * (1 << 21)}]),
        "messages of 2,097,152 characters",
    ),
    "says nothing": (Observation(), "returned no message, so that there is nothing to answer"),
    "an unknown role": (
        Observation([{"role": "system", "content": "?"}]),
        "that the chat template cannot write",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_an_environment_stops_the_run_or_leaves_its_episode_out(monkeypatch, name):
    seen, text = FAULTS[name]
    with pytest.raises(Failure, match="--env=Bad: step at turn 2 of row ") as error:
        sampled(monkeypatch, bad(seen), env_timeout=0.3)
    assert text in str(error.value) and "(Turn 1.)" in str(error.value)
    batch = sampled(monkeypatch, bad(seen), env_timeout=0.3, on_env_error="skip")
    odd = np.array([int(question[1]) % 2 for question in batch.texts[:, 0]], bool)
    assert odd.sum() == 2 and batch.stats["environment/faults"].tolist() == odd.tolist()
    assert np.isnan(batch.scores).tolist() == odd.tolist() and (batch.scores[~odd] == 4).all()
    assert not batch.scored[odd].any(), "what has no score is not in the loss"


def test_text_that_grows_without_end_fills_the_row_and_is_left_out(monkeypatch):
    batch = sampled(monkeypatch, bad(Observation([{"role": "user", "content": "x" * 1000}], 0.5)))
    full = batch.stats["environment/full"] > 0
    assert full.sum() == 2 and (batch.scores[full] == 1.5).all() and not batch.ended[full].any()


@pytest.mark.parametrize(
    "first, text",
    [
        (
            lambda: Observation((), 0.0, True),
            "returned an Observation that is done: there is no turn to train on",
        ),
        (lambda: [], "returned no message"),
        (raises, "raised KeyError"),
        (hangs, "took longer than 0.3 s"),
        (lambda: [{"role": "tool", "content": "x"}, {"role": "alien", "content": ""}], "unknown role"),
    ],
)
def test_a_reset_that_fails_stops_the_run(monkeypatch, first, text):
    class Never(Counts):
        def reset(self, row, seed):
            return first()

    for how in ("raise", "skip"):
        with pytest.raises(Failure, match="--env=Never: reset of row 0 with seed ") as error:
            sampled(monkeypatch, Never, env_timeout=0.3, on_env_error=how)
        assert text in str(error.value)


def test_first_messages_that_fill_the_row_name_the_flag(monkeypatch):
    with pytest.raises(
        ConfigError, match=r"returned \d+ tokens, which leave no room for --max_new=8 in --seq_len=24"
    ):
        sampled(monkeypatch, Counts, seq_len=24)


def test_a_tool_s_result_has_the_role_that_the_template_has(monkeypatch):
    class Looks(Counts):
        def step(self, completion):
            seen = super().step(completion)
            return seen._replace(messages=[{"role": "tool", "content": "Lima", "name": "search"}])

    batch = sampled(monkeypatch, Looks)
    assert "\nHuman: Lima\nAI:" in text_of(batch.rows["tokens"][0])


def test_environments_are_mixed_by_weight_and_reported_each(monkeypatch):
    specs = [EnvironmentSpec("a", Counts, 0.8), EnvironmentSpec("b", Counts, 0.2)]
    names = [environment_spec.chosen(specs, 1, number).name for number in range(1000)]
    assert names == [environment_spec.chosen(specs, 1, number).name for number in range(1000)]
    assert names.count("b") / 1000 == pytest.approx(0.2, abs=0.04)

    class Other(Counts):
        def step(self, completion):
            return super().step(completion)._replace(reward=3.0, metrics={"m": 2})

    batch = sampled(monkeypatch, Counts, Other)
    one, other = (batch.stats[f"environment/{name}/reward"] for name in ("Counts", "Other"))
    assert (np.isnan(one) != np.isnan(other)).all()
    assert (batch.scores == np.where(np.isnan(one), other, one)).all()
    assert (np.isnan(batch.stats["environment/n"]) == np.isnan(one)).all()


def test_a_template_that_cannot_go_on_is_refused(monkeypatch):
    from tests.data.test_next_turn import ONE_TURN, template_of

    cfg = types.SimpleNamespace(data=types.SimpleNamespace(template="mine"))
    with pytest.raises(ConfigError, match=r"--template=mine: --env cannot be used with it: .*one turn only"):
        episodes.follow_ups(cfg, template_of(ONE_TURN))


def test_without_an_environment_nothing_of_it_is_there():
    cfg = types.SimpleNamespace(episodes=Episodes())
    assert episodes.table(cfg, PLAIN) == []
