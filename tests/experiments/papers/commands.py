"""Runs that train nothing: each command's flags are parsed as the command does, and completions are made up."""

import importlib
import json
from pathlib import Path
from typing import Any

from experiments.papers import recipes
from jaxtrain import flags
from jaxtrain.files import atomic

CLASSES = {
    "pretrain": "Pretrain", "sft": "Sft", "reward": "Reward", "ppo": "Ppo", "dpo": "Dpo", "distill": "Distill",
    "constitutional": "Constitutional", "sample": "Sample",
}  # fmt: skip


class CommandRuns:
    """A SharedRuns whose commands are parsed and recorded."""

    def __init__(self, folder: Path, seed: int = 3):
        self.folder, self.seed = folder, seed
        self.commands: list[tuple[str, ...]] = []

    def parse(self, command: str, *given: str) -> Any:
        module = importlib.import_module(f"experiments.{command}")
        return flags.from_flags(getattr(module, CLASSES[command]), [*given, f"--seed={self.seed}"])

    def train(self, command: str, *given: str) -> Path:
        self.parse(command, *given)
        if (command, *given) not in self.commands:
            self.commands.append((command, *given))
        run = self.folder / f"{command}-{self.commands.index((command, *given))}"
        if command == "constitutional":
            self._revised(run)
        return run

    def _revised(self, run: Path) -> None:
        """What the phases leave: the rounds of one prompt, whose answer is harmful until it is revised."""
        (run / "revise").mkdir(parents=True, exist_ok=True)
        line = {"parsable": 1.0, "benign": 0.9}
        measured = [{"round": i, "harmful": 0.9 - 0.2 * i, **line} for i in range(5)]
        (run / "audit.json").write_text(json.dumps({"rounds": measured}))
        row = recipes.town_rows("redteam", "test", held_out=1)[0]
        rows = [
            {"unit": unit, "round": i, "prompt": row["prompt"], "revision": row["answer"]}
            for unit in range(2)
            for i in range(5)
        ]
        atomic.write_jsonl(run / "revise" / "rounds.jsonl", rows)

    def sample(self, run: Path, prompts: str, *given: str, max_new: int = 48) -> list[dict[str, Any]]:
        self.parse(
            "sample", f"--init_from={run}", f"--prompts={prompts}", f"--max_new={max_new}", *given, "--out=x"
        )
        if prompts.startswith("jsonl:"):
            texts = [one["prompt"] for one in atomic.read_jsonl(Path(prompts.removeprefix("jsonl:")))]
        else:
            texts = [row["prompt"] for row in recipes.town_rows("prompts", "test")]
        samples = next((int(one.partition("=")[2]) for one in given if one.startswith("--samples=")), 1)
        made = ("2 plus 3 makes 5.", "I will not say.", "5", "no", "word", "a b", "c d e", "f", "g")
        return [
            {"prompt": text, "completion": made[i % len(made)], "ended": True, "logp": -2.0}
            for text in texts for i in range(samples)
        ]  # fmt: skip

    def rows(self, run: Path) -> list[dict[str, Any]]:
        held_out = {f"eval/accuracy/{group}": 0.7 for group in "AB"}
        held_out |= {"eval/loss": 0.5 + 1 / (2 + int(run.name.rpartition("-")[2]))}  # they differ
        held_out |= {"eval/accuracy": 0.7, "eval/gold_accuracy": 0.8, "eval/divergence": 0.1}
        bits = {"eval/bits_per_byte": 0.3, "eval/bits_per_byte_above_entropy": 0.1}
        return [{"step": 1, "loss": 7.0, "z_loss": 1e-4, "objective/scores": 1.0, "objective/kl": 2.0},
                {"step": 4, **held_out, **bits}]  # fmt: skip
