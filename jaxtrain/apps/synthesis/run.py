"""How ./launch/run synthesize makes its rows: the models, the cost, batches kept as they come, and the files."""

import collections
import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain import config
from jaxtrain.apps.synthesis import prompts, recipes, screening
from jaxtrain.apps.synthesis.config import Synthesize
from jaxtrain.apps.synthesis.recipes import SynthesisConfig
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data.prompts import Prompt, question, read_conversations
from jaxtrain.files import atomic, journal, terminal
from jaxtrain.files.progress import bar
from jaxtrain.files.terminal import note
from jaxtrain.inference import judges, llm_judge, local
from jaxtrain.inference.llm import LLM, Request, derive_seed, user_messages
from jaxtrain.measures import diversity

BATCH = 32  # most units between two writes
JUDGING = 1  # what a seed is for
SHORT = 32  # tokens that a question is taken to have, before there is any
SHOWN = 3  # rows shown at the end


class SynthesizedRows(NamedTuple):
    rows: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    judged: Mapping[str, float]


def run(cfg: Synthesize, out: Path) -> None:
    """Makes the rows, or with --dry_run tells what they would cost."""
    given, examples = _given(cfg), _examples(cfg)
    models: dict[str, LLM] = {}
    with contextlib.ExitStack() as stack:

        def opened(text: str, flag: str, width: int) -> LLM:
            if text not in models:
                models[text] = local.open_llm(text, flag, cfg.endpoint, cfg.machine, width)
                stack.callback(models[text].close)
            return models[text]

        generator = opened(cfg.models.generator, "generator", cfg.models.max_new)
        expert = opened(cfg.models.expert or cfg.models.generator, "expert", cfg.models.max_new)
        how = _recipe(cfg, given, examples, generator, expert)
        judged, reader = judges.open_judge(cfg.quality, cfg.machine, opened)
        screen = _screen(cfg.quality, judged)
        said = f"{generator.name} asks, {expert.name} answers" + (f", {judged.name} judges" if judged else "")
        note([("models", said), *generator.notes, *_costs(cfg, how, reader)])
        if cfg.models.dry_run:
            return
        began, kept = time.perf_counter(), journal.Journal(output_files(out)["part"], cfg)
        stack.callback(kept.close)
        made = _made(cfg, how, screen, kept)
        _finish(cfg, how, made, out, list(models.values()), time.perf_counter() - began)
        kept.remove()
    _show(made.rows, out)


def _given(cfg: Synthesize) -> tuple[Prompt, ...]:
    """The distinct conversations of --source: of a source without a split its train split."""
    wanted = cfg.wanted
    cache = cfg.machine.cache_dir
    return (
        tuple(read_conversations(wanted.source, "source", cache, wanted.source_count))
        if wanted.source
        else ()
    )


def _examples(cfg: Synthesize) -> tuple[str, ...]:
    wanted = cfg.wanted
    if not wanted.examples:
        return ()
    found = [
        question(one.messages)
        for one in read_conversations(wanted.examples, "examples", cfg.machine.cache_dir, 0)
    ]
    if wanted.shots > len(found):
        raise ConfigError(f"--shots={wanted.shots}: --examples has {len(found)} questions")
    return tuple(found)


def _recipe(
    cfg: Synthesize,
    given: tuple[Prompt, ...],
    examples: tuple[str, ...],
    generator: LLM,
    expert: LLM,
) -> SynthesisConfig:
    models, wanted, quality = cfg.models, cfg.wanted, cfg.quality
    auto = "instruct" if generator.remote or generator.chat else "base"
    name = auto if models.prompting == "auto" else models.prompting
    if name == "instruct":
        for flag, one in (("generator", generator), ("expert", expert)):
            if not one.chat:
                raise ConfigError(
                    f"--{flag}={one.name}: it has no chat template to read instructions with: --prompting=base"
                )
        if "" in (wanted.topic_list() if wanted.topics else ()):
            raise ConfigError(
                "--topics=-: any question is what a base model may write; name what it is to be about"
            )
    if wanted.kind == "augment" and any(not one.answer for one in given):
        raise ConfigError(
            f"--source={wanted.source}: --kind=augment keeps the answers, and there is a question without"
        )
    if quality.answer_field and (
        lacks := [one.name for one in given if quality.answer_field not in one.record]
    ):
        raise ConfigError(f"--answer_field={quality.answer_field}: {lacks[0]} has no such field")
    style = prompts.STYLES[name]
    several = not given or wanted.kind == "augment"
    if models.per_ask > 1 and not style.several:
        raise ConfigError(f"--per_ask={models.per_ask}: a base model is asked for one at a time")
    return SynthesisConfig(
        kind=wanted.kind, style=style, generator=generator, expert=expert, seed=models.seed,
        topics=wanted.topic_list() if wanted.topics else (), given=given, examples=examples,
        shots=wanted.shots if examples else 0,
        per_ask=models.per_ask or (10 if style.several and several and wanted.kind != "conversation" else 1),
        samples=models.samples or (5 if wanted.kind == "reasoning" else 1), turns=models.turns,
        agreement=quality.agreement, answer_field=quality.answer_field, temperature=models.temperature,
        answer_temperature=models.answer_temperature, max_new=models.max_new,
    )  # fmt: skip


def _screen(quality: Any, made: llm_judge.Judge | None) -> recipes.RowFilter:
    return recipes.RowFilter(
        quality.min_chars, quality.max_chars, screening.language_check(quality.language),
        screening.NearDuplicateIndex(quality.near), made, quality.min_score,
    )  # fmt: skip


def _costs(cfg: Synthesize, how: SynthesisConfig, reader: LLM | None) -> list[tuple[str, str]]:
    """What making --count rows will cost if none is rejected: requests, tokens read (about) and written (at most)."""
    count, most = cfg.wanted.count, cfg.models.max_new
    first, write = _first(how), how.style.reason if how.kind == "reasoning" else how.style.answer
    asked = estimated_tokens(first)
    known = how.given[0].messages if how.given else user_messages("x" * 4 * SHORT)
    answered = estimated_tokens(write(known, recipes.topic_of(how, 0), how.expert.chat))
    units = math.ceil(count / how.per_ask) if not how.given or how.kind == "augment" else 0
    ours: list[tuple[LLM, str, int, int]] = []  # (who, what, requests, tokens read by one)
    if how.kind == "conversation":
        talk = how.turns * (SHORT + most) // 2
        ours += [(how.generator, "questions", count * (how.turns - bool(how.given)), asked + talk)]
        ours += [(how.expert, "answers", count * how.turns, answered + talk)]
    else:
        ours += [(how.generator, "questions", units, asked)]
        votes = how.samples if how.kind == "reasoning" else 1
        ours += [(how.expert, "answers", count * votes, answered)] if how.kind != "augment" else []
    if reader:
        ours += [
            (
                reader,
                "verdicts",
                count * cfg.quality.votes,
                math.ceil(len(llm_judge.RUBRIC) / 2) + SHORT + most,
            )
        ]
    table, cost = [("first prompt", json.dumps(first.messages[-1]["content"], ensure_ascii=False)[:300])], 0.0
    for who, what, requests, size in ours:
        if requests:
            written = llm_judge.MAX_NEW if what == "verdicts" else most
            table.append(
                (
                    what,
                    f"{requests:,}; about {requests * size:,} tokens read, at most {requests * written:,} written",
                )
            )
            cost += cfg.endpoint.cost(requests * size, requests * written) if who.remote else 0.0
    priced = cfg.endpoint.price_in or cfg.endpoint.price_out
    bound = f"at most {cost:,.4f} if no row is rejected, {cost * cfg.wanted.tries:,.4f} with --tries={cfg.wanted.tries}"
    return [*table, *([("cost", bound)] if priced else [])]


def _first(how: SynthesisConfig) -> Request:
    """The first request, as far as it is known."""
    if how.kind == "conversation" and not how.given:
        return how.style.turn((), recipes.topic_of(how, 0))
    if how.kind == "augment":
        return how.style.rephrase(question(how.given[0].messages), how.per_ask)
    if how.given:
        write = how.style.reason if how.kind == "reasoning" else how.style.answer
        return write(how.given[0].messages, "", how.expert.chat)
    return recipes.question_request(how, 0)


def estimated_tokens(ask: Request) -> int:
    """About how many tokens a prompt has: four characters each, the usual estimate for English."""
    return math.ceil(sum(len(one["content"]) for one in ask.messages) / 4)


def _made(
    cfg: Synthesize, how: SynthesisConfig, screen: recipes.RowFilter, kept: journal.Journal
) -> SynthesizedRows:
    """All rows; those of an earlier process of this command are taken as they are."""
    count, limit = cfg.wanted.count, cfg.wanted.count * cfg.wanted.tries
    each = recipes.drafts_per_unit(how)
    units = len(how.given) or math.ceil(limit / each)
    rows = [row for one in kept.batches for row in one["rows"]]
    rejected = [row for one in kept.batches for row in one["rejected"]]
    first = kept.batches[-1]["next"] if kept.batches else 0
    if kept.batches:
        note([("resuming", f"{len(rows):,} rows and {len(rejected):,} rejected ones are there")])
    for row in rows:
        recipes.add_accepted(screen.seen, row)
    with bar(f"{how.kind} rows", count) as advance:
        advance(len(rows))
        while len(rows) < count and len(rows) + len(rejected) < limit and first < units:
            room = count - len(rows)
            size = _size(room, len(rows), len(rows) + len(rejected), limit, each)
            drafts = recipes.drafts(how, range(first, min(first + size, units)))
            new, bad, told = recipes.filter_drafts(drafts, screen, derive_seed(how.seed, first, JUDGING))
            bad += [{"reason": f"surplus: {count:,} rows were there before it", **row} for row in new[room:]]
            first = min(first + size, units)
            kept.add({"rows": new[:room], "rejected": bad, "judged": told, "next": first})
            rows += new[:room]
            rejected += bad
            advance(len(new[:room]))
    judged: collections.Counter = collections.Counter()
    for one in kept.batches:
        judged.update(one["judged"])
    return SynthesizedRows(rows, rejected, judged)


def _size(room: int, rows: int, made: int, limit: int, each: int) -> int:
    """Units of the next batch: what fills the room at the rate so far, so that little is paid for and left over."""
    wanted = min(room * (made + 1) / (rows + 1), limit - made)
    return min(BATCH, math.ceil(wanted / each))


def output_files(out: Path) -> dict[str, Path]:
    """What stands beside a data set: rows that were rejected, the report, and batches while it is made."""
    names = {"rejected": "rejected.jsonl", "report": "report.json", "part": "jsonl.part"}
    return {name: out.with_name(f"{out.stem}.{ending}") for name, ending in names.items()}


def _finish(
    cfg: Synthesize,
    how: SynthesisConfig,
    made: SynthesizedRows,
    out: Path,
    models: Sequence[LLM],
    seconds: float,
) -> None:
    """Writes the files, the data set last, and tells what is in them."""
    beside = output_files(out)
    reasons = collections.Counter(row["reason"].split(":")[0] for row in made.rejected)
    texts = [" ".join(recipes.texts(row)) for row in made.rows]
    found = diversity.diversity_metrics(texts)
    embed = how.generator.embed or how.expert.embed
    if embed and len(texts) > 1:
        found["embedding_spread"] = diversity.mean_cosine_distance(embed(texts))
    spent = {one.name: {k: v for k, v in vars(one.spent).items() if k != "lock"} for one in models}
    counts = {"made": len(made.rows) + len(made.rejected), "kept": len(made.rows), "rejected": dict(reasons)}
    report = {
        **counts,
        "judge": dict(made.judged),
        "diversity": found,
        "spent": spent,
        "config": config.to_dict(cfg),
    }
    atomic.write_jsonl(beside["rejected"], made.rejected)
    atomic.write_text(beside["report"], config.dumps(report) + "\n")
    if made.rows:
        atomic.write_jsonl(out, made.rows)
    note(_told(cfg, made, reasons, found, models, seconds))


def _show(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    if not rows:
        raise Failure(f"no row is left: {output_files(out)['rejected']} says why")
    for row in rows[:SHOWN]:
        *said, answer = recipes.texts(row)
        print("\n".join(terminal.wrapped(f"{' / '.join(said)}▸{answer}{terminal.END}", "  │ ")), end="\n\n")
    print(f"rows: {out}")


def _told(
    cfg: Synthesize,
    made: SynthesizedRows,
    reasons: Mapping[str, int],
    found: Mapping[str, float],
    models: Sequence[LLM],
    seconds: float,
) -> list[tuple[str, str]]:
    scores = [row["score"] for row in made.rows if "score" in row]
    missing = cfg.wanted.count - len(made.rows)
    ends = "--source has no more" if cfg.wanted.source else f"--tries={cfg.wanted.tries} were made"
    table = [
        ("rows", f"{len(made.rows):,} of {len(made.rows) + len(made.rejected):,} made, in {seconds:.1f} s")
    ]
    table += [("missing", f"{missing:,} of --count={cfg.wanted.count:,}: {ends}")] if missing > 0 else []
    table += (
        [("rejected", ", ".join(f"{n:,} {name}" for name, n in sorted(reasons.items())))] if reasons else []
    )
    table += [("mean score", f"{sum(scores) / len(scores):.4f}")] if scores else []
    if made.judged.get("malformed") or made.judged.get("unanswered"):
        table.append(("judge", ", ".join(f"{value:,} {name}" for name, value in made.judged.items())))
    table.append(("diversity", ", ".join(f"{name} {value:.3f}" for name, value in found.items())))
    for one in models:
        s = one.spent
        cost = cfg.endpoint.cost(s.tokens_in, s.tokens_out) if one.remote else 0.0
        parts = [f"{s.requests:,} requests, {s.tokens_in:,} tokens read, {s.tokens_out:,} written"]
        parts += [f"{s.cached:,} answers from the cache"] if s.cached else []
        parts += [f"{s.repeated:,} sent again for malformed answers"] if s.repeated else []
        parts += [f"{s.refused:,} prompts were refused"] if s.refused else []
        parts += [f"{s.uncounted:,} answers did not tell their tokens"] if s.uncounted else []
        table.append(("spent", f"{one.name}: {', '.join(parts)}" + (f", cost {cost:,.4f}" if cost else "")))
    return table
