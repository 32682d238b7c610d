"""Each stage's objective is satisfied with the columns that its work lists, under the flags that change them."""

import functools
from pathlib import Path

import jax
import pytest

from experiments import plan
from jaxtrain import config, flags
from jaxtrain.apps.plan import request, stage_work
from jaxtrain.apps.plan.config import PlanFlags
from jaxtrain.models import transformer
from jaxtrain.stages.init_from import InitFrom
from jaxtrain.stages.session import build_session
from jaxtrain.train import parallel

B, T = 4, 16


@functools.cache
def one_device():
    return parallel.make(config.Run(), jax.devices()[:1])


def made(stage, *argv):
    argv = (f"--batch_size={B}", f"--seq_len={T}", "--model=tinytown-200k,layers=1,vocab=64", *argv)
    cfg = flags.from_flags(plan.stage_class(stage), list(argv))
    return cfg, stage_work.STAGES[stage](cfg)


def loss_of(stage, *argv):
    """The Loss of a stage, as shapes; the first gradient's parameters too."""
    cfg, work = made(stage, *argv)
    arch = request.stage_arch(cfg)
    session = build_session(
        cfg, Path(), one_device(), arch, InitFrom(arch, None, {}), heads=work.heads, rates=work.rates
    )
    teacher = session.model if work.teacher else None
    objective = work.objective(session, teacher)

    def run(key, batch):
        params = frozen = session.model.init(key)
        if session.heads:
            params = session.heads.grow(params, key)
        loss, grads = jax.value_and_grad(lambda p: objective(p, frozen, batch, key).total)(params)
        return loss, grads

    return jax.eval_shape(run, jax.random.key(0), work.columns)


@pytest.mark.parametrize(
    "stage, argv",
    [
        ("pretrain", ()),
        ("sft", ()),
        ("reward", ()),
        ("reward", ("--members=3",)),
        ("reward", ("--loss=plackett_luce",)),
        # kto, bco_pair and aot have columns of their own, simpo has no reference.
        *(("dpo", (f"--loss={loss}",)) for loss in ("sigmoid", "kto", "bco_pair", "aot", "simpo")),
        ("ppo", ("--reward=gold",)),
        ("ppo", ("--reward=gold", "--value=head")),
        ("ppo", ("--reward=gold", "--ptx_weight=0")),
        ("grpo", ("--reward=gold",)),
        ("grpo", ("--reward=gold", "--algorithm=dr_grpo")),
        ("distill", ()),
        ("distill", ("--teacher_topk=4",)),
    ],
)
def test_an_objective_has_the_columns_that_it_reads(stage, argv):
    loss, grads = loss_of(stage, *argv)
    assert loss.shape == ()
    assert all(leaf.size for leaf in jax.tree.leaves(grads))


def test_every_stage_of_the_flag_is_there():
    field = PlanFlags.__dataclass_fields__["stage"]
    assert set(field.metadata["choices"]) == {*stage_work.STAGES, "sample"}


@pytest.mark.parametrize("argv, on, off", [((), "ref_logps", ""), (("--kl_weight=0",), "", "ref_logps")])
def test_a_reference_is_there_where_it_has_a_price(argv, on, off):
    _, work = made("grpo", "--reward=gold", *argv)
    assert (on in work.columns) == bool(on) and off not in work.columns
    assert work.reference == bool(on)


def test_flops_are_those_of_the_models_that_a_step_reads():
    cfg, work = made("pretrain")
    arch = request.stage_arch(cfg)
    per_token = transformer.flops_per_token(arch, T)
    flops = stage_work.training_flops(arch, cfg, work, None)
    assert flops == B * T * per_token
    lora = flags.from_flags(plan.stage_class("sft"), ["--lora_rank=2", f"--batch_size={B}", f"--seq_len={T}"])
    assert stage_work.training_flops(arch, lora, stage_work.STAGES["sft"](lora), None) == flops * 2 / 3
    cfg, work = made("distill")
    assert stage_work.training_flops(arch, cfg, work, arch) == pytest.approx(flops * 4 / 3)
    cfg, work = made("dpo")
    assert stage_work.training_flops(arch, cfg, work, None) == 2 * flops
    cfg, work = made("reward")
    head = 6 * arch.width * arch.vocab
    assert stage_work.training_flops(arch, cfg, work, None) == pytest.approx(2 * B * T * (per_token - head))
    cfg, work = made("ppo", "--reward=gold", "--ptx_weight=0")
    assert stage_work.training_flops(arch, cfg, work, None) == pytest.approx(B * T * (2 * per_token - head))
    # Sampled and annotated by policy and reference, and by the values' trunk: forward alone.
    rollout = stage_work.rollout_flops(arch, cfg, work, None)
    assert rollout == pytest.approx(B * T * (3 * per_token + per_token - head) / 3)
