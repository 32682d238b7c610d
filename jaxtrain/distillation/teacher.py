"""The teacher model, and where its student starts. Imported once the flags are checked."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxtrain.config import ConfigError
from jaxtrain.distillation.config import DistillConfig
from jaxtrain.stages import init_from
from jaxtrain.stages.init_from import InitFrom
from jaxtrain.stages.load_model import load_model
from jaxtrain.stages.session import pinned_run
from jaxtrain.train import parallel, workdir
from jaxtrain.types import LM, Params


class Teacher(NamedTuple):
    """A teacher model, loaded beside the student."""

    model: LM
    params: Params
    start: InitFrom  # its architecture, tokenizer and lineage
    text: str  # WORKDIR@STEP or hf:DIR


def student_init(cfg: DistillConfig, start: InitFrom) -> tuple[InitFrom, InitFrom | None]:
    """(where the student starts, where the teacher comes from). Raises ConfigError where their tokenizers differ.

    A student that starts from nothing takes the teacher's tokenizer.
    """
    if cfg.loss.stored_logprobs():
        if start.tokenizer is None:
            raise ConfigError(
                "--init_from: stored completions bring no tokenizer; name the run that the student starts from"
            )
        return start, None
    origin = init_from.load_run(cfg.loss.teacher, "teacher", causal=True)
    if start.tokenizer is None:
        start = start._replace(tokenizer=origin.tokenizer, generation=origin.generation)
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


def load(cfg: DistillConfig, origin: InitFrom | None, plan: parallel.Plan, path: Path) -> Teacher | None:
    """The teacher model; None where it is not loaded here."""
    if origin is None:
        return None
    text = pinned_run(path, "teacher", cfg.loss.teacher)
    if not cfg.run.dry_run and plan.primary:
        workdir.record(path, teacher=text)
    loaded = load_model(init_from.load_run(text, "teacher"), plan, cfg.model)
    return Teacher(model=loaded.model, params=loaded.params, start=loaded.source, text=text)


def expected_at_start(
    start: InitFrom, origin: InitFrom | None, dtype: Any
) -> dict[str, tuple[float, float]] | None:
    """The metrics of the first step, (value, tolerance), of a student that is its teacher."""
    same = origin is not None and start.origins and start.origins == origin.origins
    near = 1e-3 if dtype == jnp.float32 else 3e-2
    return {"divergence": (0.0, near)} if same else None
