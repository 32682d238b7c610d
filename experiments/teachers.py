"""Who a student learns from, and the batches it learns on. Imported once the flags are checked."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import begin, common, completions, rollouts, samples, speaker, weights
from experiments.begin import Start
from experiments.common import Session
from experiments.rewards import mine
from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import cache, dialogs, formats, prompts, sources, spec, stored, topk
from jaxtrain.data.chat import Template
from jaxtrain.data.comparisons import alternatives
from jaxtrain.data.pipeline import Prepared, Stream
from jaxtrain.data.progress import bar
from jaxtrain.data.prompts import Opening
from jaxtrain.data.rows import PackedRows
from jaxtrain.data.transforms import Row
from jaxtrain.models import transformer
from jaxtrain.ops.divergences import top_k
from jaxtrain.ops.logprobs import logits
from jaxtrain.train import checkpoint, loop, parallel, workdir
from jaxtrain.types import LM, Params, TrainState

COLUMNS = ("tokens", "targets", "mask", "segments", "positions")
FOLDER = "teacher"  # of the run: what the teacher wrote


class Teacher(NamedTuple):
    """A model to learn from, whole beside the student."""

    model: LM
    params: Params
    start: Start
    text: str


class Lesson(NamedTuple):
    """What the student learns on."""

    data: Prepared
    asked: list[Opening]  # prompts that the student answers itself
    live: bool  # the teacher stands beside the student; else the batches have what it said
    table: list[tuple[str, str]]


def student(cfg: Any, start: Start) -> tuple[Start, Start | None]:
    """(where the student starts, where the teacher comes from). Raises ConfigError where their words differ.

    A student that starts from nothing takes the teacher's tokenizer.
    """
    if cfg.loss.told():
        if start.tokenizer is None:
            raise ConfigError(
                "--init_from: stored completions bring no tokenizer; name the run that the student starts from"
            )
        return start, None
    origin = begin.load(cfg.loss.teacher)
    if not origin.arch.causal:
        raise ConfigError(f"--teacher={cfg.loss.teacher}: it fills masks, it does not continue text")
    if start.tokenizer is None:
        start = start._replace(tokenizer=origin.tokenizer)
    if start.tokenizer.fingerprint != origin.tokenizer.fingerprint:
        raise ConfigError(
            f"--teacher={cfg.loss.teacher}: its tokenizer is not the student's, so their distributions cannot be "
            f"compared. Distil from its text instead: ./launch/run sample --init_from={cfg.loss.teacher} "
            f"--prompts={cfg.data.data} --out=answers.jsonl, then ./launch/run sft --init_from={cfg.model.init_from} "
            "--data=jsonl:answers.jsonl"
        )
    if origin.arch.max_len and cfg.data.seq_len > origin.arch.max_len:
        raise ConfigError(
            f"--seq_len={cfg.data.seq_len}: the context of --teacher={cfg.loss.teacher} is {origin.arch.max_len}"
        )
    return start, origin


def load(cfg: Any, origin: Start | None, plan: parallel.Plan, path: Path) -> Teacher | None:
    """The teacher's model and parameters; None where it is not a model here."""
    if origin is None:
        return None
    text = common.pinned(path, "teacher", cfg.loss.teacher)
    if not cfg.run.dry_run and plan.process[0] == 0:
        workdir.record(path, teacher=text)
    origin = begin.load(text)
    model = transformer.build(origin.arch, transformer.execution(cfg.model, plan.shards, plan.local))
    return Teacher(model, weights.starting(plan, origin, model, 0), origin, text)


def expected(start: Start, origin: Start | None, cfg: Any) -> dict[str, tuple[float, float]] | None:
    """A student that is its teacher has nothing to learn from it."""
    same = origin is not None and start.origins and start.origins == origin.origins
    near = 1e-3 if transformer.execution(cfg.model).dtype == jnp.float32 else 3e-2
    return {"divergence": (0.0, near)} if same else None


def lesson(cfg: Any, teacher: Teacher | None, template: Template, plan: parallel.Plan, path: Path) -> Lesson:
    """Reads the data, or has the teacher write it."""
    how = {
        "seed": cfg.run.seed, "tokenizer": template.tokenizer, "template": template, "process": plan.process
    }  # fmt: skip
    if teacher is None:
        data = stored.prepare(cfg.data, **how)
        return Lesson(data, [], False, data.table)
    table = [("teacher", f"{teacher.text}, {transformer.parameters(teacher.start.arch):,} parameters")]
    asked: list[Opening] = []
    if cfg.loss.on_policy:
        asked, lost = completions.fitted(
            prompts.openings(cfg.data.data, cfg.data, template, flag="data", train=True),
            cfg,
            template.tokenizer.bos,
        )
        table += [("prompts", f"{len(asked):,} of {cfg.data.data}"), *(("prompts", line) for line in lost)]
        table.append(("on policy", f"{cfg.loss.on_policy:.0%} of the batches, as the student is then"))
    reading = cfg.data
    if cfg.loss.completions == "teacher" or (cfg.loss.completions == "auto" and _prompts_alone(cfg.data)):
        reading, told = _written(cfg, teacher, template, plan, path)
        table += told
    if cfg.loss.teacher_topk:
        data = dialogs.prepare(reading, **how, beside=lambda rows: _kept(cfg, teacher, plan, rows, template))
        table.append(("top-k", f"{cfg.loss.teacher_topk} tokens a position, from {_folder(cfg)}"))
        return Lesson(data, asked, False, [*table, *data.table])
    data = dialogs.prepare(reading, **how)
    return Lesson(data, asked, True, [*table, *data.table])


def _prompts_alone(data: config.Dialogs) -> bool:
    """Whether the records of --data have nothing to learn from but prompts."""
    source = spec.parse(data.data)[0]
    first = sources.train_and_held_out(source, data, None)[0].many([0])[0]
    known = formats.chat(sources.text_field(source, data))
    return not any(one.fits(first) for one in known)


def _written(
    cfg: Any, teacher: Teacher, template: Template, plan: parallel.Plan, path: Path
) -> tuple[config.Dialogs, list[tuple[str, str]]]:
    """(the data with the teacher's completions of its prompts in place of it, lines about them).

    They are kept in the run's folder, so that a run that goes on reads the same.
    """
    folder, told, files = path / FOLDER, [], {}
    speak = _speaker(cfg, teacher, plan, path, template)
    sides = {
        "data": (cfg.data.data, True, cfg.loss.draws),
        "eval_data": (cfg.data.eval_data or cfg.data.data, False, 1),
    }
    if cfg.loss.on_policy == 1:
        del sides["data"]
    for number, (side, (source, train, draws)) in enumerate(sides.items()):
        file = folder / f"{side}.jsonl"
        if not file.exists():
            asked, lost = completions.fitted(
                prompts.openings(source, cfg.data, template, flag=side, train=train),
                cfg,
                template.tokenizer.bos,
            )
            rows = speak(asked, draws, number)
            cut = sum(not row["ended"] for row in rows)
            _write(file, [row for row in rows if row["ended"]], plan)
            told += [("teacher's words", line) for line in lost]
            if cut:
                told.append(("teacher's words", f"{cut:,} completions of {source} without an end left out"))
            if cut == len(rows):
                raise config.Failure(f"--teacher: none of its {cut:,} completions ended; raise --max_new")
        files[side] = f"jsonl:{file}?format=completion"
    files.setdefault("data", files["eval_data"])
    return dataclasses.replace(cfg.data, **files), told


def _speaker(
    cfg: Any, teacher: Teacher, plan: parallel.Plan, path: Path, template: Template
) -> Callable[[list[Opening], int, int], list[dict[str, Any]]]:
    """(prompts, completions of each, a number of the seed) -> records with what the teacher drew."""
    alone = Session(
        path, plan, teacher.start.arch, teacher.model, None, plan.process[0] == 0, teacher.start,
        weights.trained(teacher.model.axes, config.Lora()),
    )  # fmt: skip

    def speak(asked: list[Opening], draws: int, number: int) -> list[dict[str, Any]]:
        draw = samples.drawer(
            alone,
            template.end,
            max_new=cfg.samples.max_new,
            temperature=cfg.loss.draw_temperature,
            samples=draws,
        )
        seed = int(np.random.SeedSequence((cfg.run.seed, 3, number)).generate_state(1)[0])
        found: list[samples.Drawn] = []
        with bar("the teacher writes", len(asked), least=2 * samples.AT_ONCE) as advance:
            for first in range(0, len(asked), samples.AT_ONCE):
                part = asked[first : first + samples.AT_ONCE]
                found += draw(teacher.params, (), [one.ids.tolist() for one in part], seed + first)
                advance(len(part))
        pairs = zip([one for one in asked for _ in range(draws)], found, strict=True)
        decode = speaker.decoder(template)
        return [
            {"prompt": list(one.messages), "completion": decode(new.ids), "ended": new.ended}
            for one, new in pairs
        ]

    return speak


def _write(file: Path, rows: Sequence[Mapping[str, Any]], plan: parallel.Plan) -> None:
    if plan.process[0]:
        return
    file.parent.mkdir(exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(file)


def _folder(cfg: Any) -> Path:
    return Path(cfg.data.cache_dir).expanduser() / "teachers"


def _kept(
    cfg: Any, teacher: Teacher, plan: parallel.Plan, rows: PackedRows, template: Template
) -> Sequence[Row]:
    """The teacher's likeliest tokens at every position of packed rows, from the cache where they are there."""
    k, tau, B, T = cfg.loss.teacher_topk, cfg.loss.soft_temperature, cfg.data.batch_size, cfg.data.seq_len
    vocab = template.tokenizer.vocab_size
    if k > vocab:
        raise ConfigError(f"--teacher_topk={k}: the vocabulary has {vocab} tokens")
    mark = (
        checkpoint.digest(teacher.params),
        rows.documents.fingerprint,
        T,
        k,
        tau,
        dataclasses.asdict(cfg.model),
    )
    folder = _folder(cfg) / cache.digest(1, *mark)

    def look(params: Params, frozen: Params, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        ids, logps = top_k(
            logits(teacher.model.hidden(params, batch), teacher.model.head(params)), k, vocab, tau
        )
        return {"ids": ids, "logps": logps}

    compiled = plan.rows(look)

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        count = len(rows)
        stream = Stream(lambda i: _plain(rows[min(i, count - 1)]), B, plan.process, -(-count // B))
        with bar("what the teacher says", len(stream), least=20) as advance:
            for i in range(len(stream)):
                found = plan.get(compiled(teacher.params, (), plan.put(stream.batch(i))))
                left = count - i * B
                yield found["ids"][:left], found["logps"][:left]
                advance(1)

    cache.build(folder, lambda work: topk.write(work, parts()))
    return topk.TopK(folder, T)


def _plain(row: Row) -> Row:
    return {name: row[name] for name in COLUMNS}


def batches(cfg: Any, run: Session, lesson: Lesson, template: Template) -> Callable[[int], loop.NextBatch]:
    """Batches of the data, and with --on_policy those that the student writes, which batch is told by its number."""
    extra = () if lesson.live else ("teacher_ids", "teacher_logps")
    B, share = cfg.data.batch_size, cfg.loss.on_policy
    here = mine(run.plan, B)
    written = _own(cfg, run, lesson, template) if share else None

    def on_policy(step: int) -> bool:
        return np.random.default_rng((cfg.run.seed, 4, step)).random() < share

    def begin_at(first: int) -> loop.NextBatch:
        step, stream = first, lesson.data.train.iterate(first)

        def next_batch(state: TrainState) -> dict[str, np.ndarray]:
            nonlocal step
            own = bool(share) and on_policy(step)
            batch = next(stream)
            if own:
                made = written(state, step)
                batch = batch | {name: made[name][here] for name in COLUMNS}
            step += 1
            found = {name: batch[name] for name in (*COLUMNS, "row", *extra)}
            flag = {"on_policy": np.full(len(found["row"]), own, np.float32)} if share else {}
            return found | flag

        return next_batch

    return begin_at


def _own(
    cfg: Any, run: Session, lesson: Lesson, template: Template
) -> Callable[[TrainState, int], Mapping[str, np.ndarray]]:
    """(state, step) -> rows [B, T] of the student's completions; a step takes the next prompts."""
    B, T = cfg.data.batch_size, cfg.data.seq_len
    draw = samples.drawer(
        run, template.end, max_new=cfg.samples.max_new, temperature=cfg.loss.draw_temperature
    )

    def written(state: TrainState, step: int) -> Mapping[str, np.ndarray]:
        asked = [lesson.asked[i] for i in rollouts.order(len(lesson.asked), cfg.run.seed, step * B, B)]
        seed = int(np.random.SeedSequence((cfg.run.seed, 5, step)).generate_state(1)[0])
        found = draw(state.params, run.base, [one.ids.tolist() for one in asked], seed)
        pairs = [(one.ids, np.array(new.ids, np.int32)) for one, new in zip(asked, found, strict=True)]
        return alternatives(pairs, B, T, template.tokenizer.pad)

    return written
