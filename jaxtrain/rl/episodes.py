"""Episodes: rollouts of several turns, in which an environment answers the policy's completions.

An episode is one row: the first messages, a completion, what the environment says to it, a completion, and so on, so
that one forward pass has the log-probabilities of all its completions. These keep the ids that were sampled; what the
environment says is tokenised as the chat template writes it there, and is not in the loss.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtrain.config import ConfigError, Failure
from jaxtrain.data.chat import Template
from jaxtrain.data.messages import BadRecord, Message
from jaxtrain.data.next_turn import NextTurn, next_turn
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.special_text import marked_decoder
from jaxtrain.files import progress
from jaxtrain.generate import batch_sampler, sampler
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.rewards.function_args import TrainerState
from jaxtrain.rl import environment_calls, environment_spec, flat_groups, rollouts, scoring
from jaxtrain.rl.config import WatchedStageConfig, iteration_size
from jaxtrain.rl.environment_calls import EnvironmentFault, run_calls
from jaxtrain.rl.environment_spec import EnvironmentSpec
from jaxtrain.rl.environments import Observation
from jaxtrain.rl.episode_rows import Episode, scored_episodes
from jaxtrain.rl.scoring import ScoredBatch
from jaxtrain.stages import sampling
from jaxtrain.stages.session import Session, policy_session
from jaxtrain.train import multihost
from jaxtrain.types import TrainState


def usable_rows(read: list[Prompt], cfg: WatchedStageConfig, bos: int) -> tuple[list[Prompt], list[str]]:
    """(the prompts that can be sampled from, lines about the others): with --env all, whose text may have no part."""
    return (read, []) if cfg.episodes.env else scoring.fitting_prompts(read, cfg, bos)


def episode_sampler(
    cfg: WatchedStageConfig, session: Session, setup: rollouts.RolloutConfig, template: Template
) -> flat_groups.Sample:
    """A function (state, prompts taken before, groups) -> scored episodes, a group for each prompt."""
    s, size = cfg.samples, iteration_size(cfg)
    (specs, _), follows = _open_specs(cfg, template), follow_ups(cfg, template)
    make = setup.requests or sampling.request_sampler
    start = make(policy_session(session), setup.scoring.ends, max_new=s.max_new)
    decode = marked_decoder(template.tokenizer)

    def text_of(ids: Sequence[int]) -> str:
        return decode([i for i in ids if i not in setup.scoring.ends]).removeprefix(template.lead)

    def sample(state: TrainState, taken: int, groups: int = size // s.group) -> ScoredBatch:
        numbers = range(taken, taken + groups)
        order = rollouts.prompt_order(len(setup.prompts), cfg.run.seed, taken, len(numbers))
        episodes = [
            Episode(
                spec=environment_spec.chosen(specs, cfg.run.seed, number),
                prompt=setup.prompts[i],
                seed=environment_spec.episode_seed(cfg.run.seed, number),
            )
            for number, i in zip(numbers, order, strict=True)
            for _ in range(s.group)
        ]
        _reset(cfg, episodes, template, follows)
        sample_requests = start(state.params, session.base)
        seed = int(np.random.SeedSequence((cfg.run.seed, 1, taken)).generate_state(1)[0])
        for turn in range(cfg.episodes.max_turns):
            rows = [row for row, each in enumerate(episodes) if not each.over]
            if not rows:
                break
            progress.stop_point(f"turn {turn + 1} of {len(rows)} episodes")
            _complete(cfg, session, sample_requests, episodes, rows, seed, turn)
            _step(cfg, episodes, rows, follows, text_of)
        at = TrainerState(int(session.plan.get(state.step)), cfg.run.steps, epoch=taken / len(setup.prompts))
        return scored_episodes(cfg, setup.scoring, episodes, at)

    return sample


def _open_specs(cfg: WatchedStageConfig, template: Template) -> tuple[list[EnvironmentSpec], list[str]]:
    """(the environments of --env, those with data opened, lines about the data)."""

    def fits(messages: Sequence[Message], template_kwargs: Mapping[str, Any]) -> bool:
        ids = template.encode_prompt(messages, template_kwargs)
        return len(ids) + cfg.samples.max_new <= cfg.data.seq_len

    return environment_spec.open_data(environment_spec.resolve(cfg.episodes.env), cfg.data, fits)


def follow_ups(cfg: WatchedStageConfig, template: Template) -> NextTurn:
    """How the template writes what environments say. Raises ConfigError where it cannot."""
    try:
        return next_turn(template)
    except BadRecord as error:
        raise ConfigError(f"--template={cfg.data.template}: --env cannot be used with it: {error}") from error


def _reset(cfg: WatchedStageConfig, episodes: list[Episode], template: Template, follows: NextTurn) -> None:
    """Makes the environments of this host's share of the episodes, and gives all episodes their first messages."""
    own = multihost.share(len(episodes))

    def start(episode: Episode) -> tuple[Any, Any]:
        episode.environment = episode.spec.make()
        row = {**episode.prompt.record, "messages": list(episode.prompt.messages)}
        messages = episode.environment.reset(copy.deepcopy(row), episode.seed)
        return messages, getattr(episode.environment, "template_kwargs", {})

    results = _call(cfg, [functools.partial(start, episode) for episode in episodes[own]])
    for row, (episode, result) in enumerate(zip(episodes, results, strict=True)):
        label = f"{episode.spec.label}: reset of row {row} with seed {episode.seed}"
        value, kwargs = (result, {}) if isinstance(result, EnvironmentFault) else result
        messages = environment_calls.first_messages(value)
        if isinstance(messages, EnvironmentFault):
            raise Failure(f"{label} {messages.text}")
        if not isinstance(kwargs, Mapping):
            raise Failure(f"{label}: its template_kwargs are a {type(kwargs).__name__}, not a dict")
        episode.template_kwargs = {**episode.prompt.template_kwargs, **kwargs}
        episode.messages, episode.start = _with_roles(messages, follows), len(messages)
        try:
            ids = template.encode_prompt(episode.messages, episode.template_kwargs)
        except BadRecord as error:
            raise Failure(
                f"{label} returned messages that the chat template cannot write: {error}"
            ) from error
        if len(ids) + cfg.samples.max_new > cfg.data.seq_len:
            raise ConfigError(
                f"{label} returned {len(ids)} tokens, which leave no room for --max_new={cfg.samples.max_new} in "
                f"--seq_len={cfg.data.seq_len}: raise it"
            )
        episode.ids = ids.tolist()


def _complete(
    cfg: WatchedStageConfig, session: Session, sample: Callable, episodes: list[Episode], rows: list[int], seed: int,
    turn: int,
) -> None:  # fmt: skip
    """Samples the next completion of the episodes in `rows`. It depends on the episode, its row and turn alone."""
    how = sampler.active_params({"temperature": cfg.samples.temperature})
    requests = [
        SampleRequest(
            episodes[row].ids, [sampler.completion_seed(seed, row, turn)], cfg.data.seq_len - len(episodes[row].ids),
            sampling_params=how,
        )
        for row in rows
    ]  # fmt: skip
    # Few sizes, so that few programs are compiled: the last episodes take a quarter of the rows of the first turn.
    most = batch_sampler.prompts_per_call(len(episodes), 1, session.plan.shards)
    size = min(most, batch_sampler.padded_rows(max(len(rows), most // 4), session.plan.shards))
    for row, completion in zip(rows, sample(requests, size), strict=True):
        episode = episodes[row]
        episode.completions.append((len(episode.ids), len(episode.ids) + len(completion.ids)))
        episode.ids = [*episode.ids, *completion.ids]
        episode.logps.append(completion.logps)
        episode.cut = not completion.ended


def _step(
    cfg: WatchedStageConfig, episodes: list[Episode], rows: list[int], follows: NextTurn,
    text_of: Callable[[Sequence[int]], str],
) -> None:  # fmt: skip
    """Gives the environments of `rows` the completions, and the episodes what these return."""
    own = multihost.share(len(episodes))
    mine = [row for row in rows if row in range(own.start, own.stop)]
    texts = {row: text_of(episodes[row].ids[slice(*episodes[row].completions[-1])]) for row in rows}
    results = _call(cfg, [functools.partial(episodes[row].environment.step, texts[row]) for row in mine])
    for row, result in zip(rows, results, strict=True):
        episode, seen = episodes[row], environment_calls.observation(result)
        episode.messages.append({"role": "assistant", "content": texts[row]})
        fault = seen if isinstance(seen, EnvironmentFault) else _observe(cfg, episode, seen, follows)
        if fault is None:
            continue
        if cfg.episodes.on_env_error == "raise":
            raise Failure(
                f"{episode.spec.label}: step at {episode.place(row)} {fault.text}. --on_env_error=skip ends such an "
                "episode and leaves it out of the loss"
            )
        episode.over, episode.cut, episode.fault = True, False, fault.text


def _observe(
    cfg: WatchedStageConfig, episode: Episode, seen: Observation, follows: NextTurn
) -> EnvironmentFault | None:
    """Gives an episode what its environment returned; returns what is wrong with it, if anything."""
    episode.rewards.append(seen.reward)
    for name, value in seen.metrics.items():
        episode.metrics[name] = episode.metrics.get(name, 0.0) + value
    if seen.done or episode.cut or len(episode.completions) == cfg.episodes.max_turns:
        episode.over, episode.cut = True, episode.cut or not seen.done
        return None
    messages = _with_roles(seen.messages, follows)
    try:
        ids = follows.encode(messages, episode.template_kwargs)
    except BadRecord as error:
        return EnvironmentFault(f"returned messages that the chat template cannot write: {error}")
    if len(episode.ids) + len(ids) >= cfg.data.seq_len:
        episode.over = episode.cut = episode.full = True
        return None
    episode.messages += messages
    episode.ids = [*episode.ids, *ids.tolist()]
    return None


def _with_roles(messages: Sequence[Message], follows: NextTurn) -> list[Message]:
    """The messages with the role that the template has for a tool's result."""
    return [{**one, "role": follows.tool_role} if one["role"] == "tool" else one for one in messages]


def _call(cfg: WatchedStageConfig, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of all hosts' calls, in the order of hosts."""
    flags = cfg.episodes
    every = multihost.gather_results(lambda: run_calls(calls, flags.env_timeout, flags.env_threads))
    return [result for results in every for result in results]


def table(cfg: WatchedStageConfig, template: Template) -> list[tuple[str, str]]:
    """Lines about the environments, for people, none without one.

    Raises ConfigError where the template cannot write what they say.
    """
    if not cfg.episodes.env:
        return []
    specs, about = _open_specs(cfg, template)
    shares = ", ".join(f"{spec.name}" + f" {spec.share:.0%}" * (len(specs) > 1) for spec in specs)
    lines = [
        shares,
        *about,
        f"at most {cfg.episodes.max_turns} turns of {cfg.samples.max_new} tokens, {cfg.data.seq_len} in all",
    ]
    if follow_ups(cfg, template).tool_role == "user":
        lines.append(
            f"the template {template.name} has no place for a tool's result: it is written as a user's turn"
        )
    return [("environment", line) for line in lines]
