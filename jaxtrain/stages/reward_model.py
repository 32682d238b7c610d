"""What a reward model's run does with scores: agreement with labels, normalisation, bootstraps of an ensemble."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtrain.config import DialogStageConfig
from jaxtrain.data import prompts
from jaxtrain.files import progress
from jaxtrain.measures import agreement
from jaxtrain.ops.ensembles import COMBINED
from jaxtrain.stages import init_from, offline, sampling, weights
from jaxtrain.stages.session import Session, gather_rows
from jaxtrain.train import loop, optim
from jaxtrain.types import Params, TrainState

SCORED = ("tokens", "segments", "positions", "length")  # columns that a score depends on


def identity_normalisation(members: int) -> dict[str, Any]:
    """The first TrainState.extra: each member's reward is gain * score + bias."""
    return {"gain": jnp.ones(members), "bias": jnp.zeros(members)}


def scores_fn(session: Session) -> Callable[[Params, Mapping[str, np.ndarray]], np.ndarray]:
    """(trained, this host's rows) -> f32[M, B, N] of the whole batch."""
    compiled = session.plan.rows(
        lambda params, base, batch: session.heads.scores(session.trained.whole(params, base), batch).swapaxes(
            0, 1
        )
    )

    def scored(params: Params, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        put = session.plan.put({name: batch[name] for name in SCORED})
        return session.plan.get(compiled(params, session.base, put)).swapaxes(0, 1)

    return scored


def evaluator(cfg: DialogStageConfig, session: Session, data: Any) -> loop.Evaluate:
    """Agreement of the scores with the held-out comparisons, and with the gold rewards where the records have them."""
    scores, combined = scores_fn(session), COMBINED[cfg.loss.ensemble]

    def evaluate(state: TrainState) -> dict[str, float]:
        params = optim.eval_params(state.params, state.opt_state)
        parts = []
        for i in range(min(len(data.eval), cfg.run.eval_batches or len(data.eval))):
            progress.stop_point(f"batch {i} of an evaluation")
            batch = data.eval.batch(i)
            all_rows = gather_rows(
                session.plan, {name: batch[name] for name in ("index", "length", "prefer")}
            )
            parts.append({**all_rows, "scores": np.moveaxis(scores(params, batch), 0, 1)})
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        real = columns["length"].any(1)
        columns = {name: x[real] for name, x in columns.items()}
        score = np.asarray(combined(jnp.asarray(columns["scores"].swapaxes(0, 1)), cfg.loss.price))
        records = [data.fields(int(i)) for i in columns["index"]]
        groups = [record["family"] for record in records] if "family" in records[0] else ()
        scored = agreement.comparison_metrics(score, columns["prefer"], columns["length"], groups)
        if {"reward_chosen", "reward_rejected"} <= records[0].keys():
            gold = np.array([[r["reward_chosen"], r["reward_rejected"]] for r in records])
            scored |= agreement.gold_accuracy(score, gold, groups)
        return scored

    return evaluate


def normaliser(cfg: DialogStageConfig, session: Session, template: Any) -> Callable[[TrainState], TrainState]:
    """A function that sets gain and bias so that the rewards of reference completions have mean 0 and variance 1.

    Reference completions are what the model that training starts from says to --prompts, by default those of --data.
    """
    prompt_ids = _reference_prompts(cfg, template)

    def finish(state: TrainState) -> TrainState:
        batches = _reference_completions(cfg, session, template, prompt_ids)
        scores = scores_fn(session)
        params = optim.eval_params(state.params, state.opt_state)
        scored = np.concatenate([scores(params, batch)[..., 0] for batch in batches], 1)
        gain, bias = agreement.score_normalisation(scored)
        # Laid out by the plan: in jax 0.10, device_put to devices of several hosts makes an array that cannot be saved.
        extra = session.plan.init(lambda gain, bias: {"gain": gain, "bias": bias}, {}, gain, bias)
        return state._replace(extra=extra)

    return finish


def _reference_prompts(cfg: DialogStageConfig, template: Any) -> list[list[int]]:
    own = cfg.samples.prompts == "auto"
    source, flag = (cfg.data.data, "data") if own else (cfg.samples.prompts, "prompts")
    limit = cfg.samples.prompt_count
    return [
        one.ids.tolist() for one in prompts.read_prompts(source, cfg.data, template, flag=flag, limit=limit)
    ]


def _reference_completions(
    cfg: DialogStageConfig, session: Session, template: Any, prompt_ids: list[list[int]]
) -> list[dict[str, np.ndarray]]:
    """Batches [B, 1, T] of prompts and the completions that the model at the start draws for them."""
    bare = session._replace(trained=weights.trained_part(session.model.axes, type(cfg.lora)()), base=())
    draw = sampling.token_sampler(
        bare,
        init_from.end_ids(session.start, template.ends),
        max_new=cfg.samples.max_new,
        temperature=cfg.samples.temperature,
    )
    start = weights.load_params(session.plan, session.start, session.model, cfg.run.seed)
    scored = draw(start, (), prompt_ids, cfg.run.seed)
    rows = [[*prompt, *new.ids] for prompt, new in zip(prompt_ids, scored, strict=True)]
    B, T = cfg.data.batch_size, -(-max(map(len, rows)) // 16) * 16
    rows = [rows[i % len(rows)] for i in range(-(-len(rows) // B) * B)]
    columns = {name: np.zeros((len(rows), 1, T), np.int32) for name in ("tokens", "segments", "positions")}
    columns["length"] = np.array([[len(row)] for row in rows], np.int32)
    for i, row in enumerate(rows):
        columns["tokens"][i, 0, : len(row)] = row
        columns["segments"][i, 0, : len(row)] = 1
        columns["positions"][i, 0] = np.arange(T)
    here = session.plan.local_rows(B)
    return [
        {name: x[first : first + B][here] for name, x in columns.items()} for first in range(0, len(rows), B)
    ]


def ensemble_batches(train: Any, members: int, seed: int) -> Callable[[int], loop.NextBatch]:
    """Training batches whose rows are weighed for each member of an ensemble.

    A member sees a row Poisson(1) times, always the same for a row: its bootstrap of the data.
    """

    def weigh(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch = dict(batch)
        index = batch.pop("index")
        if members > 1:
            draws = [
                np.random.Generator(np.random.Philox(key=(seed, int(i)))).poisson(1.0, members) for i in index
            ]
            batch["weight"] = np.array(draws, np.float32)
        return batch

    return offline.OfflineBatches(lambda first: map(weigh, train.iterate(first)))
