"""Whole models on the slices that people have, and what only the compiler's full effort shows. Minutes of CPU time."""

import functools
import re

import pytest

from jaxtrain.apps.plan import program_cost
from tests.devices import cases, checks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(cases.missing("v5e:2x2")), reason=cases.missing("v5e:2x2")),
]


@functools.cache
def compiled(name, chip, *flags, exact=False, only=("train step",)):
    (stage,) = cases.compiled([cases.request(name, chip, *flags, exact=exact, only=only)])
    return stage


def large(model, batch, length, *more):
    return (
        f"--model={model}",
        f"--batch_size={batch}",
        f"--seq_len={length}",
        "--logits_limit_mb=1024",
        *more,
    )


@pytest.mark.parametrize("chip", ["v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("name", list(cases.STAGES))
def test_every_stage_compiles_for_other_generations(name, chip):
    stage = compiled(name, chip, only=())
    assert stage.refused == ()
    for program in stage.programs:
        assert checks.logits(program.text, cases.V, cases.T) == []
    for program, sizes in cases.golden(chip).get(name, {}).items():
        assert cases.memory(stage)[program] == pytest.approx(sizes, rel=0.05), program


# A model whose every device of 8 has 128 columns of a table, a whole tile: of fewer, the compiler reduces all of it.
WIDE = f"--model=nano,layers=2,width=1024,heads=8,kv_heads=4,ff=1280,vocab={2 * cases.V}"


@pytest.mark.parametrize(
    ("chip", "kind"),
    [
        ("v5e:2x4", "reduce-scatter"),
        # From 16 devices on it makes an all-reduce of whatever is written, an explicit psum_scatter too.
        ("v5p:2x2x4", "all-reduce"),
    ],
)
def test_at_full_effort_the_gradient_of_a_table_is_summed_once(chip, kind):
    stage = compiled("pretrain", chip, WIDE, "--batch_size=16", exact=True)
    (step,) = stage.programs
    table = 2 * cases.V * 1024  # numbers
    sums = [
        each
        for each in program_cost.cost(step.text).collectives
        if each.kind in ("all-reduce", "reduce-scatter") and each.sent >= table
    ]
    assert [(each.kind, each.runs, each.in_loop) for each in sums] == [(kind, 1, False)]


# 12.9 and 7.6 GiB, of them 5.6 and 1.4 the state.
@pytest.mark.parametrize(("chip", "devices", "most"), [("v5p:2x2x4", 16, 14), ("v5p:4x4x4", 64, 8.5)])
def test_llama3_8b_fits(chip, devices, most):
    stage = compiled("pretrain", chip, *large("llama3-8b", devices, 8192, "--remat=full"))
    (step,) = stage.programs
    assert stage.devices == devices
    assert step.needed / 2**30 < most
    assert checks.kernels(step.text, "tpu_custom_call") >= 3
    assert checks.logits(step.text, 128256, 8192) == []
    assert checks.squares(step.text, 8192) == []


def test_rows_of_32768_tokens_fit_a_model_of_1b():
    stage = compiled("pretrain", "v5p:2x2x2", *large("llama3.2-1b", 8, 32768, "--remat=full"))
    (step,) = stage.programs
    assert step.needed / 2**30 < 20
    assert checks.squares(step.text, 32768) == []


# 54.5, 37.1, 32.9 and 11.0 GiB.
@pytest.mark.parametrize(
    ("model", "chip", "vocab", "most"),
    [
        ("mixtral-8x7b", "v5p:2x2x4", 32000, 60),
        ("qwen3-30b-a3b", "v5p:2x2x4", 151936, 41),
        ("gpt-oss-20b", "v5p:2x2x4", 201088, 36),
        ("olmoe-1b-7b", "v5e:4x4", 50304, 12),
    ],
)
def test_released_mixtures_of_experts_fit_16_chips(model, chip, vocab, most):
    length = 4352  # no size of these models
    more = ("--remat=full", "--mesh=fsdp:-1,expert:4", "--logits_limit_mb=256")
    stage = compiled("pretrain", chip, *large(model, 16, length, *more))
    (step,) = stage.programs
    assert step.needed / 2**30 < most
    # Not products with all experts.
    assert len(re.findall(r"%(?:ragged-dot-none|tgmm)[.\d]* = ", step.text)) >= 9
    assert checks.logits(step.text, vocab, length) == []
    assert checks.squares(step.text, length) == []


def test_what_does_not_fit_is_said_with_its_size():
    stage = compiled("pretrain", "v5e:2x4", *large("llama3-8b", 8, 4096, "--remat=none"))
    (refused,) = stage.refused
    assert refused.name == "train step"
    assert refused.needed > refused.available > 15 * 2**30


@pytest.mark.parametrize(("mesh", "experts"), [("fsdp:8", 16), ("fsdp:2,expert:4", 4)])
def test_experts_are_computed_by_kernels_over_groups(mesh, experts):
    """Forward, and in both gradients: XLA alone would compute that of the kernels from all rows for each expert."""
    model = f"{cases.MODEL},experts=16,experts_per_token=2,expert_ff=896"
    stage = compiled("pretrain", "v5e:2x4", f"--model={model}", f"--mesh={mesh}")
    (step,) = stage.programs
    kernels = re.findall(r"%(ragged-dot-none|tgmm)[.\d]* = bf16\[([\d,]+)\]", step.text)
    rows = 2 * cases.T * 16 // experts  # of the one row of a device, or of the rows of four
    assert sorted(kernels) == sorted(
        [("ragged-dot-none", f"{rows},896")] * 3
        + [("ragged-dot-none", f"{rows},256")] * 3
        + [("tgmm", f"{experts},256,896")] * 2
        + [("tgmm", f"{experts},896,256")]
    )
    assert not re.search(rf"bf16\[{experts},(256,896|896,256)\][^ ]* convolution", step.text)
    assert re.search(rf"bf16\[{experts},\d+,896\][^ ]* reduce-scatter", step.text)
