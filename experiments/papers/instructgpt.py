"""InstructGPT's order of models by win rate, and a small tuned model against a big base model."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.papers import recipes
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import SIZES, PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed

PAPER = Paper(
    name="instructgpt",
    title="Base, few-shot base, SFT and PPO",
    source="Ouyang et al. 2022, arXiv:2203.02155",
    figure="Figures 1 and 3",
    claim="Annotators prefer SFT to the base model, few-shot or not, and PPO to SFT; a small PPO model is "
    "preferred to a base model of many times its size.",
    published="175B InstructGPT beats GPT-3 in 85 ± 3 % and few-shot GPT-3 in 71 ± 4 %; 1.3B InstructGPT beats "
    "175B GPT-3 (from memory)",
    measured="Models of 1M and .2M parameters: the gold reward's choices between completions of 256 held-out "
    "prompts, two each. Few-shot: three question-answer pairs before the question. Reported beside it: the "
    "base model prompted by the page of its documents, a dialog each, without examples.",
    criterion="Win rates against SFT in the order base < few-shot base < SFT < PPO; the small PPO model wins more "
    "than half of the comparisons with the big base model.",
    sizes=SIZES,
)
MODELS = ("base", "few-shot", "prompted", "SFT", "PPO")
PAGE = "Human: {q}\nAI:"  # the form of a dialog in Tinytown's documents


class TwoModels(NamedTuple):
    """The models' flags. gpu: 85M and 11M parameters; pretraining, SFT, reward model and PPO of both are 4e16 FLOPs."""

    big: tuple[str, ...]
    small: tuple[str, ...]


SIZE = {
    "cpu": TwoModels((), (f"--model={recipes.SMALL}",)),
    "gpu": TwoModels(
        ("--model=nano,layers=12,width=768,heads=12,ff=2048", "--lr=0.003"),
        ("--model=nano,layers=6,width=384,heads=6,ff=1024", "--lr=0.005"),
    ),
}


@dataclasses.dataclass(frozen=True)
class InstructGpt:
    trial: PaperTrial = config.group(PaperTrial)


def measure(cfg: InstructGpt, runs: Any) -> Result:
    """Win rates against SFT, by size, the mean gold rewards, and the small PPO against the big base."""
    size = SIZE[cfg.trial.size]
    lines = {name: completions(runs, flags) for name, flags in (("big", size.big), ("small", size.small))}
    found: dict[str, Any] = {}
    for name, line in lines.items():
        found[name] = {
            model: {
                "win_rate": recipes.win_rate(line[model], line["SFT"]),
                "gold": mean(recipes.gold(line[model])),
            }
            for model in MODELS
        }
    small = lines["small"]["PPO"]
    found["small_ppo_over_big"] = {
        model: recipes.win_rate(small, lines["big"][model]) for model in ("base", "few-shot", "prompted")
    }
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def completions(runs: Any, flags: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The completions of each of MODELS, trained from a base model of these flags."""
    base = recipes.pretrained(runs, *flags)
    sft = recipes.sft(runs, base)
    ppo = recipes.ppo(runs, sft, recipes.reward(runs, sft))
    questions = [row["prompt"] for row in recipes.town_rows("prompts", "test")]
    return {
        "base": recipes.answers(runs, base),
        "few-shot": prompted(runs, base, "few-shot", questions, examples(runs)),
        "prompted": prompted(runs, base, "page", questions, ""),
        "SFT": recipes.answers(runs, sft),
        "PPO": recipes.answers(runs, ppo),
    }


def examples(runs: Any) -> str:
    """Three questions of different families with right answers, as a page has them."""
    rows = recipes.town_rows("prompts", "train")
    three = [
        next(row for row in rows[runs.seed :] if row["family"] == family)
        for family in ("ben", "fact", "harm")
    ]
    return "".join(f"{PAGE.format(q=row['prompt'])} {row['answer']}\n" for row in three)


def prompted(runs: Any, base: Any, name: str, questions: Sequence[str], before: str) -> list[dict[str, Any]]:
    """The base model's continuations of the questions' pages up to the end of the line, as answers to the questions."""
    pages = {before + PAGE.format(q=question): question for question in questions}
    source = recipes.write_records(runs, name, [{"prompt": page} for page in pages])
    records = runs.sample(base, source, "--samples=2", "--stop=\\n")
    return [{"prompt": pages[one["prompt"]], "completion": one["completion"].strip()} for one in records]


def judge(cfg: InstructGpt, results: list[Result]) -> list[Check]:
    """The order, and the small PPO against the big base, few-shot or not."""
    order = [name for name in MODELS if name != "prompted"]

    def ordered(result: Result) -> tuple[bool, str]:
        rates = [result["big"][name]["win_rate"] for name in order]
        return sorted(set(rates)) == rates, " < ".join(f"{rate:.1%}" for rate in rates)

    def beats(result: Result) -> tuple[bool, str]:
        rates = result["small_ppo_over_big"]
        return min(
            rates["base"], rates["few-shot"]
        ) > 0.5, f"{rates['base']:.1%}, few-shot {rates['few-shot']:.1%}"

    return [
        by_seed("win rate against SFT: base < few-shot base < SFT < PPO", results, ordered),
        by_seed("small PPO beats the big base model", results, beats),
    ]


def draw(cfg: InstructGpt, results: list[Result], figure: Any) -> None:
    """Win rates against SFT of the same size, as Figure 3: lines over the two sizes."""
    from jaxtrain.apps.papers import figures

    axes = figure.subplots()
    for name in MODELS:
        rates = [[100 * result[size][name]["win_rate"] for size in ("small", "big")] for result in results]
        figures.band(axes, [0, 1], rates, name)
    labels = ("0.2M", "1M") if cfg.trial.size == "cpu" else ("11M", "85M")
    axes.set_xticks([0, 1], [f"{label} parameters" for label in labels])
    axes.set(xlim=(-0.25, 1.25), ylim=(0, 100), ylabel="win rate against SFT, %")
    axes.set_title("Completions that the gold reward prefers to those of SFT of the same size")
    figure.legend(loc="outside lower center", ncols=5)


def main(cfg: InstructGpt) -> None:
    """Trains base, SFT, reward and PPO models of two sizes and compares their completions."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(InstructGpt, main, "./launch/run papers.instructgpt")
