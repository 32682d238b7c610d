"""The commands that usually follow a stage, with the paths of its run: the last lines of its summary."""

import shlex
from pathlib import Path

from jaxtrain.train import run_list, workdir

# By stage: {run} is the run that ended, {parent} what it started from, {data} conversations for --data.
NEXT = {
    "pretrain": ("sft --init_from={run}{data}", "sample --init_from={run}"),
    "sft": ("reward --init_from={run}{pairs}", "dpo --init_from={run}{pairs}", "sample --init_from={run}"),
    "reward": ("ppo --init_from={parent} --reward_model={run}{prompts}",),
    "dpo": ("evaluate --models={parent},{run}{compared}", "sample --init_from={run}"),
    "ppo": ("evaluate --models={parent},{run}{compared}", "distill --teacher={run}{prompts}"),
    "grpo": ("evaluate --models={parent},{run}{compared}", "sample --init_from={run}"),
    "distill": ("evaluate --models={teacher},{run}{compared}", "sample --init_from={run}"),
}
# The data of the next stage where that of this one is not Tinytown's: its default would be.
OWN = {
    "data": " --data=jsonl:CONVERSATIONS.jsonl",
    "pairs": " --data=jsonl:COMPARISONS.jsonl",
    "prompts": " --data=jsonl:PROMPTS.jsonl",
    "compared": " --prompts=jsonl:PROMPTS.jsonl",
}


def lines(path: Path) -> list[str]:
    """`next  ./launch/run sft --init_from=runs/pretrain` and its like, of the folder of a run that has ended."""
    record = workdir.read_run(path, "--workdir")
    groups = record["config"]
    if groups["data"].get("objective") == "masked":  # it answers nothing
        return []
    town = groups["data"]["data"].startswith("tinytown:")
    values = {name: "" if town else text for name, text in OWN.items()}
    values["run"] = shlex.quote(run_list.short_path(path))
    values["parent"] = _name(groups["model"].get("init_from", ""))
    values["teacher"] = teacher = _name(groups.get("loss", {}).get("teacher", ""))
    texts = [
        text for text in NEXT.get(record["stage"], ()) if not (teacher == "data" and "{teacher}" in text)
    ]
    return [
        f"{'or' if i else 'next':<6}./launch/run {text.format_map(values)}" for i, text in enumerate(texts)
    ]


def _name(text: str) -> str:
    """A run as a command names it: where it is, if its name stands for another folder."""
    if not text or ":" in text:
        return shlex.quote(text) if text else ""
    folder, at, step = text.rpartition("@")
    if not folder or Path(text).exists():
        folder, at, step = text, "", ""
    return shlex.quote(f"{run_list.resolve(Path(folder), 'init_from')}{at}{step}")
