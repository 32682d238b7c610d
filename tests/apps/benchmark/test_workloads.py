from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.dpo import DpoLoss
from jaxtrain import config
from jaxtrain.apps.benchmark import workloads
from jaxtrain.models import zoo
from jaxtrain.stages.load_model import build_model

ARCH = zoo.resolve("tinytown-200k,layers=1,width=16,heads=2,ff=16,vocab=32")


def test_the_settings_are_the_command_s():
    assert DpoLoss().settings() == workloads.DPO_SETTINGS


@pytest.mark.parametrize(("task", "shape"), [("pretrain", (2, 16)), ("sft", (2, 16)), ("reward", (2, 2, 16))])
def test_rows_are_full_and_the_prompt_is_an_eighth(task, shape):
    model = build_model(workloads.one_device(), ARCH, config.Model())
    work = workloads.step_work(task, model, 2, 16, 32, 0)
    assert work.batch["tokens"].shape == shape and work.tokens == np.prod(shape)
    assert np.array_equal(work.batch["tokens"][..., 1:], work.batch["targets"][..., :-1])
    assert (work.batch["mask"] == (np.arange(16) >= (0 if task == "pretrain" else 2))).all()
    again = workloads.step_work(task, model, 2, 16, 32, 0)
    assert np.array_equal(again.batch["tokens"], work.batch["tokens"])


def test_rows_of_several_documents():
    model = build_model(workloads.one_device(), ARCH, config.Model())
    batch = workloads.step_work("pretrain", model, 2, 7, 32, 0, 3).batch
    assert batch["segments"].tolist() == [[1, 1, 1, 2, 2, 3, 3]] * 2
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 0, 1]] * 2


def test_a_step_trains():
    step = workloads.training_step(
        workloads.one_device(),
        ARCH,
        config.Model(),
        config.Optim(lr=0.01, warmup=0),
        "pretrain",
        2,
        16,
        seed=0,
    )
    run = step.runner()
    losses = [float(total / count) for total, count in (run()[1]["loss"] for _ in range(4))]
    assert abs(losses[0] - np.log(32)) < 0.3 and losses[-1] < losses[0] - 0.05
    assert step.scratch_memory() > 0


def test_the_peak_is_that_of_the_plan_s_devices():
    def plan(*kinds):
        return SimpleNamespace(devices=[SimpleNamespace(device_kind=kind) for kind in kinds])

    assert workloads.nominal_peak(plan("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3")) == 2 * 989e12
    assert workloads.nominal_peak(plan("NVIDIA H100 80GB HBM3", "cpu")) is None
    assert (
        workloads.one_device().devices == tuple(jax.devices()[:1])
        or list(workloads.one_device().devices) == jax.devices()[:1]
    )
