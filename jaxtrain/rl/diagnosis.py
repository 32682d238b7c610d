"""What the metrics of an on-policy run suggest, in words: from a world's gold, a watched reward, or the metrics alone.

The thresholds below are judgement, not measurement: each sentence has its numbers, so that a reader can judge. NumPy
alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.files.terminal import percent
from jaxtrain.rl.overoptimisation import GOLD, TRAINED, turn_of, watched_metrics
from jaxtrain.train.metric_series import Rows, series

Config = Mapping[str, Mapping[str, Any]]

FEWEST = 8  # lines from which a metric is judged
PART = 0.2  # of a run: its beginning and its end are means over this share of its lines
CAPPED = 0.2  # share of completions above --score_cap
UNENDED = 0.3  # share of completions cut off at --max_new
NEAR_KL, FAR_KL = 0.5, 2.0  # of --kl_target
MOST_KL, LEAST_KL = 10.0, 0.05  # nats a completion, where there is no target
# Clip fraction and approximate KL of an update that is far inside the trust region, and far beyond it.
SMALL_CLIP, SMALL_KL = 0.01, 1e-3
LARGE_CLIP, LARGE_KL = 0.4, 0.1
COLLAPSED = 0.25  # of the entropy of a token at the start
LONGER, SHORTER = 1.5, 0.5  # of the length at the start
FLAT_GROUPS = 0.7  # share of groups whose scores are all equal


class Trend(NamedTuple):
    """How a metric went: means of its first and last lines, and the standard deviation of a line less the one before.

    That is the noise of a difference; a steep rise within the first lines does not count as noise.
    """

    first: float
    last: float
    spread: float
    count: int

    def rises(self) -> bool:
        """Whether the last lines are above the first by more than noise."""
        return self.last - self.first > 2 * self.spread / self.count**0.5


def diagnose(rows: Rows, config: Config | None = None) -> list[str]:
    """Sentences about a run, the most important first; none where nothing stands out.

    rows: the lines of its metrics.jsonl. config: that of its config.json, by group, from which come --kl_target and the
    number of updates in an iteration; without it, what depends on them is left out.
    """
    if not len(series(rows, TRAINED)[0]):
        return []
    return [sentence for check in CHECKS for sentence in check(rows, config or {})]


def trend(rows: Rows, name: str) -> Trend | None:
    """A metric over a run, None where fewer than FEWEST lines have it."""
    _, values = series(rows, name)
    if len(values) < FEWEST:
        return None
    count = max(2, round(PART * len(values)))
    first, last = values[:count], values[-count:]
    spread = float(np.diff(values).std(ddof=1))
    return Trend(float(first.mean()), float(last.mean()), spread, count)


def updates_of(config: Config) -> int:
    """The updates on an iteration's completions; 1 where the config does not say."""
    samples = config.get("samples", {})
    return max(1, int(samples.get("epochs", 1)) * int(samples.get("minibatches", 1)))


def _exploited(rows: Rows, config: Config) -> Iterator[str]:
    score = trend(rows, TRAINED)
    for name in watched_metrics(rows):
        other = "gold" if name == GOLD else "the watched reward"
        turn, watched = turn_of(rows, updates_of(config), name), trend(rows, name)
        if turn:
            held = "rises" if score and score.rises() else "does not fall"
            yield (
                f"The score {held} while {other} falls, from {turn.best:.3g} to {turn.last:.3g} by step {turn.seen} "
                f"({turn.certainty()}): the reward model or function is exploited from step {turn.step} on. Use a "
                "checkpoint of about that step (--keep_best), a higher KL price, or a reward that has seen such "
                "completions."
            )
        elif score and watched and score.rises() and not watched.rises():
            yield (
                f"The score rises from {score.first:.2f} to {score.last:.2f}, and {other} does not "
                f"({watched.first:.2f} to {watched.last:.2f}): what is learnt is not what {other} measures."
            )


def _constant(rows: Rows, config: Config) -> Iterator[str]:
    scores, groups = series(rows, TRAINED)[1], trend(rows, "frac_reward_zero_std")
    if len(scores) > 3 and np.ptp(scores) <= 1e-6 * max(1.0, abs(scores[0])):
        yield (
            f"The reward is constant ({scores[0]:.3g}): nothing can be learnt from it. Look at the completions in "
            "samples/rollouts/ and at what scores them."
        )
    elif groups and groups.last > FLAT_GROUPS:
        yield (
            f"In {percent(groups.last)} of the groups all scores are equal, so that they teach nothing: --resample, a "
            "larger --group, or prompts that are neither always nor never solved."
        )
    elif (score := trend(rows, TRAINED)) and not score.rises():
        word = (
            "falls"
            if Trend(-score.first, -score.last, score.spread, score.count).rises()
            else "does not clearly rise"
        )
        yield f"The score {word}: {score.first:.3g} in the first iterations, {score.last:.3g} in the last."


def _capped(rows: Rows, config: Config) -> Iterator[str]:
    if (capped := trend(rows, "objective/scores_capped")) and capped.last > CAPPED:
        yield (
            f"{percent(capped.last)} of the completions score above the cap ({percent(capped.first)} at the start): "
            "the reward no longer distinguishes them, and scores that high are often far from its data. Stop earlier, "
            "or raise the KL price."
        )


def _kl(rows: Rows, config: Config) -> Iterator[str]:
    kl = trend(rows, "objective/kl")
    target = float(config.get("loss", {}).get("kl_target") or 0.0)
    if kl is None:
        return
    if target and not NEAR_KL * target <= kl.last <= FAR_KL * target:
        side = "far below" if kl.last < target else "far above"
        yield (
            f"The KL from the reference is {kl.last:.2g} nats a completion, {side} its target {target:g}: --kl_coef "
            "starts too far from its value, or --kl_horizon is too long for this run."
        )
    elif not target and kl.last > MOST_KL:
        yield (
            f"The KL from the reference is {kl.last:.3g} nats a completion: the policy is far from where the reward "
            "was learnt. Raise --kl_coef, or set --kl_target."
        )
    elif not target and abs(kl.last) < LEAST_KL:
        yield (
            f"The KL from the reference is {kl.last:.2g} nats a completion: the policy has hardly moved. A higher "
            "--lr, more --steps, or a lower KL price."
        )


def _updates(rows: Rows, config: Config) -> Iterator[str]:
    clip, kl = (series(rows, f"policy/{name}")[1] for name in ("clipfrac_avg", "approxkl_avg"))
    single = bool(config) and updates_of(config) == 1  # whose ratio is always 1
    if single or min(len(clip), len(kl)) < FEWEST:
        return
    clip, kl = float(clip.mean()), float(kl.mean())
    numbers = f"clip fraction {clip:.2g}, approximate KL {kl:.2g}"
    if clip < SMALL_CLIP and kl < SMALL_KL:
        yield (
            f"Updates are far smaller than the trust region allows ({numbers}): try a higher --lr, larger by a factor "
            "of 2 to 4, or more --epochs."
        )
    elif clip > LARGE_CLIP or kl > LARGE_KL:
        yield f"Updates go beyond the trust region ({numbers}): a lower --lr, fewer --epochs, or --stop_kl."


def _entropy(rows: Rows, config: Config) -> Iterator[str]:
    sums, lengths = series(rows, "objective/entropy"), series(rows, "completions/mean_length")
    if len(sums[0]) < FEWEST or not np.array_equal(sums[0], lengths[0]):
        return
    by_token = [
        {"step": int(step), "entropy": x / max(n, 1.0)} for step, x, n in zip(*sums, lengths[1], strict=True)
    ]
    entropy = trend(by_token, "entropy")
    if entropy and entropy.first > 0 and entropy.last < COLLAPSED * entropy.first:
        yield (
            f"The entropy has collapsed, from {entropy.first:.2g} to {entropy.last:.2g} nats a token: completions of a "
            "prompt are nearly all alike. A higher --entropy_coef or KL price, or a lower --lr."
        )


def _length(rows: Rows, config: Config) -> Iterator[str]:
    length, unended = trend(rows, "completions/mean_length"), trend(rows, "completions/clipped_ratio")
    if length and length.first > 0:
        numbers = f"from {length.first:.1f} to {length.last:.1f} tokens"
        if length.last > LONGER * length.first and length.rises():
            yield f"The length runs away, {numbers}: the reward may like length as such. Compare texts of equal length."
        elif length.last < SHORTER * length.first:
            yield f"Completions have become short, {numbers}: the reward may like brevity as such."
    if unended and unended.last > UNENDED:
        yield (
            f"{percent(unended.last)} of the completions are cut off at --max_new ({percent(unended.first)} at the "
            "start): raise it, or set --truncated."
        )


def _values(rows: Rows, config: Config) -> Iterator[str]:
    if (explained := trend(rows, "val/explained_var")) and explained.last < 0:
        yield (
            f"The values explain nothing of the returns (explained variance {explained.last:.2g}): advantages are "
            "noisier than without them. A higher --value_lr."
        )


def _skipped(rows: Rows, config: Config) -> Iterator[str]:
    steps, skipped = series(rows, "skipped")
    if len(skipped) and skipped[-1] > 0:
        yield f"{int(skipped[-1])} of {int(steps[-1])} updates were not applied (bad_batches/ has them)."


CHECKS: tuple[Callable[[Rows, Config], Iterator[str]], ...] = (
    _exploited, _constant, _capped, _kl, _entropy, _length, _updates, _values, _skipped,
)  # fmt: skip
