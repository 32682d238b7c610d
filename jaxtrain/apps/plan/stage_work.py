"""What a training step of each stage works on: its objective, made as the stage's command makes it, and its batch.

The batch is known by its columns' shapes alone, which follow from --batch_size and --seq_len.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config import StageConfig
from jaxtrain.models import reward as reward_models
from jaxtrain.models import transformer, value
from jaxtrain.models.zoo import Arch
from jaxtrain.objectives import distill as distillation
from jaxtrain.objectives import dpo, next_token, policy_gradient, ppo, reward, sft
from jaxtrain.ops import preference
from jaxtrain.rl import stop_kl
from jaxtrain.stages import reference, reward_model
from jaxtrain.stages.session import Session
from jaxtrain.types import LM, Metrics, Objective

Columns = dict[str, jax.ShapeDtypeStruct]


class StageWork(NamedTuple):
    """A stage as its programs need it."""

    columns: Columns  # of a training batch
    # (session, the frozen model beside it) -> the objective of all parameters
    objective: Callable[[Session, LM | None], Objective]
    tokens: int  # of a training step, that the trained model reads
    heads: Callable[[LM], Any] | None = None  # what a stage trains that is more than a language model
    extra: Any = ()  # TrainState.extra
    carry: Callable[[Any, Metrics], Any] | None = None
    rates: Mapping[str, float] | None = None
    noise: float = 0.0
    trunks: int = 1  # trained models of the policy's size, without their vocabularies after the first
    teacher: bool = False  # a frozen model is an argument of the step
    on_policy: bool = False
    reference: bool = False  # of an on-policy stage: a reference model annotates the rollout
    scored: bool = False  # of an on-policy stage: a reward model scores it


def rows(*shape: int) -> Columns:
    """The columns that every batch has, of rows [..., T], and `row`."""
    ids, mask = jax.ShapeDtypeStruct(shape, np.int32), jax.ShapeDtypeStruct(shape, np.float32)
    columns = {"tokens": ids, "targets": ids, "mask": mask, "segments": ids, "positions": ids}
    return columns | {"row": jax.ShapeDtypeStruct(shape[:1], np.int32)}


def _floats(shape: tuple[int, ...], *names: str) -> Columns:
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name in names}


def _comparisons(B: int, T: int) -> Columns:
    columns = rows(B, 2, T) | _floats((B, 2, 2), "prefer") | _floats((B,), "margin")
    return columns | dict.fromkeys(("length", "rank"), jax.ShapeDtypeStruct((B, 2), np.int32))


def _pretrain(cfg: Any) -> StageWork:
    B, T = cfg.data.batch_size, cfg.data.seq_len
    return StageWork(
        columns=rows(B, T) | _floats((B,), "bytes"),
        objective=lambda session, _: functools.partial(
            next_token.next_token, model=session.model, z_loss=cfg.loss.z_loss
        ),
        tokens=B * T,
    )


def _sft(cfg: Any) -> StageWork:
    B, T = cfg.data.batch_size, cfg.data.seq_len
    settings = dataclasses.asdict(cfg.loss)
    noise = settings.pop("neftune")
    return StageWork(
        columns=rows(B, T) | _floats((B,), "bytes"),
        objective=lambda session, _: functools.partial(sft.sft, model=session.model, **settings),
        tokens=B * T,
        noise=noise,
    )


def _reward(cfg: Any) -> StageWork:
    B, T, members = cfg.data.batch_size, cfg.data.seq_len, cfg.loss.members
    return StageWork(
        columns=_comparisons(B, T) | (_floats((B, members), "weight") if members > 1 else {}),
        objective=lambda session, _: functools.partial(
            reward.reward, scores=session.heads.scores, loss=cfg.loss.loss, centering=cfg.loss.centering
        ),
        tokens=2 * B * T * members,
        heads=functools.partial(reward_models.build, members=members),
        extra=reward_model.identity_normalisation(members),
    )


def _dpo(cfg: Any) -> StageWork:
    B, T, link = cfg.data.batch_size, cfg.data.seq_len, cfg.loss.link()
    settings = cfg.loss.settings()
    columns = _comparisons(B, T) | _floats((B,), *preference.COLUMNS.get(link, ()))
    if reference.needed(link, settings):
        columns |= _floats((B, 2), "ref_logps")
    loss = dpo.kto if link == "kto" else functools.partial(dpo.dpo, loss=link)
    return StageWork(
        columns=columns,
        objective=lambda session, _: functools.partial(loss, model=session.model, settings=settings),
        tokens=2 * B * T,
        extra=reference.first_extra(link),
        carry=reference.carry(link),
    )


def _on_policy(cfg: Any, **fields: Any) -> StageWork:
    B, T = cfg.data.batch_size, cfg.data.seq_len
    names = ("old_logps", "advantages", *(["ref_logps"] if fields["reference"] else []))
    return StageWork(
        columns=rows(B, T) | _floats((B, T), *names) | fields.pop("columns", {}),
        tokens=B * T,
        extra=stop_kl.first_extra(cfg),
        carry=stop_kl.carry(cfg),
        on_policy=True,
        scored=bool(cfg.scores.reward_model) or not (cfg.scores.reward or cfg.episodes.env),
        **fields,
    )


def _ppo(cfg: Any) -> StageWork:
    B, T, loss = cfg.data.batch_size, cfg.data.seq_len, cfg.loss
    shared = loss.value_from(scored=not cfg.scores.reward) == "head"
    weight = loss.pretraining(cfg.data.data)
    settings = cfg.settings(weight)
    columns = _floats((B, T), "returns", "old_values")
    if weight:
        columns |= {f"ptx/{name}": x for name, x in rows(B, T).items()} | _floats((B,), "ptx_scale")
    work = _on_policy(
        cfg,
        columns=columns,
        objective=lambda session, _: functools.partial(ppo.ppo, model=session.heads, settings=settings),
        heads=functools.partial(value.build, shared=shared),
        rates={"value": 1.0},
        trunks=1 if shared else 2,
        reference=loss.kl_coef > 0,
    )
    return work._replace(tokens=work.tokens * (2 if weight else 1))


def _grpo(cfg: Any) -> StageWork:
    settings, loss = cfg.settings(), cfg.loss.resolved()
    return _on_policy(
        cfg,
        objective=lambda session, _: functools.partial(
            policy_gradient.policy_gradient, model=session.model, settings=settings
        ),
        reference=bool(loss["kl_coef"] or loss["kl_weight"]),
    )


def _distill(cfg: Any) -> StageWork:
    B, T, loss = cfg.data.batch_size, cfg.data.seq_len, cfg.loss
    settings = distillation.DistillSettings(
        loss.divergence, loss.jsd_beta, loss.soft_temperature, loss.hard_weight
    )
    columns, k = rows(B, T), loss.teacher_topk
    if k:
        columns |= _floats((B, T, k), "teacher_logps")
        columns["teacher_ids"] = jax.ShapeDtypeStruct((B, T, k), np.int32)
    return StageWork(
        columns=columns,
        objective=lambda session, beside: functools.partial(
            distillation.distill, model=session.model, teacher=beside, settings=settings
        ),
        tokens=B * T,
        teacher=not k,
    )


# A stage of which --stage tells the programs: what its command trains on.
STAGES: Mapping[str, Callable[[Any], StageWork]] = {
    "pretrain": _pretrain,
    "sft": _sft,
    "reward": _reward,
    "dpo": _dpo,
    "ppo": _ppo,
    "grpo": _grpo,
    "distill": _distill,
}


def training_flops(arch: Arch, cfg: StageConfig, work: StageWork, teacher: Arch | None) -> float:
    """Model FLOPs of the update itself, over all devices; under adapters the weights' gradients are left out."""
    T = cfg.data.seq_len
    trunk = dataclasses.replace(arch, vocab=0)
    own = transformer.flops_per_token(arch, T) + (work.trunks - 1) * transformer.flops_per_token(trunk, T)
    if work.heads is not None and not work.on_policy:  # a reward model has no unembedding
        own = transformer.flops_per_token(trunk, T)
    beside = transformer.flops_per_token(teacher, T) / 3 if teacher else 0.0
    return work.tokens * (own * (2 / 3 if cfg.lora.lora_rank else 1) + beside)


def rollout_flops(
    arch: Arch, cfg: StageConfig, work: StageWork, scorer: Arch | None, members: int = 1
) -> float:
    """Model FLOPs of sampling, annotating and scoring --batch_size completions, forward alone."""
    T = cfg.data.seq_len
    policy = transformer.flops_per_token(arch, T)
    trunk = transformer.flops_per_token(dataclasses.replace(arch, vocab=0), T)
    annotated = policy * (1 + work.reference) + trunk * (work.trunks - 1)
    scored = transformer.flops_per_token(dataclasses.replace(scorer, vocab=0), T) if scorer else 0.0
    return cfg.data.batch_size * T * (policy + annotated + members * scored) / 3


def scored_rows(B: int, T: int) -> Columns:
    """The batch that a reward model scores: rewards/models.py's columns."""
    ids = jax.ShapeDtypeStruct((B, 1, T), jnp.int32)
    return {
        "tokens": ids,
        "segments": ids,
        "positions": ids,
        "length": jax.ShapeDtypeStruct((B, 1), jnp.int32),
    }
