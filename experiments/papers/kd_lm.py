"""A small student of a tuned teacher: soft targets against the teacher's samples, and forward against reverse KL."""

import dataclasses
from typing import Any

from experiments.papers import recipes
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed, on_mean

PAPER = Paper(
    name="kd_lm",
    title="Distillation of a language model",
    source="Hinton et al. 2015, arXiv:1503.02531; Gu et al. 2023, arXiv:2306.08543",
    figure="section 3 of the first; sections 2 and 3 of the second",
    claim="A teacher's probabilities teach more than its samples from the same examples; minimising the "
    "reverse KL makes a small student precise and less diverse, the forward KL broad.",
    published="3 % of the speech data: 44.5 % correct with hard labels, 57.0 % with soft ones (from memory)",
    measured="Teacher: the PPO model of 1M parameters. Students of .2M from the same pretrained model, on the "
    "same 4 completions of each prompt by the teacher, as many steps each: hard labels, forward KL, "
    "reverse KL, JSD of .1, .5 and .9. KL from the teacher on held-out prompts, parsable share and "
    "entropy of the student's completions.",
    criterion="KL(teacher, student) of the forward KL's student is below that of hard labels' (15 % less are "
    "expected); the reverse KL's student has a higher parsable share and a lower entropy than the "
    "forward KL's.",
)
STUDENTS = {
    "hard labels": ("--hard_weight=1",),
    "forward KL": (),
    "JSD .1": ("--divergence=jsd", "--jsd_beta=0.1"),
    "JSD .5": ("--divergence=jsd", "--jsd_beta=0.5"),
    "JSD .9": ("--divergence=jsd", "--jsd_beta=0.9"),
    "reverse KL": ("--divergence=reverse_kl",),
}


@dataclasses.dataclass(frozen=True)
class KdFlags(config.Group):
    # fmt: off
    steps: int = config.arg(300, "Steps of each student, of 32 completions", low=10)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class KdLm:
    trial: PaperTrial = config.group(PaperTrial)
    students: KdFlags = config.group(KdFlags)


def measure(cfg: KdLm, runs: Any) -> Result:
    """By student, and of the teacher: parsable share, gold reward, entropy; of two students the held-out KL."""
    teacher = recipes.ppo(runs)
    start = recipes.pretrained(runs, f"--model={recipes.SMALL}")
    found = {"teacher": recipes.breadth(recipes.answers(runs, teacher))}
    for name, own in STUDENTS.items():
        run = runs.train(
            "distill", f"--teacher={teacher}", f"--init_from={start}", f"--steps={cfg.students.steps}",
            "--completions=teacher", "--eval_every=0", "--optimizer=muon", "--lr=0.01", *own,
        )  # fmt: skip
        found[name] = recipes.breadth(recipes.answers(runs, run))
        found[name]["divergence"] = recipes.final(runs, run, "eval/divergence")
    return found


def judge(cfg: KdLm, results: list[Result]) -> list[Check]:
    """Soft against hard labels in each seed, reverse against forward KL by the mean."""

    def softer(result: Result) -> tuple[bool, str]:
        soft, hard = (result[name]["divergence"] for name in ("forward KL", "hard labels"))
        return soft < hard, f"{soft:.4f} and {hard:.4f}, {soft / hard - 1:+.0%}"

    def gap(key: str) -> list[float]:
        return [result["reverse KL"][key] - result["forward KL"][key] for result in results]

    points = [100 * value for value in gap("parsable")]
    return [
        by_seed("held-out KL of soft below that of hard labels", results, softer),
        on_mean("reverse less forward KL: parsable, points, above 0", points, low=1e-9, digits=1),
        on_mean("reverse less forward KL: entropy, nats a completion, below 0", gap("entropy"), high=-1e-9),
    ]


def draw(cfg: KdLm, results: list[Result], figure: Any) -> None:
    """Parsable share over entropy, a colour a student: precision against breadth."""
    axes = figure.subplots()
    for name in ("teacher", *STUDENTS):
        x, y = ([result[name][key] for result in results] for key in ("entropy", "parsable"))
        # The students take the six colours of the cycle.
        style = (
            {"marker": "*", "color": axes.xaxis.label.get_color()} if name == "teacher" else {"marker": "o"}
        )
        axes.plot(x, [100 * one for one in y], linestyle="", markersize=8, label=name, **style)
    axes.set(xlabel="entropy of completions, nats", ylabel="parsable completions, %")
    axes.set_title("Students of .2M parameters by what they minimise")
    figure.legend(loc="outside right upper")


def main(cfg: KdLm) -> None:
    """Trains students on the teacher's completions, by divergence."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(KdLm, main, "./launch/run papers.kd_lm")
