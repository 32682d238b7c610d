"""Scorers of completions: a trained reward model, or a function."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data.chat import Template, load_template
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.data.tokenizer import load as load_tokenizer
from jaxtrain.files import progress
from jaxtrain.models import reward as reward_models
from jaxtrain.models import zoo
from jaxtrain.ops.ensembles import COMBINED
from jaxtrain.rewards import functions
from jaxtrain.rewards.function_args import Logs, Scored, TrainerState
from jaxtrain.rewards.functions import RewardScores
from jaxtrain.stages import init_from, weights
from jaxtrain.stages.load_model import build_model
from jaxtrain.train import multihost, parallel, workdir
from jaxtrain.train.checkpoint import restore_params
from jaxtrain.types import Batch, Params, Scorer

COLUMNS = ("tokens", "segments", "positions", "length")


class CompletionScorer(NamedTuple):
    """Scores of completions: (rows [R, T] of prompt and completion, prompts, completions' texts) -> f32[R].

    `evaluate` takes the state of training too and has the scores by function and what the functions log; None for a
    reward model. A score that no function gives is NaN.
    """

    scores: Callable[[Batch, Sequence[Prompt], Sequence[str]], np.ndarray]
    table: list[tuple[str, str]]
    evaluate: Callable[[Batch, Sequence[Prompt], Sequence[str], TrainerState], RewardScores] | None = None


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


def check(
    settings: config.Scores,
    tokenizer: Tokenizer,
    seq_len: int,
    template: Template | None = None,
    name: str = "",
) -> None:
    """Raises ConfigError for a reward model that cannot score completions of this tokenizer and chat template.

    `name` is the flag that names the reward model or function, where it is not one of Scores.
    """
    if not settings.reward_model:
        if settings.reward:
            functions.resolve(settings.reward, name or "reward")
        return
    name = name or "reward_model"
    flag = f"--{name}={settings.reward_model}"
    source, _ = workdir.split_step(settings.reward_model, name)
    record = workdir.read_run(source, f"--{name}")
    if record["stage"] != "reward":
        raise ConfigError(f"{flag}: a run of {record['stage']}; name one of ./launch/run reward")
    if "arch" not in record or workdir.newest_step(source) is None:
        raise ConfigError(f"{flag}: it has no checkpoint yet")
    own = load_tokenizer(source / "tokenizer")
    if own.fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"{flag}: its tokenizer is not the policy's: it would score other tokens. Train a reward model "
            "from a run with the policy's tokenizer"
        )
    if template is not None and own.chat_template and load_template("auto", own).source != template.source:
        raise ConfigError(
            f"{flag}: it was trained under another chat template than the policy's ({template.name}): it would score "
            f"texts of a form that it has not seen. Give the policy its template by --template (the run saved it in "
            f"{source / 'tokenizer'}), or train a reward model under the policy's"
        )
    context = record["arch"]["max_len"]
    if context and seq_len > context:
        raise ConfigError(f"--seq_len={seq_len}: the context of {flag} is {context}")


def load(
    settings: config.Scores, text: str, plan: parallel.Plan, model: config.Model, name: str = "reward_model"
) -> RewardModel:
    """The reward model of a run, which `text` names as WORKDIR@STEP, and the flag `name` before it."""
    source, step = workdir.split_step(text, name)
    record = workdir.read_run(source, f"--{name}")
    arch, loss = zoo.from_dict(record["arch"]), record["config"]["loss"]
    lm = build_model(plan, arch, model)
    scorer = reward_models.build(lm, loss["members"])
    lora = config.Lora(**record["config"]["lora"])
    trained = weights.trained_part(scorer.axes, lora)

    def fresh() -> Params:
        return scorer.grow(lm.init(jax.random.key(0)), jax.random.key(1))

    part = "opt_state/average" if record["config"]["optim"]["ema"] else "params"
    if trained.frozen:
        start = init_from.load_run(record["parent"]["origin"])
        seed = record["config"]["run"]["seed"]
        key = jax.random.fold_in(jax.random.key(seed), 2)
        base = plan.init(scorer.grow, scorer.axes, weights.load_params(plan, start, lm, seed), key)
        shapes = plan.abstract(trained.part, trained.axes, base, key)
        own, _ = restore_params(source, shapes, step, f"--{name}", part)
        params = plan.init(trained.whole, scorer.axes, own, base)
    else:
        params, _ = restore_params(source, plan.abstract(fresh, scorer.axes), step, f"--{name}", part)
    affine = plan.abstract(lambda: dict.fromkeys(("gain", "bias"), jnp.zeros(loss["members"])), {})
    extra, _ = restore_params(source, affine, step, f"--{name}", "extra")
    extra = plan.get(extra)
    ensemble, price = settings.ensemble, settings.price
    if ensemble == "auto":
        ensemble, price = loss["ensemble"], loss["price"]
    members = f", {loss['members']} members, {ensemble}" if loss["members"] > 1 else ""
    table = [("reward model", f"{source}, step {step}{members}")]
    if step != record["config"]["run"]["steps"]:
        table.append(("reward model", "its training has not ended: rewards are not normalised"))
    return RewardModel(
        scorer=scorer,
        params=params,
        gain=extra["gain"],
        bias=extra["bias"],
        ensemble=ensemble,
        price=price,
        table=table,
    )


def score_program(scorer: Scorer, plan: parallel.Plan) -> Callable[..., jax.Array]:
    """A compiled function (params, (), rows [R, N, T]) -> each member's scores f32[R, M, N]."""
    return plan.rows(lambda params, frozen, batch: scorer.scores(params, batch).swapaxes(0, 1))


def model_scorer(model: RewardModel, plan: parallel.Plan, size: int) -> CompletionScorer:
    """A scorer by a reward model, `size` rows at a time."""
    compiled = score_program(model.scorer, plan)
    combine, local = COMBINED[model.ensemble], plan.local_rows(size)

    def scores(rows: Batch, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        parts = []
        for first in range(0, len(rows["length"]), size):
            progress.stop_point(f"scores of the reward model, row {first}")
            part = {name: rows[name][first : first + size, None][local] for name in COLUMNS}
            parts.append(plan.get(compiled(model.params, (), plan.put(part)))[..., 0])
        by_member = model.gain[:, None] * np.concatenate(parts).T + model.bias[:, None]
        return np.asarray(combine(jnp.asarray(by_member), model.price))

    return CompletionScorer(scores, model.table)


def function_scorer(text: str, plan: parallel.Plan, flag: str = "reward") -> CompletionScorer:
    """A scorer by a Python function (rewards/functions.py), which each host calls for its share of the completions."""
    reward = functions.resolve(text, flag)

    def evaluate(
        rows: Batch, prompts: Sequence[Prompt], texts: Sequence[str], state: TrainerState | None
    ) -> RewardScores:
        share = multihost.share(len(texts))
        ids = _completion_ids(rows, prompts)
        scored = Scored(
            conversations=[prompt.messages for prompt in prompts[share]],
            completions=texts[share],
            records=[prompt.record for prompt in prompts[share]],
            ids=ids and ids[share],
            state=state and state._replace(is_world_process_zero=plan.process[0] == 0),
        )

        def own_scores() -> RewardScores | None:
            return functions.scores(reward, scored) if scored.completions or not texts else None

        return _joined([part for part in multihost.gather_results(own_scores) if part is not None])

    def scores(rows: Batch, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        return evaluate(rows, prompts, texts, None).total

    return CompletionScorer(scores, [("reward", text)], evaluate)


def _joined(parts: Sequence[RewardScores]) -> RewardScores:
    """The scores of all completions, from those of each host's share."""
    logs = Logs({}, {})
    columns = dict.fromkeys(name for part in parts for name in part.logs.extra)
    for part in parts:
        for name in columns:  # which a function need not log each time
            logs.log_extra(name, part.logs.extra.get(name, [None] * len(part.total)))
        for name, values in part.logs.metrics.items():
            logs.metrics.setdefault(name, []).extend(values)
    by_function = {
        name: np.concatenate([part.by_function[name] for part in parts]) for name in parts[0].by_function
    }
    return RewardScores(np.concatenate([part.total for part in parts]), by_function, logs)


def _completion_ids(rows: Batch, prompts: Sequence[Prompt]) -> list[list[int]] | None:
    """The ids of each completion, as far as it is scored; None where the rows have no tokens."""
    if "tokens" not in rows or any(prompt.ids is None for prompt in prompts):
        return None
    return [
        rows["tokens"][i, len(prompt.ids) : int(rows["length"][i])].tolist()
        for i, prompt in enumerate(prompts)
    ]
