"""The programs of a training step, compiled here for CPU devices in the place of a topology's."""

import jax
import pytest

from experiments import plan
from jaxtrain import flags
from jaxtrain.apps.plan import programs, request, topologies
from jaxtrain.models import quantized_weights, transformer
from tests import tiny

SIZE = (
    "--model=tinytown-200k,layers=1,vocab=64",
    "--batch_size=8",
    "--seq_len=24",
    "--max_new=8",
    "--mesh=fsdp:-1",
)


def compiled(monkeypatch, stage, *argv, only=()):
    monkeypatch.setattr(topologies, "describe", lambda topology: jax.devices()[:4])
    cfg = flags.from_flags(plan.stage_class(stage), [*SIZE, *argv])
    return programs.compile_stage(request.PlanRequest(stage, cfg, "v5e:2x2", only=only))


@pytest.fixture(scope="module")
def grpo():
    with pytest.MonkeyPatch.context() as patch:
        yield compiled(patch, "grpo", "--group=4", "--minibatches=2", "--epochs=2")


def test_an_on_policy_step_has_its_rollouts_share_of_programs(grpo):
    assert [(program.name, program.runs) for program in grpo.programs] == [
        ("train step", 1.0),
        ("reshard", 0.25),  # an iteration serves 4 updates
        ("prefill", 0.25),  # its 16 completions are one call
        ("decode", 0.25),
        ("annotate", 0.5),  # in two batches
        ("score", 0.5),
    ]
    # Tokens: rows of an update; 4 prompts of 24 - 8 tokens; 16 completions, of which prefill has the first token.
    assert [program.tokens for program in grpo.programs] == [8 * 24, 0, 4 * 16, 16 * 7, 8 * 24, 8 * 24]
    assert (grpo.devices, grpo.mesh["fsdp"], grpo.seq_len) == (4, 4, 24)


def test_what_a_device_holds_is_of_policy_reference_and_reward_model(grpo):
    parameters, held = grpo.held["parameters"], grpo.held
    assert held["optimizer"] == pytest.approx(2 * parameters, rel=0.02)  # two moments
    assert held["frozen"] == pytest.approx(2 * parameters, rel=0.05)
    beside = {program.name: program.beside for program in grpo.programs}
    resident = parameters + held["optimizer"] + held["frozen"]
    assert beside["train step"] == held["frozen"]
    assert beside["prefill"] == beside["decode"] == resident
    assert beside["reshard"] == resident - parameters
    assert beside["annotate"] == resident - 2 * parameters
    step = next(program for program in grpo.programs if program.name == "train step")
    assert step.needed == step.memory.peak + held["frozen"]


def test_adapters_are_trained_beside_a_frozen_base(monkeypatch):
    lora = compiled(monkeypatch, "sft", "--lora_rank=2", only=("train step",))
    (step,) = lora.programs
    assert lora.held["parameters"] < 0.2 * lora.held["frozen"]
    assert step.beside == 0, "the base is an argument of the step"
    whole = lora.parameters - lora.held["parameters"]
    assert whole > 0


def test_a_quantized_base_has_the_bytes_of_its_arrays(monkeypatch):
    """On 4 devices, which codes are split over; all parameters are counted once."""
    size = ("--model=tinytown-200k,layers=1,vocab=64,width=256", "--lora_rank=2")
    plain, int8, nf4 = (
        compiled(monkeypatch, "sft", *size, f"--base_weights={kind}", only=("train step",))
        for kind in ("float32", "int8", "nf4")
    )
    assert plain.parameters == int8.parameters == nf4.parameters
    kernels = (plain.held["frozen"] - nf4.held["frozen"]) / (4 - 4.5 / 8)
    assert 0.6 * plain.held["frozen"] < 4 * kernels < plain.held["frozen"]
    model = transformer.build(int8.arch, tiny.how())
    params = model.init(jax.random.key(0))
    for kind, found in (("int8", int8), ("nf4", nf4)):
        base = quantized_weights.quantize(params, model.axes, kind)
        real = sum(leaf.nbytes for leaf in jax.tree.leaves(base))
        assert found.held["frozen"] == pytest.approx(
            real / 4, rel=0.06
        )  # norms and scales of ff or heads stay whole
        assert found.programs[0].memory.arguments < plain.programs[0].memory.arguments


@pytest.mark.parametrize(
    "message, sizes",
    [
        ("Ran out of memory in memory space hbm. Used 56.12G of 15.75G hbm. Exceeded", (56.12, 15.75)),
        (
            "the total memory required for HLO temporaries (56.12G) exceeds available HBM (15.75G).",
            (56.12, 15.75),
        ),
        ("something else", (0, 0)),
    ],
)
def test_the_compilers_refusal_is_read(message, sizes):
    found = programs._sizes(message)
    assert found == tuple(int(size * 2**30) for size in sizes)
