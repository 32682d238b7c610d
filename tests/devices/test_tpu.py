"""Every objective's step and the sampler compile for TPU slices, and what must be in the program is there."""

from collections import Counter

import pytest

from jaxtrain.apps.plan import program_cost
from tests.devices import cases, checks, conftest

TRAINED = [name for name in cases.STAGES if name != "sample"]
TRUNKS = {"ppo": 2}  # models that a step differentiates
FROZEN = {"distill": 1}  # models that it only reads
KERNEL = "tpu_custom_call"  # splash: there is no other Pallas kernel
WEIGHTS = 256 * 2 * 64 * 2 // 2  # half of the bytes of a layer's least kernel in bfloat16


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_has_splash_in_its_layers_and_holds_no_logits(tpu_stage, name):
    text = checks.program(tpu_stage(name, "v5e:2x2"), "train step").text
    # Forward, the gradient of the queries and that of keys and values; remat keeps the forward's result.
    assert checks.kernels(text, KERNEL) == 3 * TRUNKS.get(name, 1) + FROZEN.get(name, 0)
    assert checks.logits(text, cases.V, cases.T) == []
    assert checks.squares(text, cases.T) == []


def test_a_step_in_int8_has_its_kernels_in_products_of_codes(tpu_stage):
    """All forward and in the gradient of rows; as FSDP works a product in steps, some stand there several times."""
    step = checks.program(tpu_stage("int8", "v5e:2x2"), "train step")
    plain = checks.program(tpu_stage("pretrain", "v5e:2x2"), "train step")
    found, wanted = (program_cost.cost(each.text) for each in (step, plain))
    kernels = 2 * (256 * 64 * (2 * 4 + 2 * 2) + 3 * 256 * 640)  # parameters of 2 layers
    tokens = 8 * cases.T / 4  # of a device
    assert found.eight_bits == {"s8": 2 * 2 * kernels * tokens} and wanted.eight_bits == {}
    assert found.flops == pytest.approx(wanted.flops, rel=0.01)
    assert found.sent < 0.85 * wanted.sent  # codes are gathered


@pytest.mark.parametrize("name", ["pretrain", "int8"])
def test_a_layer_gathers_its_kernels_and_reduces_their_gradients_to_parts(tpu_stage, name):
    """Once forward and once or twice backward; products in steps, or sums of all on every device, send otherwise."""
    step = checks.program(tpu_stage(name, "v5e:2x2"), "train step")
    found = [
        each for each in program_cost.cost(step.text).collectives if each.in_loop and each.sent >= WEIGHTS
    ]
    parts = Counter(each.kind for each in found)
    assert parts.keys() == {"all-gather", "reduce-scatter"}
    sent = 2 * 3 / 4  # bytes of a number in bfloat16 that a device of four sends
    kernels = sent * 256 * (64 * (2 * 4 + 2 * 2) + 3 * 640)  # of a layer
    reduced = sum(each.sent for each in found if each.kind == "reduce-scatter")
    assert reduced == pytest.approx(kernels, rel=0.01)


def test_a_sampled_token_gathers_no_parameter(tpu_stage):
    stage = tpu_stage("sample", "v5e:2x2")
    decode = checks.program(stage, "decode")
    assert checks.looped_gathers(decode, WEIGHTS) == []
    assert decode.memory.aliased > 0.9 * stage.held["KV cache"], "the cache is donated"


def test_prefill_is_by_the_training_kernel(tpu_stage):
    prefill = checks.program(tpu_stage("sample", "v5e:2x2"), "prefill")
    assert checks.kernels(prefill.text, KERNEL) == 1
    assert checks.squares(prefill.text, cases.P) == []


@pytest.mark.parametrize("chip", ["v5p:2x2x1", "v6e:2x2"])
def test_a_step_compiles_for_other_generations(tpu_stage, chip):
    text = checks.program(tpu_stage("pretrain", chip), "train step").text
    assert checks.kernels(text, KERNEL) == 3
    assert checks.logits(text, cases.V, cases.T) == []


@pytest.mark.parametrize("name, chip", conftest.TPU)
def test_memory_is_that_of_the_table(tpu_stage, name, chip):
    checks.require_golden_memory(tpu_stage(name, chip), name, chip)


def test_what_a_slice_holds_adds_up(tpu_stage):
    stage = tpu_stage("distill", "v5e:2x2")
    step = checks.program(stage, "train step")
    assert stage.held["frozen"] == stage.held["parameters"]
    # Adam has two moments of each parameter; norms lie whole on every device.
    assert stage.held["optimizer"] == pytest.approx(2 * stage.held["parameters"], rel=0.01)
    resident = sum(stage.held[kind] for kind in ("parameters", "optimizer", "frozen", "batch"))
    assert resident <= step.memory.arguments < 1.4 * resident  # small arrays are padded to tiles of 8 x 128
    assert step.beside == 0
    assert (stage.devices, stage.hosts, stage.mesh["fsdp"]) == (4, 1, 4)
