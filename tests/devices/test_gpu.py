"""Steps and the sampler compile for H100s by the CUDA plug-in, with cuDNN's attention and no square of scores."""

import pytest

from jaxtrain.apps.plan import program_cost
from tests.devices import cases, checks, conftest

KERNEL = "__cudnn$fmha"


def test_a_step_has_cudnns_attention_and_holds_no_logits(gpu_stage):
    text = checks.program(gpu_stage("pretrain", "h100:4"), "train step").text
    assert checks.kernels(text, f"{KERNEL}SoftmaxBackward") >= 1
    assert checks.kernels(text, KERNEL) >= 2
    assert checks.logits(text, cases.V, cases.T) == []


def test_rows_of_one_document_take_the_causal_kernel_and_scores_are_never_whole(gpu_stage):
    text = checks.program(gpu_stage("pretrain", "h100:4"), "train step").text
    # Packed rows have branches of their own; that of very many documents has a mask, of 2 rows, where it is small.
    assert checks.kernels(text, f'{KERNEL}SoftmaxBackward"') == checks.kernels(text, f'{KERNEL}Softmax"') >= 1
    assert checks.squares(text, cases.T, "f32") == []
    mask = 2 * cases.T**2
    assert checks.squares(text, cases.T, "bf16", mask) == [
        f"bf16[2, 1, {cases.T}, {cases.T}]",
        f"bf16[2, {cases.T}, {cases.T}]",
    ]
    assert checks.squares(text, cases.T, least=mask + 1) == []  # no mask of each head, and no scores


def test_a_step_in_fp8_has_its_kernels_in_products_of_8_bit_floats(gpu_stage):
    """Forward, and in both gradients, of which that of E5M2 stands on the other side."""
    found = program_cost.cost(checks.program(gpu_stage("fp8", "h100:4"), "train step").text)
    kernels = 2 * (256 * 64 * (2 * 4 + 2 * 2) + 3 * 256 * 640)  # parameters of 2 layers
    tokens = 8 * cases.T / 4  # of a device
    assert found.eight_bits.keys() == {"f8e4m3fn", "f8e5m2"}
    assert sum(found.eight_bits.values()) == 3 * 2 * kernels * tokens


def test_a_sampled_token_gathers_no_parameter(gpu_stage):
    decode = checks.program(gpu_stage("sample", "h100:4"), "decode")
    assert checks.looped_gathers(decode, 256 * 2 * 64) == []


def test_prefill_is_by_cudnn(gpu_stage):
    text = checks.program(gpu_stage("sample", "h100:4"), "prefill").text
    assert checks.kernels(text, KERNEL) == 2  # one a layer: they are not scanned


@pytest.mark.parametrize("name, chip", conftest.GPU)
def test_memory_is_that_of_the_table(gpu_stage, name, chip):
    checks.require_golden_memory(gpu_stage(name, chip), name, chip)
