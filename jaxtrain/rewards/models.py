"""Where an on-policy stage's scores come from: a reward model's run, or a function."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.data.tokenizer import load as load_tokenizer
from jaxtrain.models import reward, transformer, zoo
from jaxtrain.ops.ensembles import COMBINED
from jaxtrain.rewards import functions
from jaxtrain.stages import init_from, weights
from jaxtrain.stages.session import gather_rows
from jaxtrain.train import parallel, workdir
from jaxtrain.train.checkpoint import restore_params
from jaxtrain.types import Batch, Params, Scorer

COLUMNS = ("tokens", "segments", "positions", "length")


class CompletionScorer(NamedTuple):
    """What scores completions: (rows [R, T] of prompt and completion, prompts, completions' texts) -> f32[R]."""

    scores: Callable[[Batch, Sequence[Prompt], Sequence[str]], np.ndarray]
    table: list[tuple[str, str]]


class RewardModel(NamedTuple):
    """A trained reward model: reward = gain * score + bias, for each member."""

    scorer: Scorer
    params: Params
    gain: np.ndarray  # f32[M]
    bias: np.ndarray  # f32[M]
    ensemble: str
    price: float
    table: list[tuple[str, str]]

    def member(self) -> tuple[Params, Params, np.ndarray, np.ndarray]:
        """(trunk, score, gain, bias) of the first member, which a value function can start from."""
        trunk, score = (jax.tree.map(lambda x: x[0], self.params[name]) for name in ("trunk", "score"))
        return trunk, score, self.gain[0], self.bias[0]


def check(settings: config.Scores, tokenizer: Tokenizer, seq_len: int) -> None:
    """Raises ConfigError for a reward model that cannot score what this tokenizer writes."""
    if not settings.reward_model:
        functions.resolve(settings.reward)
        return
    flag = f"--reward_model={settings.reward_model}"
    source, _ = workdir.split_step(settings.reward_model)
    held = workdir.read_run(source, "--reward_model")
    if held["stage"] != "reward":
        raise ConfigError(f"{flag}: a run of {held['stage']}; name one of ./launch/run reward")
    if "arch" not in held or workdir.newest_step(source) is None:
        raise ConfigError(f"{flag}: it has no checkpoint yet")
    if load_tokenizer(source / "tokenizer").fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"{flag}: its tokenizer is not the policy's: its scores would be of other words. Train a reward model "
            "from a run with the policy's tokenizer"
        )
    context = held["arch"]["max_len"]
    if context and seq_len > context:
        raise ConfigError(f"--seq_len={seq_len}: the context of {flag} is {context}")


def load(settings: config.Scores, text: str, plan: parallel.Plan, model: config.Model) -> RewardModel:
    """The reward model of a run, as WORKDIR@STEP."""
    source, step = workdir.split_step(text)
    held = workdir.read_run(source, "--reward_model")
    arch, loss = zoo.from_dict(held["arch"]), held["config"]["loss"]
    lm = transformer.build(arch, transformer.execution(model, plan.shards, plan.local))
    scorer = reward.build(lm, loss["members"])
    lora = config.Lora(**held["config"]["lora"])
    trained = weights.trained_part(scorer.axes, lora)

    def fresh() -> Params:
        return scorer.grow(lm.init(jax.random.key(0)), jax.random.key(1))

    part = "opt_state/average" if held["config"]["optim"]["ema"] else "params"
    if trained.frozen:
        start = init_from.load_run(held["parent"]["origin"])
        seed = held["config"]["run"]["seed"]
        key = jax.random.fold_in(jax.random.key(seed), 2)
        base = plan.init(scorer.grow, scorer.axes, weights.load_params(plan, start, lm, seed), key)
        shapes = plan.abstract(trained.part, trained.axes, base, key)
        found, _ = restore_params(source, shapes, step, "--reward_model", part)
        params = plan.init(trained.whole, scorer.axes, found, base)
    else:
        params, _ = restore_params(source, plan.abstract(fresh, scorer.axes), step, "--reward_model", part)
    affine = plan.abstract(lambda: dict.fromkeys(("gain", "bias"), jnp.zeros(loss["members"])), {})
    extra, _ = restore_params(source, affine, step, "--reward_model", "extra")
    extra = plan.get(extra)
    own = settings.ensemble == "auto"
    ensemble, price = (loss["ensemble"], loss["price"]) if own else (settings.ensemble, settings.price)
    said = f"{source}, step {step}" + f", {loss['members']} members, {ensemble}" * (loss["members"] > 1)
    table = [("reward model", said)]
    if step != held["config"]["run"]["steps"]:
        table.append(("reward model", "its training has not ended: rewards are not normalised"))
    return RewardModel(scorer, params, extra["gain"], extra["bias"], ensemble, price, table)


def model_scorer(made: RewardModel, plan: parallel.Plan, size: int) -> CompletionScorer:
    """Scores of rows, `size` at a time."""
    compiled = plan.rows(lambda params, frozen, batch: made.scorer.scores(params, batch).swapaxes(0, 1))
    combined, here = COMBINED[made.ensemble], plan.local_slice(size)

    def scores(rows: Batch, asked: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        parts = []
        for first in range(0, len(rows["length"]), size):
            part = {name: rows[name][first : first + size, None][here] for name in COLUMNS}
            parts.append(plan.get(compiled(made.params, (), plan.put(part)))[..., 0])
        each = made.gain[:, None] * np.concatenate(parts).T + made.bias[:, None]
        return np.asarray(combined(jnp.asarray(each), made.price))

    return CompletionScorer(scores, made.table)


def function_scorer(text: str, plan: parallel.Plan) -> CompletionScorer:
    """Scores of a Python function (rewards/functions.py); each host asks for its rows alone."""
    found = functions.resolve(text)

    def scores(rows: Batch, asked: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        here = plan.local_slice(len(texts))
        own = functions.reward_scores(
            found, [each.messages for each in asked[here]], texts[here], [each.record for each in asked[here]]
        )
        return gather_rows(plan, {"scores": own})["scores"]

    return CompletionScorer(scores, [("reward", text)])
