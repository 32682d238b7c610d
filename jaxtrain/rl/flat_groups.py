"""Groups of completions with equal scores, from which nothing is learnt: which they are, and others in their place."""

import math
import sys
from collections.abc import Callable, Mapping

import jax
import numpy as np

from jaxtrain.rl.config import WatchedStageConfig, iteration_size, least_groups
from jaxtrain.rl.scoring import ScoredBatch
from jaxtrain.stages.session import Session
from jaxtrain.types import TrainState

# (state, prompts taken before, groups: by default the iteration's) -> their scored completions
Sample = Callable[..., ScoredBatch]
LEAST_SHARE = 0.125  # of groups that are not flat, where hardly one was: how many more are sampled at once


def flat(batch: ScoredBatch, group: int) -> np.ndarray:
    """bool[R / G]: groups whose scores are all equal, so that their advantages are 0; those without a score too."""
    scores, scored = batch.scores.reshape(-1, group), batch.scored.reshape(-1, group)
    return np.where(scored, scores, -np.inf).max(1) <= np.where(scored, scores, np.inf).min(1)


def refilled(batch: ScoredBatch, fresh: ScoredBatch, group: int) -> tuple[ScoredBatch, np.ndarray]:
    """(the batch with its flat groups replaced by groups of a fresh one that are not, which rows are new bool[R])."""
    R = len(batch.scores)
    batch, fresh = _with_columns(batch, fresh), _with_columns(fresh, batch)
    groups, spare = np.arange(R // group), np.flatnonzero(~flat(fresh, group)) + R // group
    gaps = np.flatnonzero(flat(batch, group))[: len(spare)]
    groups[gaps] = spare[: len(gaps)]
    rows = (groups[:, None] * group + np.arange(group)).ravel()
    return jax.tree.map(lambda a, b: np.concatenate([a, b])[rows], batch, fresh), rows >= R


def filler(cfg: WatchedStageConfig, sample: Sample) -> Callable[[TrainState, int], tuple[ScoredBatch, int]]:
    """A function (state, prompts taken before) -> (an iteration's completions, prompts taken after it).

    Groups of equal scores are sampled again, --resample times or within --sample_budget: DAPO's dynamic sampling,
    section 3.2 of arXiv:2503.14476.
    """
    G, size = cfg.samples.group, iteration_size(cfg)
    groups, budget = size // G, cfg.sampler.sample_budget // G

    def draw(state: TrainState, taken: int) -> tuple[ScoredBatch, int]:
        batch, replaced = sample(state, taken), np.zeros(size, bool)
        sampled, useful = groups, int((~flat(batch, G)).sum())
        tries = 0
        while useful < groups and (tries < cfg.samples.resample or budget):
            more = _missing(cfg, groups, sampled, useful) if budget else groups
            if not more:
                break
            fresh = sample(state, taken + sampled, *([more] if budget else []))
            batch, new = refilled(batch, fresh, G)
            replaced, useful = replaced | new, int((~flat(batch, G)).sum())
            sampled, tries = sampled + more, tries + 1
        if cfg.samples.resample or budget:
            stats = {"completions/redrawn": replaced, "completions/sampled": np.full(size, sampled * G)}
            batch = batch._replace(stats=batch.stats | stats)
        return batch, taken + sampled

    return draw


def _missing(cfg: WatchedStageConfig, groups: int, sampled: int, useful: int) -> int:
    """The groups to sample next, as many as are missing at the share so far, within the budget; 0: it is used up."""
    unit, left = least_groups(cfg), cfg.sampler.sample_budget // cfg.samples.group - sampled
    wanted = math.ceil((groups - useful) / max(useful / sampled, LEAST_SHARE))
    return min(math.ceil(wanted / unit) * unit, groups, left // unit * unit)


def _with_columns(batch: ScoredBatch, other: ScoredBatch) -> ScoredBatch:
    """The batch with the columns that another one has alone, as a reward function need not log each time: NaN, None."""
    R = len(batch.scores)
    stats = {
        name: batch.stats.get(name, np.full(R, np.nan, np.float32)) for name in {**batch.stats, **other.stats}
    }
    extra = {name: batch.extra.get(name, np.full(R, None, object)) for name in {**batch.extra, **other.extra}}
    return batch._replace(stats=stats, extra=extra)


def warner(session: Session, group: int) -> Callable[[ScoredBatch, Mapping[str, np.ndarray]], None]:
    """A function that prints, once a run, that completions have no score, and that all advantages are 0."""
    printed: set[str] = set()

    def say(batch: ScoredBatch, metrics: Mapping[str, np.ndarray]) -> None:
        unscored, zero = int((~batch.scored).sum()), metrics.get("frac_reward_zero_std")
        lines = {}
        if unscored:
            lines["unscored"] = (
                f"{unscored:,} of {len(batch.scores):,} completions have no score, as every reward function returned "
                "None for them, and are left out of the loss (completions/unscored)"
            )
        if zero is not None and zero.all():
            lines["flat"] = (
                f"all {len(batch.scores) // group:,} groups of an iteration have equal scores: their advantages "
                "are 0, and nothing is learnt from them (frac_reward_zero_std)"
            )
        for kind, line in lines.items():
            if kind not in printed and session.primary:
                printed.add(kind)
                print(line, file=sys.stderr)

    return say
