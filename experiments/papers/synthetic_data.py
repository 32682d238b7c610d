"""Fine-tuning on a teacher's answers, chosen and not, and pretraining over generations of own documents."""

import dataclasses
from typing import Any

from experiments.papers import recipes
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed, on_mean

PAPER = Paper(
    name="synthetic_data",
    title="Synthetic answers, and generations of own data",
    source="Touvron et al. 2023, arXiv:2307.09288; Shumailov et al. 2023, arXiv:2305.17493",
    figure="section 3.2.3 of the first (rejection sampling); Figure 1 of the second",
    claim="A teacher's answers chosen by a reward model are better training data than all of them, and than "
    "few human ones; models that learn from the last generation's documents alone get worse each "
    "generation.",
    published="rejection sampling in words; perplexity on real text 34 to 52 over nine generations (from memory)",
    measured="A .2M model fine-tuned on 1,024 answers of SFT, on the best of 4 by the reward model for each "
    "prompt, and on 256 human demonstrations: gold reward. A .2M model pretrained on documents, then "
    "over three generations on documents that the last model wrote, alone or beside all earlier ones: "
    "loss on real held-out documents.",
    criterion="Chosen answers give at least .1 more gold reward than unchosen ones, and no less than a quarter as "
    "many human ones, by the mean over seeds. In two thirds of the seeds the loss on real documents "
    "rises in every generation that replaces the data, and ends lower where the data accumulate.",
)
ARMS = ("all answers", "best of 4", "human, a quarter")


@dataclasses.dataclass(frozen=True)
class SyntheticFlags(config.Group):
    # fmt: off
    prompts: int = config.arg(1_024, "Prompts that the teacher answers", low=64)
    sft_steps: int = config.arg(150, "Steps of fine-tuning on each set of answers", low=5)
    documents: int = config.arg(4_000, "Documents of each generation", low=100)
    steps: int = config.arg(300, "Steps of pretraining in each generation", low=10)
    generations: int = config.arg(3, "Generations after the one on real documents", low=1)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class SyntheticData:
    trial: PaperTrial = config.group(PaperTrial)
    synthetic: SyntheticFlags = config.group(SyntheticFlags)


def measure(cfg: SyntheticData, runs: Any) -> Result:
    """The gold reward after fine-tuning on each set of answers; losses on real documents by generation."""
    return {
        "gold": answers(cfg, runs),
        **{way: losses(cfg, runs, way) for way in ("replaced", "accumulated")},
    }


def answers(cfg: SyntheticData, runs: Any) -> dict[str, float]:
    """By set of answers, the gold reward of a student fine-tuned on them."""
    teacher, judge = recipes.sft(runs), recipes.reward(runs)
    prompts = f"tinytown:prompts?documents={cfg.synthetic.prompts}"
    start = recipes.pretrained(runs, f"--model={recipes.SMALL}")
    human = recipes.town_rows("sft", "train", documents=cfg.synthetic.prompts // 4, seed=runs.seed)
    sets = {
        "all answers": recipes.answers(runs, teacher, prompts, samples=1),
        "best of 4": runs.sample(teacher, prompts, "--best_of=4", f"--reward_model={judge}"),
        "human, a quarter": [{"prompt": row["instruction"], "completion": row["response"]} for row in human],
    }
    found = {}
    for name, records in sets.items():
        kept = [
            {"prompt": one["prompt"], "completion": one["completion"]} for one in records if one["completion"]
        ]
        student = runs.train(
            "sft", f"--init_from={start}", f"--data={recipes.write_records(runs, 'answers', kept)}",
            "--eval_data=tinytown:sft:test", f"--steps={cfg.synthetic.sft_steps}", "--eval_every=0",
            "--optimizer=muon", "--lr=0.004", f"--prompts={recipes.HELD_OUT}",
        )  # fmt: skip
        found[name] = recipes.measures(recipes.answers(runs, student))["gold"]
    return found


def losses(cfg: SyntheticData, runs: Any, way: str) -> list[float]:
    """The loss on real held-out documents after each generation: the first on real ones, later ones on the models'."""
    size = cfg.synthetic
    real = recipes.town_rows("pretrain", "train", documents=size.documents, seed=runs.seed)
    held_out = recipes.write_records(
        runs,
        "real-test",
        [{"text": row["text"]} for row in recipes.town_rows("pretrain", "test", held_out=800)],
    )
    tokenizer = recipes.pretrained(runs, f"--model={recipes.SMALL}") / "tokenizer" / "tokenizer.json"
    documents = [{"text": row["text"]} for row in real]
    found = []
    for generation in range(size.generations + 1):
        run = runs.train(
            "pretrain", f"--model={recipes.SMALL}", f"--data={recipes.write_records(runs, 'documents', documents)}",
            f"--eval_data={held_out}", f"--tokenizer={tokenizer}", f"--steps={size.steps}", "--sample_every=0",
            "--eval_every=0", "--optimizer=muon", "--lr=0.01",
        )  # fmt: skip
        found.append(recipes.final(runs, run, "eval/loss"))
        if generation < size.generations:
            new = [{"text": text} for text in recipes.documents(runs, run, size.documents) if text.strip()]
            documents = new if way == "replaced" else [*documents, *new]
    return found


def judge(cfg: SyntheticData, results: list[Result]) -> list[Check]:
    """Chosen against unchosen and human answers; the collapse, and data that accumulate."""
    everything, chosen, human = ([result["gold"][name] for result in results] for name in ARMS)

    def collapses(result: Result) -> tuple[bool, str]:
        return result["replaced"] == sorted(set(result["replaced"])), " ".join(
            f"{x:.3f}" for x in result["replaced"]
        )

    def accumulates(result: Result) -> tuple[bool, str]:
        alone, beside = result["replaced"][-1], result["accumulated"][-1]
        return beside < alone, f"{beside:.3f} and {alone:.3f}"

    return [
        on_mean("chosen less unchosen answers, at least .1", diff(chosen, everything), low=0.1, digits=2),
        on_mean("chosen less a quarter of human answers, at least 0", diff(chosen, human), low=0, digits=2),
        by_seed("loss rises in every generation of replaced data", results, collapses),
        by_seed("loss lower where data accumulate", results, accumulates),
    ]


def diff(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def draw(cfg: SyntheticData, results: list[Result], figure: Any) -> None:
    """Gold reward by set of answers; loss on real documents over generations."""
    from jaxtrain.apps.papers import figures

    left, right = figure.subplots(1, 2)
    for i, name in enumerate(ARMS):
        values = [result["gold"][name] for result in results]
        left.bar(i, sum(values) / len(values), 0.6, color=f"C{i}", alpha=0.75)
        left.plot([i] * len(values), values, "o", color=left.xaxis.label.get_color())
    left.set_xticks(range(len(ARMS)), ["all\nanswers", "best\nof 4", "human,\na quarter"])
    left.set(ylabel="gold reward after fine-tuning")
    for way in ("replaced", "accumulated"):
        values = [result[way] for result in results]
        figures.band(right, range(len(values[0])), values, f"data {way}")
    right.set(xlabel="generation", ylabel="loss on real documents, nats a token")
    right.set_xticks(range(len(results[0]["replaced"])))
    right.legend()


def main(cfg: SyntheticData) -> None:
    """Trains students on synthetic answers, and generations of models on documents of the last."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(SyntheticData, main, "./launch/run papers.synthetic_data")
