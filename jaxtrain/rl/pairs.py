"""Pairs of a rollout's completions, for preference losses on them: the best and the worst of each group."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.ops.logprobs import COMPLETIONS
from jaxtrain.rl import advantages
from jaxtrain.rl.request_samplers import MakeSampler, SampleRequests
from jaxtrain.rl.scoring import Columns
from jaxtrain.stages.sampling import SampledTokens
from jaxtrain.stages.session import Session
from jaxtrain.types import Params

SCORES = "scores"  # a column f32[R] of rollouts, until they are paired


def scores_of(
    rows: advantages.Columns, scores: Array, ended: Array, kl_coef: Array | float, group: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(the scores as a column, metrics by completion), in place of advantages; `ended` and the KL have no part in it.

    Completions without a score have NaN, and so have those that are not in the loss.
    """
    metrics = advantages.completion_metrics(rows, scores, kl_coef)
    column = jnp.where(rows["mask"].sum(1) > 0, scores, jnp.nan)
    by_group = column.reshape(-1, group)
    low = jnp.where(jnp.isnan(by_group), jnp.inf, by_group).min(1)
    high = jnp.where(jnp.isnan(by_group), -jnp.inf, by_group).max(1)
    flat = jnp.repeat((high <= low).astype(jnp.float32), group)
    return {SCORES: column}, {**metrics, "frac_reward_zero_std": flat}


def paired(columns: Columns, group: int, references: int = 0) -> Columns:
    """A rollout's columns [R, ...] as rows of pairs [R / G, ...]: the group's best completion, and its worst.

    Completions become [P, 2, T], ref_logps their sums f32[P, 2], stats f32[P, G], and from_reference f32[P, 2] says
    which are among the last `references` of their group. A group of equal scores, or with fewer than two, is out of the
    loss: its mask is 0.
    """
    scores = columns[SCORES].reshape(-1, group)
    P = len(scores)
    best = np.where(np.isnan(scores), -np.inf, scores).argmax(1)
    worst = np.where(np.isnan(scores), np.inf, scores).argmin(1)
    index = np.stack([best, worst], 1)
    values = np.take_along_axis(scores, index, 1)
    decided = values[:, 0] > values[:, 1]  # not where either is NaN
    rows = index + group * np.arange(P)[:, None]
    pairs = {name: columns[name][rows] for name in COMPLETIONS}
    logps = np.where(pairs["mask"] > 0, columns["ref_logps"][rows], 0.0).sum(-1)
    pairs["mask"] = pairs["mask"] * decided[:, None, None].astype(np.float32)
    stats = {name: x.reshape(P, group) for name, x in columns.items() if name.startswith("stats/")}
    return {
        **pairs,
        **stats,
        "ref_logps": logps.astype(np.float32),
        "from_reference": (index >= group - references).astype(np.float32),
    }


def with_reference_samples(
    reference: Callable[[], Params], references: int, maker: MakeSampler
) -> MakeSampler:
    """A maker of samplers like `maker`, for XPO: the last `references` completions of each prompt are sampled from the
    reference model, whose parameters `reference` loads.
    """

    def make(
        session: Session, ends: Sequence[int], *, max_new: int
    ) -> Callable[[Params, Params], SampleRequests]:
        start = maker(session, ends, max_new=max_new)
        whole = session._replace(trained=session.trained._replace(whole=lambda params, base: params))
        of_reference = maker(whole, ends, max_new=max_new)(reference(), ())

        def begin(params: Params, base: Params) -> SampleRequests:
            of_policy = start(params, base)

            def sample(requests: Sequence[SampleRequest], size: int) -> list[SampledTokens]:
                own = [one._replace(seeds=one.seeds[:-references]) for one in requests]
                others = [one._replace(seeds=one.seeds[-references:]) for one in requests]
                by_policy, by_reference = iter(of_policy(own, size)), iter(of_reference(others, size))
                return [
                    next(each)
                    for one in requests
                    for each in (*[by_policy] * (len(one.seeds) - references), *[by_reference] * references)
                ]

            return sample

        return begin

    return make
