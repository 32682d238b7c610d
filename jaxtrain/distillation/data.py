"""What a student learns on: the data, the teacher's words, or its own. Imported once the flags are checked."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain import config
from jaxtrain.data import dialogs, prompts, record_formats, source_spec, sources
from jaxtrain.data.chat import Template
from jaxtrain.data.pipeline import DataPipeline
from jaxtrain.data.preferences import alternatives
from jaxtrain.data.prompts import Prompt
from jaxtrain.distillation import logprob_data
from jaxtrain.distillation import teacher as distillation_teacher
from jaxtrain.distillation.teacher import COLUMNS, Teacher
from jaxtrain.models import transformer
from jaxtrain.rl import rollouts, scoring
from jaxtrain.stages import sampling
from jaxtrain.stages.session import Session
from jaxtrain.train import loop, parallel
from jaxtrain.types import TrainState


class DistillationBatches(NamedTuple):
    """What the student learns on."""

    data: DataPipeline
    asked: list[Prompt]  # prompts that the student answers itself
    live: bool  # the teacher stands beside the student; else the batches have what it said
    table: list[tuple[str, str]]


def prepare(
    cfg: Any, teacher: Teacher | None, template: Template, plan: parallel.Plan, path: Path
) -> DistillationBatches:
    """Reads the data, or has the teacher write it."""
    how = {
        "seed": cfg.run.seed, "tokenizer": template.tokenizer, "template": template, "process": plan.process
    }  # fmt: skip
    if teacher is None:
        reading, table = (
            distillation_teacher.teacher_prompts(cfg, template, plan, path)
            if cfg.loss.remote()
            else (cfg.data, [])
        )
        data = logprob_data.prepare(reading, **how)
        return DistillationBatches(data, [], False, [*table, *data.table])
    table = [("teacher", f"{teacher.text}, {transformer.parameters(teacher.start.arch):,} parameters")]
    asked: list[Prompt] = []
    if cfg.loss.on_policy:
        asked, lost = scoring.fitting_prompts(
            prompts.read_prompts(cfg.data.data, cfg.data, template, flag="data", train=True),
            cfg,
            template.tokenizer.bos,
        )
        table += [("prompts", f"{len(asked):,} of {cfg.data.data}"), *(("prompts", line) for line in lost)]
        table.append(("on policy", f"{cfg.loss.on_policy:.0%} of the batches, as the student is then"))
    reading, how_drawn = cfg.data, cfg.loss.completions
    writes = how_drawn == "teacher" or (how_drawn == "auto" and _prompts_alone(cfg.data))
    cfg.loss.require_drawing(writes, writes or cfg.loss.on_policy > 0)
    if writes:
        reading, told = distillation_teacher.write_completions(cfg, teacher, template, plan, path)
        table += told
    if cfg.loss.teacher_topk:
        data = dialogs.prepare(
            reading, **how, beside=lambda rows: distillation_teacher.cached_topk(cfg, teacher, plan, rows)
        )
        table.append(
            (
                "top-k",
                f"{cfg.loss.teacher_topk} tokens a position, from {distillation_teacher.cache_folder(cfg)}",
            )
        )
        return DistillationBatches(data, asked, False, [*table, *data.table])
    data = dialogs.prepare(reading, **how)
    return DistillationBatches(data, asked, True, [*table, *data.table])


def _prompts_alone(data: config.Dialogs) -> bool:
    """Whether the records of --data have nothing to learn from but prompts."""
    source = source_spec.parse(data.data)[0]
    first = sources.train_and_held_out(source, data, None)[0].many([0])[0]
    known = record_formats.chat(sources.text_field(source, data))
    return not any(one.fits(first) for one in known)


def batches(
    cfg: Any, session: Session, lesson: DistillationBatches, template: Template
) -> Callable[[int], loop.NextBatch]:
    """Batches of the data, and with --on_policy those that the student writes, which batch is told by its number."""
    extra = () if lesson.live else ("teacher_ids", "teacher_logps")
    B, share = cfg.data.batch_size, cfg.loss.on_policy
    here = session.plan.local_slice(B)
    written = _own(cfg, session, lesson, template) if share else None

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
    cfg: Any, session: Session, lesson: DistillationBatches, template: Template
) -> Callable[[TrainState, int], Mapping[str, np.ndarray]]:
    """(state, step) -> rows [B, T] of the student's completions; a step takes the next prompts."""
    B, T = cfg.data.batch_size, cfg.data.seq_len
    draw = sampling.token_sampler(
        session, template.end, max_new=cfg.samples.max_new, temperature=cfg.loss.draw_temperature
    )

    def written(state: TrainState, step: int) -> Mapping[str, np.ndarray]:
        asked = [lesson.asked[i] for i in rollouts.prompt_order(len(lesson.asked), cfg.run.seed, step * B, B)]
        seed = int(np.random.SeedSequence((cfg.run.seed, 5, step)).generate_state(1)[0])
        found = draw(state.params, session.base, [one.ids.tolist() for one in asked], seed)
        pairs = [(one.ids, np.array(new.ids, np.int32)) for one, new in zip(asked, found, strict=True)]
        return alternatives(pairs, B, T, template.tokenizer.pad)

    return written
