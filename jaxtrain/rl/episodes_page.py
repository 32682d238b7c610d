"""A run's completions and episodes as one HTML page that needs no network: read by turn, filtered, sorted."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError
from jaxtrain.files import html
from jaxtrain.rl.completion_table import FOLDER
from jaxtrain.rl.episode_rows import PREFIX

PAGE = Path(__file__).parent / "pages" / "episodes.html.jinja"
TOOL_ERRORS = "tool_errors"  # an environment's metric (rl/tool_environment.py)


class ReadEpisodes(NamedTuple):
    """The episodes of a run, the newest iterations first."""

    rows: list[dict[str, Any]]
    total: int  # that the run has, of which `rows` are the newest
    damaged: list[str]  # FILE:LINE of those that cannot be read, and why


def read(run: Path, most: int) -> ReadEpisodes:
    """The newest `most` episodes in a run's samples, by iteration. Raises ConfigError where it has none."""
    folder = run / "samples" / FOLDER
    files = sorted(folder.glob("*.jsonl"), reverse=True) if folder.is_dir() else []
    if not files:
        raise ConfigError(
            f"--run={run}: it has no {folder}: name a run of ppo, grpo or online_dpo that has sampled"
        )
    rows, total, damaged = [], 0, []
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            total += 1
            if len(rows) >= most:
                continue
            try:
                rows.append(_episode(file.stem, number, json.loads(line, parse_constant=lambda _: None)))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                damaged.append(f"{file}:{number} ({type(error).__name__}: {error})")
    return ReadEpisodes(rows, total, damaged)


def _episode(stem: str, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page has of an episode. Raises where the line is none."""
    turns = row.get("turns") or [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["completion"], "reward": row["score"]},
    ]
    return {
        "step": int(stem),
        "number": number,
        "score": row["score"],
        "kl": row.get("kl"),
        "ended": bool(row["ended"]),
        "tokens": row.get("tokens"),
        TOOL_ERRORS: row.get(PREFIX, {}).get(TOOL_ERRORS),
        "rewards": row.get("rewards", {}),
        PREFIX: row.get(PREFIX, {}),
        "extra": row.get("extra", {}),
        "turns": [
            {"role": str(one["role"]), "content": str(one["content"]), "reward": one.get("reward")}
            for one in turns
        ],
    }


def page(run: Path, episodes: ReadEpisodes) -> str:
    """The page."""
    # In a script element nothing but its end tag and a comment's start mean anything.
    data = json.dumps(episodes.rows, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    steps = sorted({row["step"] for row in episodes.rows})
    return html.template(PAGE).render(
        run=str(run), data=data, count=len(episodes.rows), total=episodes.total, steps=steps,
        has_tools=any(row[TOOL_ERRORS] is not None for row in episodes.rows),
    )  # fmt: skip
