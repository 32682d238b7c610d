"""Rankings of 4 to 9 completions as one batch element, against their pairs shuffled into the data set."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.papers import recipes
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed

PAPER = Paper(
    name="rm_kwise",
    title="All comparisons of a prompt in one batch element",
    source="Ouyang et al. 2022, arXiv:2203.02155",
    figure="section 3.5, equation 1",
    claim="Shuffled into one data set, the pairs of a ranking overfit in a single epoch; as one batch element they do "
    "not, and each completion needs one forward pass instead of K - 1.",
    published="K = 4 to 9, in words without numbers; one epoch, as more overfit",
    measured="The SFT model's 4 to 9 distinct completions of each training prompt, ranked by a noisy annotator; one "
    "epoch of rankings, two of them, and one of the same comparisons as shuffled pairs; loss on held-out pairs.",
    criterion="The held-out loss of rankings is at most that of shuffled pairs; two times fewer forward passes or "
    "more; two epochs of rankings have a higher held-out loss than one.",
)
HELD_OUT = 600  # comparisons
BATCH = 8  # rankings, of about 13 comparisons each
RUNS = ("rankings", "pairs", "rankings, 2 epochs")
TEMPERATURE = 0.8  # of the annotator, as in tinytown:preferences


@dataclasses.dataclass(frozen=True)
class KwiseFlags(config.Group):
    # fmt: off
    prompts: int = config.arg(1_024, "Training prompts", low=32)
    lr: float = config.arg(1e-3, "Peak learning rate of AdamW", low=0)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class RmKwise:
    trial: PaperTrial = config.group(PaperTrial)
    kwise: KwiseFlags = config.group(KwiseFlags)


def measure(cfg: RmKwise, runs: Any) -> Result:
    """Held-out loss and accuracy of the three reward models, and the completions that an epoch passes forward."""
    import numpy as np

    start, rng = recipes.sft(runs), np.random.default_rng(runs.seed)
    prompts = f"tinytown:prompts?documents={cfg.kwise.prompts}"
    ranked = rankings(recipes.answers(runs, start, prompts, samples=9), rng)
    held_out = [
        pair for one in rankings(recipes.answers(runs, start, samples=9), rng) for pair in as_pairs(one)
    ]
    rng.shuffle(held_out)
    pairs = [pair for one in ranked for pair in as_pairs(one)]
    rng.shuffle(pairs)
    # Both have the same number of updates an epoch, and of comparisons.
    steps = len(ranked) // BATCH
    test = recipes.write_records(runs, "kwise-test", held_out[:HELD_OUT])
    sources = {
        "rankings": (recipes.write_records(runs, "kwise-rankings", ranked), BATCH, steps),
        "pairs": (recipes.write_records(runs, "kwise-pairs", pairs), round(len(pairs) / steps), steps),
    }
    sources["rankings, 2 epochs"] = (*sources["rankings"][:2], 2 * steps)
    found: dict[str, Any] = {"comparisons": len(pairs), "rankings": len(ranked)}
    found["forward"] = {"rankings": sum(len(one["completions"]) for one in ranked), "pairs": 2 * len(pairs)}
    for name, (source, batch, count) in sources.items():
        run = runs.train(
            "reward", f"--init_from={start}", f"--data={source}", f"--eval_data={test}", f"--batch_size={batch}",
            f"--steps={count}", f"--lr={cfg.kwise.lr}", f"--prompts={recipes.HELD_OUT}", "--seq_len=64",
            f"--eval_every={max(1, steps // 2)}",
        )  # fmt: skip
        rows = [row for row in runs.rows(run) if "eval/loss" in row]
        found[name] = {
            "epochs": [row["step"] / steps for row in rows],
            "loss": [row["eval/loss"] for row in rows],
            "accuracy": rows[-1]["eval/accuracy"],
        }
    return found


def rankings(records: Sequence[Mapping[str, Any]], rng: Any) -> list[dict[str, Any]]:
    """Records of a prompt with its distinct completions and their ranks, for prompts with at least 4; K is 4 to 9.

    The annotator ranks by gold / temperature plus Gumbel noise, whose pairs are Bradley-Terry choices.
    """
    found = []
    for prompt, group in itertools.groupby(records, key=lambda one: one["prompt"]):
        distinct = list({one["completion"]: one for one in group}.values())[: int(rng.integers(4, 10))]
        if len(distinct) < 4:
            continue
        utility = [x / TEMPERATURE + rng.gumbel() for x in recipes.gold(distinct)]
        order = sorted(range(len(distinct)), key=lambda i: -utility[i])
        found.append(
            {
                "prompt": prompt,
                "completions": [one["completion"] for one in distinct],
                "ranking": [order.index(i) + 1 for i in range(len(distinct))],
            }
        )
    return found


def as_pairs(ranking: Mapping[str, Any]) -> list[dict[str, str]]:
    """The comparisons of a ranking."""
    best_first = [text for _, text in sorted(zip(ranking["ranking"], ranking["completions"], strict=True))]
    return [
        {"prompt": ranking["prompt"], "chosen": better, "rejected": worse}
        for better, worse in itertools.combinations(best_first, 2)
    ]


def judge(cfg: RmKwise, results: list[Result]) -> list[Check]:
    """The three parts of the criterion."""
    last = [{name: one[name]["loss"][-1] for name in RUNS} for one in results]
    passes = [one["forward"]["pairs"] / one["forward"]["rankings"] for one in results]
    return [
        by_seed("held-out loss of rankings at most that of shuffled pairs", last,
                lambda x: (x["rankings"] <= x["pairs"], f"{x['rankings']:.4f} and {x['pairs']:.4f}")),
        by_seed("at least 2 times fewer forward passes", passes, lambda x: (x >= 2, f"{x:.1f}")),
        by_seed("two epochs of rankings worse than one", last,
                lambda x: (x["rankings, 2 epochs"] > x["rankings"], f"{x['rankings, 2 epochs']:.4f}")),
    ]  # fmt: skip


def draw(cfg: RmKwise, results: list[Result], figure: Any) -> None:
    """Held-out loss over epochs of each."""
    from jaxtrain.apps.papers import figures

    axes = figure.subplots()
    for name, label in (("pairs", "shuffled pairs, 1 epoch"), ("rankings", "rankings, 1 epoch"),
                        ("rankings, 2 epochs", "rankings, 2 epochs")):  # fmt: skip
        points = min(len(result[name]["loss"]) for result in results)
        losses = [result[name]["loss"][:points] for result in results]
        figures.band(axes, results[0][name]["epochs"][:points], losses, label)
    axes.set(xlabel="epochs", ylabel="held-out loss, nats a comparison")
    axes.set_title("Reward models on the same comparisons")
    axes.legend()


def main(cfg: RmKwise) -> None:
    """Ranks completions of the SFT model and trains reward models on the rankings and on their pairs."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(RmKwise, main, "./launch/run papers.rm_kwise")
