"""The run of ./launch/run synthesize: models, cost estimate, journalled batches of rows, and the files."""

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
from jaxtrain.apps.synthesis.config import Synthesize, output_files
from jaxtrain.apps.synthesis.recipes import SynthesisConfig
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data import source_spec
from jaxtrain.data.prompts import Prompt, question, read_conversations
from jaxtrain.files import atomic, journal, terminal
from jaxtrain.files.progress import bar
from jaxtrain.files.terminal import note
from jaxtrain.inference import judges, llm_judge
from jaxtrain.inference.config import QualityFlags
from jaxtrain.inference.llm import LLM, Request, derive_seed, user_messages
from jaxtrain.inference.llm_pool import LLMPool
from jaxtrain.measures import diversity

BATCH = 32  # most units between two writes
JUDGING = 1  # what a seed is for
SHORT = 32  # assumed tokens of a question, before there is any
SHOWN = 3  # rows shown at the end


class SynthesizedRows(NamedTuple):
    """The accepted rows, the rejected ones with their reasons, and the counts of all batches, whoever made them."""

    rows: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    judged: Mapping[str, float]
    spent: Mapping[str, Mapping[str, int]]  # model -> counts of Usage


def run(cfg: Synthesize, out: Path) -> None:
    """Generates the rows and writes them to `out`; with --dry_run shows the estimated cost alone."""
    given, examples = _given(cfg), _examples(cfg)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(contextlib.closing(LLMPool(cfg.endpoint, cfg.machine)))
        generator = pool.open(cfg.models.generator, "generator", cfg.models.max_new)
        expert = pool.open(cfg.models.expert or cfg.models.generator, "expert", cfg.models.max_new)
        recipe = _recipe(cfg, given, examples, generator, expert)
        fields = {name for one in given for name in one.record}
        judge, reader = judges.open_judge(cfg.quality, cfg.machine, pool.open, fields)
        row_filter = _row_filter(cfg.quality, judge)
        roles = f"{generator.name} asks, {expert.name} answers" + (f", {judge.name} judges" if judge else "")
        note([("models", roles), *generator.notes, *_cost_table(cfg, recipe, reader)])
        if cfg.models.dry_run:
            return
        started, work = time.perf_counter(), journal.Journal(output_files(out)["part"], cfg)
        stack.callback(work.close)
        result = _generate_rows(cfg, recipe, row_filter, work, pool.models)
        _finish(cfg, recipe, result, out, pool.models, time.perf_counter() - started)
        work.remove()
    _print_rows(result, out)


def _dialogs(cfg: Synthesize) -> config.Dialogs:
    return config.dialogs_of(cfg.reading, cfg.machine.cache_dir)


def _given(cfg: Synthesize) -> tuple[Prompt, ...]:
    """The distinct conversations of --source: of a source without a split its train split."""
    task = cfg.wanted
    if not task.source:
        return ()
    return tuple(read_conversations(task.source, "source", _dialogs(cfg), task.source_count))


def _examples(cfg: Synthesize) -> tuple[str, ...]:
    """The questions of --examples."""
    task = cfg.wanted
    if not task.examples:
        return ()
    prompts = read_conversations(task.examples, "examples", _dialogs(cfg), 0)
    if task.shots > len(prompts):
        raise ConfigError(f"--shots={task.shots}: --examples has {len(prompts)} questions")
    return tuple(question(one.messages) for one in prompts)


def _recipe(
    cfg: Synthesize,
    given: tuple[Prompt, ...],
    examples: tuple[str, ...],
    generator: LLM,
    expert: LLM,
) -> SynthesisConfig:
    models, task, quality = cfg.models, cfg.wanted, cfg.quality
    auto = "instruct" if generator.remote or generator.chat else "base"
    name = auto if models.prompting == "auto" else models.prompting
    if name == "instruct":
        for flag, one in (("generator", generator), ("expert", expert)):
            if not one.chat:
                raise ConfigError(
                    f"--{flag}={one.name}: it has no chat template to read instructions with: --prompting=base"
                )
        if "" in (task.topic_list() if task.topics else ()):
            raise ConfigError("--topics=-: any question is what a base model may write; name a topic")
    if task.kind == "augment" and any(not one.answer for one in given):
        raise ConfigError(
            f"--source={task.source}: --kind=augment keeps the answers, and there is a question without"
        )
    if quality.answer_field and (
        lacks := [one.name for one in given if quality.answer_field not in one.record]
    ):
        raise ConfigError(f"--answer_field={quality.answer_field}: {lacks[0]} has no such field")
    style = prompts.STYLES[name]
    several = not given or task.kind == "augment"
    if models.per_ask > 1 and not style.several:
        raise ConfigError(f"--per_ask={models.per_ask}: a base model gives one at a time")
    return SynthesisConfig(
        kind=task.kind, style=style, generator=generator, expert=expert, seed=models.seed,
        topics=task.topic_list() if task.topics else (), given=given, examples=examples,
        shots=task.shots if examples else 0,
        per_ask=models.per_ask or (10 if style.several and several and task.kind != "conversation" else 1),
        samples=models.samples or (5 if task.kind == "reasoning" else 1), turns=models.turns,
        agreement=quality.agreement, answer_field=quality.answer_field, temperature=models.temperature,
        answer_temperature=models.answer_temperature, max_new=models.max_new,
    )  # fmt: skip


def _row_filter(quality: QualityFlags, judge: llm_judge.Judge | None) -> recipes.RowFilter:
    return recipes.RowFilter(
        min_chars=quality.min_chars, max_chars=quality.max_chars, language=screening.language_check(quality.language),
        seen=screening.NearDuplicateIndex(quality.near), judge=judge, min_score=quality.min_score,
    )  # fmt: skip


def _cost_table(cfg: Synthesize, recipe: SynthesisConfig, reader: LLM | None) -> list[tuple[str, str]]:
    """The estimated cost of --count rows if none is rejected: requests, tokens read (about) and written (at most)."""
    count, most = cfg.wanted.count, cfg.models.max_new
    first = _first_request(recipe)
    answer_request = recipe.style.reason if recipe.kind == "reasoning" else recipe.style.answer
    question_size = estimated_tokens(first)
    messages = recipe.given[0].messages if recipe.given else user_messages("x" * 4 * SHORT)
    answer_size = estimated_tokens(answer_request(messages, recipes.topic_of(recipe, 0), recipe.expert.chat))
    units = math.ceil(count / recipe.per_ask) if not recipe.given or recipe.kind == "augment" else 0
    calls: list[tuple[LLM, str, int, int]] = []  # (model, what, requests, tokens read by one)
    if recipe.kind == "conversation":
        talk = recipe.turns * (SHORT + most) // 2
        questions = count * (recipe.turns - bool(recipe.given))
        calls += [(recipe.generator, "questions", questions, question_size + talk)]
        calls += [(recipe.expert, "answers", count * recipe.turns, answer_size + talk)]
    else:
        calls += [(recipe.generator, "questions", units, question_size)]
        votes = recipe.samples if recipe.kind == "reasoning" else 1
        calls += [(recipe.expert, "answers", count * votes, answer_size)] if recipe.kind != "augment" else []
    if reader:
        verdict_size = math.ceil(len(llm_judge.RUBRIC) / 2) + SHORT + most
        calls += [(reader, "verdicts", count * cfg.quality.votes, verdict_size)]
    table, cost = [("first prompt", json.dumps(first.messages[-1]["content"], ensure_ascii=False)[:300])], 0.0
    for model, what, requests, size in calls:
        if requests:
            written = cfg.quality.judge_max_new if what == "verdicts" else most
            tokens = f"about {requests * size:,} tokens read, at most {requests * written:,} written"
            table.append((what, f"{requests:,}; {tokens}"))
            cost += cfg.endpoint.cost(requests * size, requests * written) if model.remote else 0.0
    priced = cfg.endpoint.price_in or cfg.endpoint.price_out
    bound = f"at most {cost:,.4f} if no row is rejected, {cost * cfg.wanted.tries:,.4f} with --tries={cfg.wanted.tries}"
    return [*table, *([("cost", bound)] if priced else [])]


def _first_request(recipe: SynthesisConfig) -> Request:
    """The first request, or one like it."""
    if recipe.kind == "conversation" and not recipe.given:
        return recipe.style.turn((), recipes.topic_of(recipe, 0))
    if recipe.kind == "augment":
        return recipe.style.rephrase(question(recipe.given[0].messages), recipe.per_ask)
    if recipe.given:
        answer_request = recipe.style.reason if recipe.kind == "reasoning" else recipe.style.answer
        return answer_request(recipe.given[0].messages, "", recipe.expert.chat)
    return recipes.question_request(recipe, 0)


def estimated_tokens(request: Request) -> int:
    """The estimated tokens of a prompt: four characters each, as usual for English."""
    return math.ceil(sum(len(one["content"]) for one in request.messages) / 4)


def _generate_rows(
    cfg: Synthesize,
    recipe: SynthesisConfig,
    row_filter: recipes.RowFilter,
    work: journal.Journal,
    models: Sequence[LLM],
) -> SynthesizedRows:
    """All rows; those in the journal are reused."""
    count, limit = cfg.wanted.count, cfg.wanted.count * cfg.wanted.tries
    each = recipes.drafts_per_unit(recipe)
    units = len(recipe.given) or math.ceil(limit / each)
    rows = [row for one in work.batches for row in one["rows"]]
    rejected = [row for one in work.batches for row in one["rejected"]]
    first = work.batches[-1]["next"] if work.batches else 0
    if work.batches:
        note([("resuming", f"{len(rows):,} rows and {len(rejected):,} rejected ones are there")])
        for one in models:
            one.usage.changes.update(work.batches[-1].get("changes", {}).get(one.name, {}))
    for row in rows:
        recipes.add_accepted(row_filter.seen, row)
    with bar(f"{recipe.kind} rows", count) as advance:
        advance(len(rows))
        while len(rows) < count and len(rows) + len(rejected) < limit and first < units:
            room = count - len(rows)
            size = _batch_units(room, len(rows), len(rows) + len(rejected), limit, each)
            before = {one.name: one.usage.start_batch(f"{work.run}:{first}") for one in models}
            drafts = recipes.drafts(recipe, range(first, min(first + size, units)))
            new, bad, counts = recipes.filter_drafts(
                drafts, row_filter, derive_seed(recipe.seed, first, JUDGING)
            )
            bad += [{"reason": f"surplus: {count:,} rows were there before it", **row} for row in new[room:]]
            first = min(first + size, units)
            batch = {"rows": new[:room], "rejected": bad, "judged": counts, "next": first}
            work.add(batch | _spent(models, before))
            rows += new[:room]
            rejected += bad
            advance(len(new[:room]))
    judged: collections.Counter = collections.Counter()
    spent = {one.name: collections.Counter(dict.fromkeys(one.usage.counts(), 0)) for one in models}
    for one in work.batches:
        judged.update(one["judged"])
        for name, counts in one.get("spent", {}).items():
            spent[name].update(counts)
    return SynthesizedRows(rows, rejected, judged, spent)


def _spent(models: Sequence[LLM], before: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """What a batch took, by model, and what was learnt so far of endpoints, as the journal has it."""
    spent = {
        one.name: {name: value - before[one.name][name] for name, value in one.usage.counts().items()}
        for one in models
    }
    return {"spent": spent, "changes": {one.name: dict(one.usage.changes) for one in models}}


def _batch_units(room: int, rows: int, drafts: int, limit: int, each: int) -> int:
    """Units of the next batch: enough to fill the room at the acceptance rate so far, so that few rows are surplus."""
    drafts_needed = min(room * (drafts + 1) / (rows + 1), limit - drafts)
    return min(BATCH, math.ceil(drafts_needed / each))


def _finish(
    cfg: Synthesize,
    recipe: SynthesisConfig,
    result: SynthesizedRows,
    out: Path,
    models: Sequence[LLM],
    seconds: float,
) -> None:
    """Writes the files, the data set last, and prints a summary."""
    beside = output_files(out)
    reasons = collections.Counter(row["reason"].split(":")[0] for row in result.rejected)
    texts = [" ".join(recipes.texts(row)) for row in result.rows]
    metrics = diversity.diversity_metrics(texts)
    embed = recipe.generator.embed or recipe.expert.embed
    if embed and len(texts) > 1:
        metrics["embedding_spread"] = diversity.mean_cosine_distance(embed(texts))
    spent = {one.name: {**result.spent[one.name], "changes": dict(one.usage.changes)} for one in models}
    counts = {
        "made": len(result.rows) + len(result.rejected),
        "kept": len(result.rows),
        "rejected": dict(reasons),
    }
    report = {
        **counts,
        "judge": dict(result.judged),
        "diversity": metrics,
        "spent": spent,
        "config": config.to_dict(cfg),
    }
    atomic.write_jsonl(beside["rejected"], result.rejected)
    atomic.write_text(beside["report"], config.dumps(report) + "\n")
    if result.rows:
        atomic.write_jsonl(out, result.rows)
    note(_summary(cfg, result, reasons, metrics, models, seconds))


def _print_rows(result: SynthesizedRows, out: Path) -> None:
    if not result.rows:
        reasons = collections.Counter(row["reason"] for row in result.rejected).most_common(SHOWN)
        most = "".join(f"\n  {count:,} {reason}" for reason, count in reasons)
        raise Failure(f"no row is left: {output_files(out)['rejected']} says why of each, most often:{most}")
    for row in result.rows[:SHOWN]:
        *turns, answer = recipes.texts(row)
        print("\n".join(terminal.wrapped(f"{' / '.join(turns)}▸{answer}{terminal.END}", "  │ ")), end="\n\n")
    print(
        f"rows: {out}\ntrain on them: ./launch/run sft --init_from=RUN --data={source_spec.of_path('jsonl', out)}"
    )


def _summary(
    cfg: Synthesize,
    result: SynthesizedRows,
    reasons: Mapping[str, int],
    metrics: Mapping[str, float],
    models: Sequence[LLM],
    seconds: float,
) -> list[tuple[str, str]]:
    scores = [row["score"] for row in result.rows if "score" in row]
    missing = cfg.wanted.count - len(result.rows)
    ends = "--source has no more" if cfg.wanted.source else f"--tries={cfg.wanted.tries} were made"
    table = [
        (
            "rows",
            f"{len(result.rows):,} of {len(result.rows) + len(result.rejected):,} made, in {seconds:.1f} s",
        )
    ]
    table += [("missing", f"{missing:,} of --count={cfg.wanted.count:,}: {ends}")] if missing > 0 else []
    table += (
        [("rejected", ", ".join(f"{n:,} {name}" for name, n in sorted(reasons.items())))] if reasons else []
    )
    table += [("mean score", f"{sum(scores) / len(scores):.4f}")] if scores else []
    if result.judged.get("malformed") or result.judged.get("unanswered"):
        table.append(("judge", ", ".join(f"{value:,} {name}" for name, value in result.judged.items())))
    table.append(("diversity", ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())))
    for one in models:
        s = result.spent[one.name]
        cost = cfg.endpoint.cost(s["tokens_in"], s["tokens_out"]) if one.remote else 0.0
        parts = [f"{s['requests']:,} requests, {s['tokens_in']:,} tokens read, {s['tokens_out']:,} written"]
        parts += [f"{s['cached']:,} answers from the cache"] if s["cached"] else []
        parts += [f"{s['repeated']:,} sent again for malformed answers"] if s["repeated"] else []
        parts += [f"{s['refused']:,} prompts were refused"] if s["refused"] else []
        parts += [f"{s['uncounted']:,} answers came without token counts"] if s["uncounted"] else []
        table += [("endpoint", f"{one.name}: {line}") for line in one.usage.change_lines()]
        table.append(("spent", f"{one.name}: {', '.join(parts)}" + (f", cost {cost:,.4f}" if cost else "")))
    return table
