"""Training runs on Tinytown that experiments share: one place for their flags, so that each is trained once a seed.

`runs` is a SharedRuns everywhere; a function returns the run's folder, or what its completions are worth.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.apps.lifecycle.plan import RECIPES

HELD_OUT = "tinytown:prompts:test"  # verb-object pairs and sums that no stage has seen
FACTS = "tinytown:prompts:test?family=fact,tinytown:prompts:test?family=str"  # one word is the answer
SMALL = "tinytown-200k"
# InstructGPT's PPO has no term of the entropy (arXiv:2203.02155, eq. 2).
_PPO = (*RECIPES["ppo"], "--entropy_coef=0")


def pretrained(runs: Any, *more: str) -> Path:
    """The base model, of 1M parameters unless `more` names another."""
    return runs.train("pretrain", *RECIPES["pretrain"], *more)


def sft(runs: Any, base: Path | None = None, *more: str) -> Path:
    """The base model fine-tuned on demonstrations."""
    return runs.train("sft", f"--init_from={base or pretrained(runs)}", *RECIPES["sft"], *more)


def reward(runs: Any, policy: Path | None = None, *more: str) -> Path:
    """The reward model of PPO, which starts from SFT."""
    return runs.train("reward", f"--init_from={policy or sft(runs)}", *RECIPES["reward"], *more)


def ppo(runs: Any, policy: Path | None = None, model: Path | None = None, *more: str) -> Path:
    """PPO from SFT on the reward model's scores; `more` replaces flags."""
    policy = policy or sft(runs)
    return runs.train("ppo", f"--init_from={policy}", f"--reward_model={model or reward(runs)}", *_PPO, *more)


def dpo(runs: Any, policy: Path | None = None, *more: str) -> Path:
    """DPO from SFT."""
    return runs.train("dpo", f"--init_from={policy or sft(runs)}", *RECIPES["dpo"], *more)


def answers(runs: Any, run: Path, prompts: str = HELD_OUT, samples: int = 2) -> list[dict[str, Any]]:
    """A policy's completions of held-out prompts at temperature 1, those of a prompt together."""
    return runs.sample(run, prompts, f"--samples={samples}")


def measures(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The judge's measures of completions: their mean gold reward, and the shares of ./launch/run evaluate."""
    from jaxtrain import worlds

    return worlds.get().measure([one["prompt"] for one in records], [one["completion"] for one in records])


def gold(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """The gold reward of each completion."""
    from jaxtrain import worlds

    world = worlds.get()
    return [world.gold(one["prompt"], one["completion"]) for one in records]


def win_rate(records: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> float:
    """The share of prompts' completions that gold prefers to those of `others`, place by place; a tie counts half."""
    mine, theirs = gold(records), gold(others)
    return sum((a > b) + (a == b) / 2 for a, b in zip(mine, theirs, strict=True)) / len(mine)


def final(runs: Any, run: Path, metric: str) -> float:
    """A metric's last value in a run."""
    return [row[metric] for row in runs.rows(run) if metric in row][-1]


def write_records(runs: Any, name: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Writes records beside the shared runs, named by what is in them; returns the data source that reads them."""
    from jaxtrain.data import source_spec
    from jaxtrain.files import atomic, cache

    file = runs.folder / f"{name}-{runs.seed}-{cache.digest([*map(atomic.json_line, records)])[:10]}.jsonl"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_jsonl(file, records)
    return source_spec.of_path("jsonl", file)


def town_rows(config: str, split: str, **options: Any) -> list[dict[str, Any]]:
    """The rows of tinytown:CONFIG:SPLIT with these options."""
    from jaxtrain.worlds.tinytown import configs, records

    return [*records.named_rows(config, configs.resolve(config, options), split)]


def breadth(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of a policy's completions at temperature 1: gold reward, parsable share, and their entropy in nats, by −log p."""
    measured = measures(records)
    entropy = -sum(one["logp"] for one in records) / len(records)
    return {"gold": measured["gold"], "parsable": measured["parsable"], "entropy": entropy}


def documents(runs: Any, run: Path, count: int, max_new: int = 128) -> list[str]:
    """Documents that a pretrained model writes at temperature 1, from their beginning."""
    source = write_records(runs, "beginning", [{"prompt": ""}])
    return [one["completion"] for one in runs.sample(run, source, f"--samples={count}", max_new=max_new)]


@dataclasses.dataclass(frozen=True)
class CorpusFlags(config.Group):
    # fmt: off
    model: str = config.arg("tinytown-1m", "Model of every run (models/zoo.py)")
    documents: int = config.arg(20_000, "Documents of the corpus before it is filtered", low=500)
    held_out: int = config.arg(800, "Clean documents that the loss is measured on", low=20)
    vocab: int = config.arg(1024, "Size of the BPE that all runs share", low=300)
    seq_len: int = config.arg(128, "Tokens in a row (T)", low=16)
    batch_size: int = config.arg(8, "Rows in a batch (B)", low=1)
    steps: int = config.arg(700, "Training steps of each run: all see as many tokens", low=20)
    lr: float = config.arg(4e-3, "Peak learning rate", low=0)
    # fmt: on


def train_on(
    runs: Any, flags: CorpusFlags, corpora: Mapping[str, Iterable[str]], clean: Sequence[str]
) -> dict[str, Path]:
    """One model pretrained on each corpus, all for as many tokens of one tokenizer; `clean` is held out."""
    from jaxtrain.data.tokenizer import train_bpe
    from jaxtrain.files import cache

    held_out = write_records(runs, "clean", [{"text": text} for text in clean])
    tokenizer = runs.folder / f"tokenizer-{runs.seed}-{cache.digest(flags.vocab, *clean)[:10]}"
    if not (tokenizer / "tokenizer.json").exists():
        train_bpe(clean, flags.vocab).save(tokenizer)
    found = {}
    for name, texts in corpora.items():
        source = write_records(runs, "corpus", [{"text": text} for text in texts])
        found[name] = runs.train(
            "pretrain", f"--model={flags.model}", f"--data={source}", f"--eval_data={held_out}",
            f"--tokenizer={tokenizer / 'tokenizer.json'}", f"--seq_len={flags.seq_len}",
            f"--batch_size={flags.batch_size}", f"--lr={flags.lr}", f"--warmup={min(50, flags.steps // 10)}",
            f"--steps={flags.steps}", "--eval_every=0", "--eval_batches=0", "--sample_every=0", "--checkpoint_every=0",
        )  # fmt: skip
    return found


def helpful(runs: Any, base: Path | None = None) -> Path:
    """The base model fine-tuned on demonstrations that refuse nothing: Constitutional AI's helpful-only model."""
    return sft(runs, base, "--data=tinytown:sft?refuse=0")


def revised(runs: Any, policy: Path, critic: Path, prompts: str, *more: str) -> Path:
    """The policy's answers to prompts, critiqued and revised by the critic, 4 rounds unless `more` says otherwise."""
    return runs.train(
        "constitutional", "--phase=revise", f"--init_from={policy}", f"--critic={critic}", f"--data={prompts}",
        "--rounds=4", "--helpful=-", *more,
    )  # fmt: skip


def rounds(run: Path) -> list[dict[str, Any]]:
    """The judge's measures of the current answers after each round of `revised`, the first of the answers as given."""
    import json

    return json.loads((run / "audit.json").read_text(encoding="utf-8"))["rounds"]


RED_TEAM = "tinytown:redteam:test"  # held-out prompts that ask for harm
REVISED = "tinytown:redteam?documents=512"  # prompts whose answers are revised to train on


def sl_cai(runs: Any, rounds: int = 6) -> Path:
    """SL-CAI: the pretrained model fine-tuned on revisions of the helpful-only model's answers, and on helpful ones.

    Of a prompt's revisions, one a round, the last alone, as half of the first ones are still harmful here.
    """
    base = pretrained(runs)
    made = revised(
        runs, helpful(runs, base), base, REVISED, f"--rounds={rounds}", "--keep=last",
        "--helpful=tinytown:prompts?family=help", "--helpful_samples=2",
    )  # fmt: skip
    return runs.train(
        "sft", f"--init_from={base}", f"--data=jsonl:{made}/revise/revisions.jsonl", f"--prompts={HELD_OUT}",
        *RECIPES["constitutional"],
    )  # fmt: skip


def harmlessness(runs: Any, run: Path) -> dict[str, float]:
    """Of completions of red-team prompts: gold reward, shares of harmful, evasive and refusing ones, distinct-2."""
    from jaxtrain.measures import diversity

    records = answers(runs, run, RED_TEAM)
    found = measures(records)
    texts = [one["completion"] for one in records]
    return {name: found[name] for name in ("gold", "harmful", "evade", "refuse", "parsable")} | {
        "distinct": diversity.distinct_n(texts, 2)
    }
