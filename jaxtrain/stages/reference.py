"""Columns of a preference batch that come from models: the reference model's log-probabilities, computed once, and what
the policy itself says at a step, where a loss compares completions of different rows."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxtrain.config import DialogStageConfig
from jaxtrain.data.pipeline import Stream
from jaxtrain.files import cache
from jaxtrain.files.progress import bar
from jaxtrain.ops import preference
from jaxtrain.ops.logprobs import COMPLETIONS, completion_logps
from jaxtrain.stages import offline
from jaxtrain.stages.session import Session, gather_rows, initial_params, trained_part
from jaxtrain.train import digest, loop, workdir
from jaxtrain.types import Metrics, Params, TrainState

Batch = Mapping[str, np.ndarray]


class ReferenceColumns(NamedTuple):
    """How batches of a preference stage are completed."""

    train: Callable[[int], loop.NextBatch]
    held_out: Callable[[TrainState, Batch], Batch]
    table: list[tuple[str, str]]


def needed(link: str, settings: preference.PreferenceSettings) -> bool:
    """Whether a loss compares with a reference."""
    return link in preference.NEEDS_REFERENCE and not settings.reference_free


def expected(link: str, settings: preference.PreferenceSettings) -> dict[str, tuple[float, float]]:
    """What the first step must have, (value, tolerance) by name, since the policy still is the reference."""
    if link == "kto" or not needed(link, settings):
        return {}
    margins = {"rewards/margins": (0.0, 1e-3)}
    other = settings.length_penalty or settings.nll_weight or settings.divergence != "reverse_kl"
    return margins if link != "sigmoid" or other else {**margins, "loss": (math.log(2), 1e-3)}


def reference_columns(
    cfg: DialogStageConfig, session: Session, data: Any, link: str, settings: preference.PreferenceSettings
) -> ReferenceColumns:
    """The stream of training batches and a function for the held-out ones, with every column that the loss reads."""
    logps = logps_fn(session)
    table, lines = None, []
    if needed(link, settings):
        table, how = _reference(cfg, session, data, logps)
        lines = [("reference", f"log-probabilities of {len(table):,} rows {how}")]
    extra = preference.COLUMNS.get(link, ())

    def complete(state: TrainState | None, batch: Batch) -> Batch:
        batch = dict(batch)
        index = batch.pop("index")
        if table is not None:
            batch["ref_logps"] = table[index]
        if "shift" in extra:
            shift = float(session.plan.get(state.extra["shift"]))
            batch["shift"] = np.full(len(index), shift, np.float32)
        if {"kl", "partner"} & set(extra):
            batch |= _by_rank_and_mean(session, logps, state, batch, link)
        return batch

    def train(first: int) -> loop.NextBatch:
        batches: Iterator[Batch] = data.train.iterate(first)
        return lambda state: complete(state, next(batches))

    plain = offline.OfflineBatches(
        lambda first: (complete(None, batch) for batch in data.train.iterate(first))
    )
    return ReferenceColumns(train if extra else plain, complete, lines)


def logps_fn(session: Session) -> Callable[[Params, Params, Batch], np.ndarray]:
    """(trained, base, this host's rows) -> f32[B, N] of the whole batch: one program for reference and policy."""
    compiled = session.plan.rows(
        lambda params, base, batch: completion_logps(
            session.model, session.trained.whole(params, base), batch
        )[0]
    )

    def parts(params: Params, base: Params, batch: Batch) -> np.ndarray:
        put = session.plan.put({name: batch[name] for name in COMPLETIONS})
        return session.plan.get(compiled(params, base, put))

    return parts


def _reference(
    cfg: DialogStageConfig, session: Session, data: Any, logps: Callable
) -> tuple[np.ndarray, str]:
    """(log-probabilities f32[rows, N] under the reference, how they came about), from the cache where they are there.

    The reference is what training starts from, adapters merged. Its digest is stored in config.json, so that a resumed
    run finds its table without loading it.
    """
    record = {} if cfg.run.dry_run else workdir.read_run(session.path)
    params_digest, params = record.get("reference"), None
    if params_digest is None:
        params = initial_params(session, cfg.run.seed)
        params_digest = digest.tree_digest(params)
        if session.primary and not cfg.run.dry_run:
            workdir.record(session.path, reference=params_digest)

    def compute() -> np.ndarray:
        start = initial_params(session, cfg.run.seed) if params is None else params
        # A fresh adapter changes nothing, so that one program serves the reference and the policy.
        part = trained_part(session, start, cfg.run.seed)
        B, count, parts = cfg.data.batch_size, len(data.rows), []
        stream = Stream(lambda i: data.rows[min(i, count - 1)], B, session.plan.local_rows, -(-count // B))
        with bar("reference log-probabilities", len(stream), least=20) as advance:
            for i in range(len(stream)):
                parts.append(logps(part, session.base, stream.batch(i)))
                advance(1)
        return np.concatenate(parts)[:count]

    if session.plan.process[1] > 1:  # each host's disk may be its own, and the computation is everybody's
        return compute(), "computed"
    how = (
        params_digest,
        data.fingerprints,
        cfg.data.seq_len,
        cfg.data.batch_size,
        session.plan.name,
        dataclasses.asdict(cfg.model),
    )
    folder = Path(cfg.data.cache_dir).expanduser() / "reference" / cache.digest(1, *how)
    came = "from the cache"

    def fill(work: Path) -> None:
        nonlocal came
        came = "computed"
        np.save(work / "logps.npy", compute())

    cache.build(folder, fill)
    return np.load(folder / "logps.npy"), came


def _by_rank_and_mean(session: Session, logps: Callable, state: TrainState, batch: Batch, link: str) -> Batch:
    """KTO's z₀ and AOT's partners: what needs the whole batch under the present policy, as columns of its rows."""
    names = ("mask", *(["ref_logps"] if "ref_logps" in batch else []))
    all_rows = gather_rows(session.plan, {name: batch[name] for name in names})
    policy = logps(state.params, session.base, batch)
    present = (all_rows["mask"].sum(-1) > 0).astype(np.float32)
    if link == "kto":
        ratios = policy[:, 1] - all_rows["ref_logps"][:, 1]
        shift = float(preference.kl_shift(jnp.asarray(ratios), jnp.asarray(present[:, 1])))
        return {"kl": np.full(len(batch["mask"]), shift, np.float32)}
    policy, base = (x[:, 0] - x[:, 1] for x in (policy, all_rows["ref_logps"]))
    partner = np.asarray(
        preference.matched(jnp.asarray(policy), jnp.asarray(base), jnp.asarray(present.min(-1)))
    )
    return {"partner": partner[batch["row"]]}


def first_extra(link: str) -> Any:
    """The first TrainState.extra of a loss: BCO's mean reward and the pairs it is of."""
    zeros = {"shift": jnp.zeros(()), "pairs": jnp.zeros(())}
    return zeros if "shift" in preference.COLUMNS.get(link, ()) else ()


def carry(link: str) -> Callable[[Any, Metrics], Any] | None:
    """BCO's δ, the mean of ½(r_w + r_l) over all pairs seen; None for losses that carry nothing."""
    if "shift" not in preference.COLUMNS.get(link, ()):
        return None

    def after(extra: Mapping[str, Any], metrics: Metrics) -> Mapping[str, Any]:
        won, count = metrics["rewards/chosen"]
        lost, _ = metrics["rewards/rejected"]
        pairs = extra["pairs"] + count
        mean = extra["shift"] + (0.5 * (won + lost) - extra["shift"] * count) / jnp.maximum(pairs, 1.0)
        return {"shift": mean, "pairs": pairs}

    return after
