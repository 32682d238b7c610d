"""The implementation details of PPO, each switched off alone."""

import dataclasses
from typing import Any

from experiments.papers import recipes
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed, mean_and_interval, number, on_mean

PAPER = Paper(
    name="n_details",
    title="Implementation details of PPO",
    source="Huang et al. 2024, arXiv:2403.17031",
    figure="section 3, details of the reward and of PPO",
    claim="RLHF by PPO rests on details of its implementation: advantages are whitened, a completion without "
    "an end is penalised, the learning rate falls to zero, the value is clipped and starts from the "
    "reward model.",
    published="in words; each detail's own effect is not tabulated",
    measured="PPO with all details, and with one switched off at a time, 48 iterations of 256 completions: gold "
    "reward and share of ended completions on held-out prompts.",
    criterion="With all details PPO gains at least .5 of gold reward over SFT in two thirds of the seeds; no "
    "detail switched off gains more than .1 by the mean over seeds. The effect of each is reported.",
)
ALL = "all"
DETAILS = ("--truncated=replace", "--end_lr=0")
OFF = {
    ALL: (),
    "advantages not whitened": ("--whiten_advantages=false",),
    "no penalty without an end": ("--truncated=score",),
    "constant learning rate": ("--schedule=constant",),
    "value not clipped": ("--value_clip=0",),
    "value from the policy": ("--value=policy",),
    "no moving average": ("--ema=0",),
}


@dataclasses.dataclass(frozen=True)
class DetailsFlags(config.Group):
    # fmt: off
    iterations: int = config.arg(48, "Iterations of PPO", low=8)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class NDetails:
    trial: PaperTrial = config.group(PaperTrial)
    details: DetailsFlags = config.group(DetailsFlags)


def measure(cfg: NDetails, runs: Any) -> Result:
    """Of SFT, and of PPO with each detail off: gold reward, and the share of completions that end."""
    found = {"SFT": measures(runs, recipes.sft(runs))}
    for name, off in OFF.items():
        details = [one for one in DETAILS if not clashes(one, off)]
        run = recipes.ppo(runs, None, None, f"--steps={cfg.details.iterations}", *details, *off)
        found[name] = measures(runs, run)
    return found


def clashes(detail: str, flags: tuple[str, ...]) -> bool:
    """Whether other flags replace a detail's, or leave it nothing to do."""
    names = {one.partition("=")[0] for one in flags}
    name = detail.partition("=")[0]
    return name in names or (name == "--end_lr" and "--schedule" in names)


def measures(runs: Any, run: Any) -> dict[str, float]:
    records = recipes.answers(runs, run)
    ended = sum(one["ended"] for one in records) / len(records)
    return {"gold": recipes.measures(records)["gold"], "ended": ended}


def effects(results: list[Result]) -> dict[str, list[float]]:
    """By detail switched off: the change of the gold reward, a seed each."""
    return {
        name: [result[name]["gold"] - result[ALL]["gold"] for result in results]
        for name in OFF
        if name != ALL
    }


def judge(cfg: NDetails, results: list[Result]) -> list[Check]:
    """The gain with all, and the largest gain by switching one off; the numbers have each one's effect."""
    gains = [result[ALL]["gold"] - result["SFT"]["gold"] for result in results]
    each = effects(results)
    best = max(each.values(), key=lambda values: sum(values))
    check = on_mean("no detail switched off gains more than .1", best, high=0.1, digits=2)
    numbers = "; ".join(f"{name} {number(*mean_and_interval(values), 2)}" for name, values in each.items())
    return [
        by_seed("with all details a gain of .5 over SFT", gains, lambda gain: (gain >= 0.5, f"{gain:+.2f}")),
        check._replace(numbers=numbers),
    ]


def draw(cfg: NDetails, results: list[Result], figure: Any) -> None:
    """The change of the gold reward by each detail switched off: the mean as a bar, a seed as a point."""
    axes = figure.subplots()
    each = effects(results)
    for i, values in enumerate(each.values()):
        axes.barh(i, sum(values) / len(values), color="C0", alpha=0.7)
        axes.plot(values, [i] * len(values), "o", color=axes.xaxis.label.get_color())
    axes.set_yticks(range(len(each)), list(each))
    axes.invert_yaxis()
    axes.axvline(0, linewidth=1, color="grey")
    axes.set(xlabel="change of the gold reward on held-out prompts")
    axes.set_title("PPO with one detail switched off, against all of them")


def main(cfg: NDetails) -> None:
    """Trains PPO with all details and with each switched off."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(NDetails, main, "./launch/run papers.n_details")
