"""Steps and the sampler compile for H100s by the CUDA plug-in, with cuDNN's attention and no square of scores."""

import pytest

from tests.devices import cases, checks, conftest

KERNEL = "__cudnn$fmha"


def test_a_step_has_cudnns_attention_and_holds_no_logits(gpu_stage):
    text = checks.program(gpu_stage("pretrain", "h100:4"), "train step").text
    assert checks.kernels(text, f"{KERNEL}SoftmaxBackward") >= 1
    assert checks.kernels(text, KERNEL) >= 2
    assert checks.logits(text, cases.V, cases.T) == []


def test_no_scores_of_queries_and_keys_are_held(gpu_stage):
    text = checks.program(gpu_stage("pretrain", "h100:4"), "train step").text
    scores = [found for found in checks.squares(text, cases.T) if found.startswith(("f32", "bf16"))]
    assert scores == []


def test_a_sampled_token_gathers_no_parameter(gpu_stage):
    decode = checks.program(gpu_stage("sample", "h100:4"), "decode")
    assert checks.looped_gathers(decode, 256 * 2 * 64) == []


def test_prefill_is_by_cudnn(gpu_stage):
    text = checks.program(gpu_stage("sample", "h100:4"), "prefill").text
    assert checks.kernels(text, KERNEL) == 1


@pytest.mark.parametrize("name, chip", conftest.GPU)
def test_memory_is_that_of_the_table(gpu_stage, name, chip):
    stage, wanted = gpu_stage(name, chip), cases.golden(chip)
    if not wanted:
        pytest.skip(f"golden.json has nothing of {cases.release(chip)}: python -m tests.devices.golden")
    for program, sizes in cases.memory(stage).items():
        assert sizes == pytest.approx(wanted[name][program], rel=0.05), program
