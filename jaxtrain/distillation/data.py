"""The student's training data: a data set, the teacher's completions, or its own. Imported after the flags' check."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtrain import config
from jaxtrain.data import dialogs, prompts, record_formats, source_spec, sources
from jaxtrain.data.chat import Template
from jaxtrain.data.pipeline import DataPipeline
from jaxtrain.data.preferences import alternatives
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.record_fields import columns_of
from jaxtrain.distillation import logprob_data, teacher_completions, topk_cache
from jaxtrain.distillation.config import DistillConfig
from jaxtrain.distillation.teacher import Teacher
from jaxtrain.distillation.topk_cache import COLUMNS
from jaxtrain.models import transformer
from jaxtrain.rl import rollouts, scoring
from jaxtrain.stages import init_from, offline, sampling
from jaxtrain.stages.session import Session
from jaxtrain.train import loop, parallel
from jaxtrain.types import TrainState


class DistillationBatches(NamedTuple):
    """The student's training data, prepared."""

    data: DataPipeline
    prompts: list[Prompt]  # for the student's own completions
    live: bool  # the teacher is loaded beside the student; else the batches have its log-probabilities
    table: list[tuple[str, str]]


def prepare(
    cfg: DistillConfig, teacher: Teacher | None, template: Template, plan: parallel.Plan, path: Path
) -> DistillationBatches:
    """The data, read, or written by the teacher and then read."""
    options = {
        "seed": cfg.run.seed, "tokenizer": template.tokenizer, "template": template,
        "local_rows": plan.local_rows,
    }  # fmt: skip
    if teacher is None:
        reading, table = cfg.data, []
        if cfg.loss.remote():
            reading, table = teacher_completions.request_completions(cfg, template, plan, path)
        data = logprob_data.prepare(reading, **options)
        return DistillationBatches(data, [], False, [*table, *data.table])
    table = [("teacher", f"{teacher.text}, {transformer.parameters(teacher.start.arch):,} parameters")]
    own: list[Prompt] = []
    if cfg.loss.on_policy:
        own, lines = scoring.fitting_prompts(
            prompts.read_prompts(cfg.data.data, cfg.data, template, flag="data", train=True),
            cfg,
            template.tokenizer.bos,
        )
        table += [("prompts", f"{len(own):,} of {cfg.data.data}"), *(("prompts", line) for line in lines)]
        table.append(("on policy", f"{cfg.loss.on_policy:.0%} of the batches, as the student is then"))
    reading, completions = cfg.data, cfg.loss.completions
    by_teacher = completions == "teacher" or (completions == "auto" and _prompts_alone(cfg.data))
    cfg.loss.require_drawing(by_teacher, by_teacher or cfg.loss.on_policy > 0)
    if by_teacher:
        reading, lines = teacher_completions.write_completions(cfg, teacher, template, plan, path)
        table += lines
    if not cfg.loss.teacher_topk:
        data = dialogs.prepare(reading, **options)
        return DistillationBatches(data, own, True, [*table, *data.table])
    data = dialogs.prepare(
        reading, **options, beside=lambda rows: topk_cache.cached_topk(cfg, teacher, plan, rows)
    )
    folder = topk_cache.cache_folder(cfg)
    table.append(("top-k", f"{cfg.loss.teacher_topk} tokens a position, from {folder}"))
    return DistillationBatches(data, own, False, [*table, *data.table])


def _prompts_alone(data: config.Dialogs) -> bool:
    """Whether the records of --data have prompts alone."""
    source = source_spec.parse(data.data)[0]
    first = sources.train_and_held_out(source, data, None)[0].many([0])[0]
    known = record_formats.chat(sources.text_field(source, data))
    return not record_formats.fits_any(first, known, columns_of(data.columns))


def batches(
    cfg: DistillConfig, session: Session, prepared: DistillationBatches, template: Template
) -> Callable[[int], loop.NextBatch]:
    """Batches of the data, and with --on_policy of the student's completions; a batch's number says which."""
    names = (*COLUMNS, "row", *(() if prepared.live else ("teacher_ids", "teacher_logps")))
    B, share = cfg.data.batch_size, cfg.loss.on_policy
    if not share:
        return offline.OfflineBatches(
            lambda first: (
                {name: batch[name] for name in names} for batch in prepared.data.train.iterate(first)
            )
        )
    local = session.plan.local_rows(B)
    student_rows = _student_rows_fn(cfg, session, prepared.prompts, template)

    def is_on_policy(step: int) -> bool:
        return np.random.default_rng((cfg.run.seed, 4, step)).random() < share

    def batches_from(first: int) -> loop.NextBatch:
        step, stream = first, prepared.data.train.iterate(first)

        def next_batch(state: TrainState) -> dict[str, np.ndarray]:
            nonlocal step
            on_policy = is_on_policy(step)
            batch = next(stream)
            if on_policy:
                rows = student_rows(state, step)
                batch = batch | {name: rows[name][local] for name in COLUMNS}
            step += 1
            columns = {name: batch[name] for name in names}
            return columns | {"on_policy": np.full(len(columns["row"]), on_policy, np.float32)}

        return next_batch

    return batches_from


def _student_rows_fn(
    cfg: DistillConfig, session: Session, own: list[Prompt], template: Template
) -> Callable[[TrainState, int], Mapping[str, np.ndarray]]:
    """A function (state, step) -> rows [B, T] of the student's completions; a step takes the next prompts."""
    B, T = cfg.data.batch_size, cfg.data.seq_len
    sample = sampling.token_sampler(
        session,
        init_from.end_ids(session.start, template.ends),
        max_new=cfg.samples.max_new,
        temperature=cfg.loss.draw_temperature,
    )

    def rows(state: TrainState, step: int) -> Mapping[str, np.ndarray]:
        batch = [own[i] for i in rollouts.prompt_order(len(own), cfg.run.seed, step * B, B)]
        seed = int(np.random.SeedSequence((cfg.run.seed, 5, step)).generate_state(1)[0])
        completions = sample(state.params, session.base, [one.ids.tolist() for one in batch], seed)
        pairs = [
            (prompt.ids, np.array(one.ids, np.int32)) for prompt, one in zip(batch, completions, strict=True)
        ]
        return alternatives(pairs, B, T, template.tokenizer.pad)

    return rows
