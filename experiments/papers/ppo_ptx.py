"""The alignment tax of PPO on facts and documents, with a pretraining loss beside it, and with a higher KL price."""

import dataclasses
from typing import Any

from experiments.papers import recipes
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed

PAPER = Paper(
    name="ppo_ptx",
    title="PPO's alignment tax, and a pretraining loss against it",
    source="Ouyang et al. 2022, arXiv:2203.02155",
    figure="Figures 33 and 34, appendix E.6",
    claim="PPO costs accuracy on public tasks; a pretraining loss in the same update (PPO-ptx) gives it back "
    "at the same reward, and a higher price of the KL does not.",
    published="γ = 27.8 removes the regressions on SQuAD and DROP; a KL coefficient of 2 does not",
    measured="PPO from SFT without and with a pretraining loss of weight .1, .4 and 1.6, and with 25 times the "
    "KL price: accuracy on 45 held-out closed questions, 16 samples each, loss on held-out documents, "
    "gold reward.",
    criterion="PPO lowers the accuracy below SFT's; a weight of the pretraining loss gives back at least 80 % of "
    "the drop with a gold reward at most .15 below; 25 times the KL price does not do both.",
)
PLAIN, HIGH_KL = "0", "KL price × 25"
ARMS = {
    PLAIN: ("--ptx_weight=0",),
    "0.1": (),  # the shared run's default
    "0.4": ("--ptx_weight=0.4",),
    "1.6": ("--ptx_weight=1.6",),
    HIGH_KL: ("--ptx_weight=0", "--kl_coef=3.0"),
}
WEIGHTS = ("0.1", "0.4", "1.6")


@dataclasses.dataclass(frozen=True)
class PtxFlags(config.Group):
    # fmt: off
    samples: int = config.arg(16, "Completions of each closed question", low=1)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class PpoPtx:
    trial: PaperTrial = config.group(PaperTrial)
    closed: PtxFlags = config.group(PtxFlags)


def measure(cfg: PpoPtx, runs: Any) -> Result:
    """By arm, and of SFT: accuracy on closed questions, loss on documents, gold reward."""
    policies = {"SFT": recipes.sft(runs)}
    policies |= {name: recipes.ppo(runs, None, None, *flags) for name, flags in ARMS.items()}
    return {name: measures(cfg, runs, run) for name, run in policies.items()}


def measures(cfg: PpoPtx, runs: Any, run: Any) -> dict[str, float]:
    """Accuracy on closed questions, loss on held-out documents and gold reward of a policy."""
    closed = recipes.measures(recipes.answers(runs, run, recipes.FACTS, samples=cfg.closed.samples))
    # A step at a learning rate of 0 ends with the loss on held-out documents.
    still = runs.train(
        "pretrain", f"--init_from={run}", "--steps=1", "--lr=0", "--warmup=0", "--sample_every=0"
    )
    return {
        "facts": (closed["facts"] + closed["spelling"]) / 2,
        "loss": recipes.final(runs, still, "eval/loss"),
        "gold": recipes.measures(recipes.answers(runs, run))["gold"],
    }


def recovered(result: Result, name: str) -> float:
    """The share of PPO's drop in accuracy that an arm gives back."""
    drop = result["SFT"]["facts"] - result[PLAIN]["facts"]
    return (result[name]["facts"] - result[PLAIN]["facts"]) / drop if drop > 0 else 0.0


def cures(result: Result, name: str) -> bool:
    """Whether an arm gives back 80 % of the drop without costing more than .15 of the gold reward."""
    return recovered(result, name) >= 0.8 and result[name]["gold"] >= result[PLAIN]["gold"] - 0.15


def averaged(results: list[Result]) -> Result:
    """The mean over seeds of each arm's measures."""
    return {
        name: {key: sum(result[name][key] for result in results) / len(results) for key in results[0][name]}
        for name in results[0]
    }


def judge(cfg: PpoPtx, results: list[Result]) -> list[Check]:
    """The tax in each seed; the cures by the mean over seeds, as a drop is a few points."""
    middle = averaged(results)

    def numbers(name: str) -> str:
        return f"{name}: {recovered(middle, name):.0%} at gold {middle[name]['gold'] - middle[PLAIN]['gold']:+.2f}"

    def drops(result: Result) -> tuple[bool, str]:
        before, after = result["SFT"]["facts"], result[PLAIN]["facts"]
        return after < before, f"{before:.1%} to {after:.1%}"

    return [
        by_seed("PPO lowers the accuracy on closed questions", results, drops),
        Check("a pretraining loss gives back 80 % at equal gold reward", any(cures(middle, w) for w in WEIGHTS),
              ", ".join(map(numbers, WEIGHTS))),
        Check("25 times the KL price does not", not cures(middle, HIGH_KL), numbers(HIGH_KL)),
    ]  # fmt: skip


def draw(cfg: PpoPtx, results: list[Result], figure: Any) -> None:
    """Accuracy and loss on documents over the pretraining loss's weight, as Figure 33; the high KL price beside it."""
    names = [PLAIN, *WEIGHTS, HIGH_KL]
    titles = {"facts": "accuracy, closed questions", "loss": "loss on documents, nats", "gold": "gold reward"}
    for axes, (key, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for i, name in enumerate(names):
            values = [result[name][key] for result in results]
            axes.plot([i] * len(values), values, "o", color="C1" if name == HIGH_KL else "C0", alpha=0.6)
            axes.plot(i, sum(values) / len(values), "_", markersize=16, color=axes.xaxis.label.get_color())
        start = [result["SFT"][key] for result in results]
        axes.axhline(sum(start) / len(start), linestyle="--", linewidth=1, color="grey", label="SFT")
        axes.set_xticks(range(len(names)), [*names[:-1], "KL×25"])
        axes.set_title(title)
    axes.legend()
    figure.supxlabel("weight of the pretraining loss in PPO", fontsize=10)


def main(cfg: PpoPtx) -> None:
    """Trains PPO with and without a pretraining loss and measures what it has forgotten."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(PpoPtx, main, "./launch/run papers.ppo_ptx")
