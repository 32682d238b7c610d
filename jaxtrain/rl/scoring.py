"""Drawn completions: which prompts have room for one, what it scores, how it is shown."""

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxtrain import config
from jaxtrain.data.dialogs import shorten
from jaxtrain.data.preferences import alternatives
from jaxtrain.data.prompts import Prompt, question
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import atomic, terminal
from jaxtrain.ops import returns
from jaxtrain.rewards.models import CompletionScorer
from jaxtrain.stages import sampling
from jaxtrain.stages.session import Session
from jaxtrain.train import loop
from jaxtrain.types import TrainState

FOLDER = "rollouts"  # in the run's samples/
Columns = dict[str, np.ndarray]


class ScoringConfig(NamedTuple):
    """How completions are scored."""

    judge: CompletionScorer
    tokenizer: Tokenizer
    end: int
    truncation_tokens: frozenset[int]  # tokens that end what is scored
    gold: Callable[[str, str], float] | None  # the world's own reward, told beside the score


class ScoredBatch(NamedTuple):
    """Completions and what they score, before the models have seen them; arrays of R rows all."""

    rows: Columns
    scores: np.ndarray  # f32[R]
    ended: np.ndarray  # bool[R]
    stats: Columns
    words: np.ndarray  # object[R, 2], question and text


def score_completions(
    cfg: Any, how: ScoringConfig, asked: list[Prompt], found: list[sampling.SampledTokens]
) -> ScoredBatch:
    """What is known of drawn completions: their rows and texts, and what they score."""
    s, scoring = cfg.samples, cfg.scores
    ids, ended = [each.ids for each in found], np.array([each.ended for each in found])
    if scoring.truncate_at:
        cuts = [_cut(each, how.stops, scoring.truncate_from) for each in ids]
        ids = [each[:cut] for each, cut in zip(ids, cuts, strict=True)]
        ended = np.array([cut is not None for cut in cuts])
    texts = [how.tokenizer.decode([i for i in each if i != how.end]) for each in ids]
    pairs = [(each.ids, np.array(new.ids, np.int32)) for each, new in zip(asked, found, strict=True)]
    rows = alternatives(pairs, len(pairs), cfg.data.seq_len, how.tokenizer.pad)
    judged = np.array([len(each.ids) + len(new) for each, new in zip(asked, ids, strict=True)], np.int32)
    scores = np.asarray(how.judge.scores({**rows, "length": judged}, asked, texts), np.float32)
    lengths = rows["mask"].sum(1)
    stats = {"completions/mean_length": lengths, "completions/clipped_ratio": 1.0 - ended}
    questions = [question(each.messages) for each in asked]
    if cap := scoring.cap():
        stats["objective/scores_capped"] = (scores > cap).astype(np.float32)
    if how.gold is not None:
        stats["judge/gold"] = np.array([how.gold(*pair) for pair in zip(questions, texts, strict=True)])
    words = np.array([questions, texts], object).T
    return ScoredBatch(rows, _priced(scores, ended, lengths, scoring, s.max_new), ended, stats, words)


def _priced(
    scores: np.ndarray, ended: np.ndarray, lengths: np.ndarray, how: config.Scores, most: int
) -> np.ndarray:
    """Scores of --score_cap at most, with what --truncated and --overlong_buffer take off."""
    if cap := how.cap():
        scores = np.minimum(scores, np.float32(cap))
    price = np.float32(how.truncated_penalty)
    if how.truncated == "subtract":
        scores = scores - price * ~ended
    elif how.truncated == "replace":
        scores = np.where(ended, scores, -price)
    if how.overlong_buffer:
        scores = scores + np.asarray(
            returns.overlong_penalty(jnp.asarray(lengths), most=most, buffer=how.overlong_buffer)
        )
    return scores


def _cut(ids: list[int], stops: frozenset[int], start: int) -> int | None:
    """How many tokens are scored: through the first of `stops` at `start` or later; None where there is none."""
    return next((i + 1 for i in range(start, len(ids)) if ids[i] in stops), None)


def truncation_tokens(tokenizer: Tokenizer, how: config.Scores) -> frozenset[int]:
    """The tokens that are --truncate_at. Raises ConfigError where there is none."""
    if not how.truncate_at:
        return frozenset()
    found = frozenset(
        i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]).strip() == how.truncate_at
    )
    if not found:
        raise config.ConfigError(
            f"--truncate_at={how.truncate_at}: the tokenizer has no token with this text"
        )
    return found


def fitting_prompts(asked: list[Prompt], cfg: Any, bos: int) -> tuple[list[Prompt], list[str]]:
    """(prompts that leave room for --max_new in --seq_len, what was done about the others)."""
    room, kept = cfg.data.seq_len - cfg.samples.max_new, []
    if room < 1:
        raise config.ConfigError(
            f"--max_new={cfg.samples.max_new}: --seq_len={cfg.data.seq_len} leaves no room for a prompt"
        )
    long = [each for each in asked if len(each.ids) > room]
    for each in asked:
        ids = each.ids if cfg.data.too_long == "drop" else shorten(each.ids, room, bos)
        if ids is not None and len(ids) <= room:
            kept.append(each._replace(ids=ids))
    if not kept:
        raise config.ConfigError(
            f"--data={cfg.data.data}: no prompt fits {room} tokens (--seq_len less --max_new); the shortest has "
            f"{min(len(each.ids) for each in asked)}"
        )
    lost = len(asked) - len(kept)
    said = (
        [f"{len(long) - lost:,} prompts longer than {room} tokens lost their beginning"]
        if len(long) > lost
        else []
    )
    return kept, said + ([f"{lost:,} prompts longer than {room} tokens left out"] if lost else [])


def with_completion_table(session: Session, sample: loop.Sample, shown: int = 4) -> loop.Sample:
    """`sample`, after a table of a few completions of the last iteration."""

    def both(state: TrainState, step: int) -> tuple[str, Mapping[str, float]]:
        text, numbers = sample(state, step)
        files = sorted((session.path / "samples" / FOLDER).glob("*.jsonl")) if session.primary else []
        if not files:
            return text, numbers
        with open(files[-1], encoding="utf-8") as file:
            rows = [json.loads(line) for line, _ in zip(file, range(shown), strict=False)]
        return f"{_table(rows, files[-1].name)}\n{text}", numbers

    return both


def _table(rows: list[dict[str, Any]], name: str) -> str:
    """Completions with their numbers, in lines that fit a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    told = [key for key in ("score", "kl", "gold") if key in rows[0]]
    table = Table(title=f"completions of the last iteration ({FOLDER}/{name})", title_justify="left")
    for column in ("prompt", "completion"):
        table.add_column(column, overflow="fold", ratio=1 if column == "prompt" else 2)
    for key in told:
        table.add_column(key, justify="right", no_wrap=True)
    for row in rows:
        mark = "" if row["ended"] else " …"
        words = [Text(row["prompt"]), Text(row["completion"] + mark)]
        table.add_row(*words, *(f"{row[key]:.2f}" for key in told))
    console = Console(width=terminal.WIDTH, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()


def rollout_lines(made: ScoredBatch, told: Mapping[str, np.ndarray]) -> str:
    names = {"score": "objective/scores", "kl": "objective/kl", "gold": "judge/gold"}
    out = []
    for i, (prompt, text) in enumerate(made.words):
        row = {"prompt": prompt, "completion": text, "ended": bool(made.ended[i])}
        row |= {name: round(float(told[key][i]), 4) for name, key in names.items() if key in told}
        out.append(atomic.json_line(row))
    return "".join(out)
