import pytest

from jaxtrain.apps.plan import hlo_text
from jaxtrain.apps.plan.flops import eight_bits, flops
from tests.apps.plan.modules import module


def of(lines: str) -> float | None:
    parsed = hlo_text.parse(module(lines)).computations["main"]
    return flops(parsed, parsed.instructions[parsed.root])


def test_products():
    text = """%a = bf16[5,2,3] parameter(0)
        %b = bf16[5,3,4] parameter(1)
        ROOT %d = f32[5,2,4] dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_contracting_dims={1}"""
    assert of(text) == 2 * 5 * 2 * 4 * 3
    gemm = """%a = bf16[2,3] parameter(0)
        %b = bf16[3,4] parameter(1)
        ROOT %d = (bf16[2,4], s8[0]) custom-call(%a, %b), custom_call_target="__cublas$gemm", {config}"""
    config = '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}'
    assert of(gemm.format(config=f"backend_config={config}")) == 2 * 2 * 3 * 4
    assert of("ROOT %a = f32[9] add(%b, %c)") == 0


@pytest.mark.parametrize(
    ("left", "right", "found"),
    [
        ("s8", "s8", "s8"),
        ("f8e5m2", "f8e4m3fn", "f8e5m2"),
        ("bf16", "s8", ""),
        ("bf16", "bf16", ""),
        ("s8", "s32", ""),
    ],
)
def test_products_of_8_bits_have_both_operands_of_8_bits(left, right, found):
    for product in (
        "dot(%a, %b), lhs_contracting_dims={1}",
        'custom-call(%a, %b), custom_call_target="__cublas$lt"',
    ):
        lines = f"%a = {left}[2,3] parameter(0)\n%b = {right}[3,4] parameter(1)\nROOT %d = f32[2,4] {product}"
        parsed = hlo_text.parse(module(lines)).computations["main"]
        assert eight_bits(parsed, parsed.instructions[parsed.root]) == found
    other = f"%a = {left}[4] parameter(0)\nROOT %d = {left}[4] add(%a, %a)"
    parsed = hlo_text.parse(module(other)).computations["main"]
    assert eight_bits(parsed, parsed.instructions[parsed.root]) == ""


# What libtpu makes of products: x [B, T, D] on weights, [T, D] on [D, H, C], and products with a batch dimension.
@pytest.mark.parametrize(
    ("left", "right", "convolution", "products"),
    [
        (
            "bf16[2048,256]",
            "bf16[8192,256]",
            "bf16[2048,8192] convolution(%a, %b), dim_labels=bf_oi->bf",
            2048 * 256 * 8192,
        ),
        (
            "bf16[2048,2,256]",
            "bf16[2048,8192,1]",
            "bf16[2,256,8192] convolution(%a, %b), window={size=1}, dim_labels=f0b_io0->0bf",
            2 * 256 * 2048 * 8192,
        ),
        # [2, 256] by [2048, 2, 256]: the window of 2 slides over the 2 from beyond one end to the other
        (
            "bf16[2048,8192,2]",
            "bf16[2,256,8192]",
            "bf16[2048,3,256] convolution(%a, %b), window={size=2 pad=1_1 rhs_reversal=1}, dim_labels=bf0_0oi->b0f",
            2048 * 8192 * 256 * 4,
        ),
        # a batch of 8 by dilation: 7 of 8 window positions lie on holes
        (
            "bf16[8,2048,64]",
            "bf16[8,512,64]",
            "f32[8,2048,512] convolution(%a, %b), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0oi->0bf",
            8 * 2048 * 512 * 64,
        ),
        # a real convolution, padded by 1 on each side: 8 * 3 - 2 positions on the input
        (
            "f32[2,8,5]",
            "f32[3,5,7]",
            "f32[2,8,7] convolution(%a, %b), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f",
            2 * 5 * 7 * 22,
        ),
        # in two groups of features
        (
            "f32[2,8,6]",
            "f32[3,3,4]",
            "f32[2,6,4] convolution(%a, %b), window={size=3}, dim_labels=b0f_0io->b0f, feature_group_count=2",
            2 * 3 * 4 * 18,
        ),
    ],
)  # fmt: skip
def test_convolutions(left, right, convolution, products):
    lines = f"%a = {left} parameter(0)\n%b = {right} parameter(1)\nROOT %c = {convolution}"
    assert of(lines) == 2 * products


BLOCKS = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
SIZES = ", ".join(f'\\"{name}\\": 512' for name in BLOCKS)
SPLASH = """%next = s8[1,{n},{m}] parameter(0)
    %mask = s8[1,{n},{m}] parameter(1)
    %q = bf16[8,4,2048,64] parameter(2)
    %k = bf16[8,2048,64] parameter(3)
    ROOT %splash_mqa_{kind}.2 = bf16[8,4,2048,64] custom-call({operands}), {meta}"""


@pytest.mark.parametrize(
    ("kind", "n", "m", "masked", "expected"),
    [
        ("fwd_segmented_residuals", 4, 4, True, 2 * 10),  # products times blocks: 1 + 2 + 3 + 4
        ("dq_no_residuals", 4, 4, True, 3 * 10),
        ("dkv_no_residuals", 4, 4, True, 4 * 10),
        ("fwd_residuals", 4, 2, True, 2 * 7),  # a window: two blocks a row, the first row one
        ("dkv_no_residuals", 2, 4, True, 4 * 7),
        ("fwd_residuals", 4, 4, False, 2 * 16),  # no mask: every block
    ],
)
def test_splash_computes_the_blocks_that_its_mask_shows(kind, n, m, masked, expected):
    operands = "%next, %mask, %q, %k" if masked else "%q, %k"
    meta = 'custom_call_target="tpu_custom_call", '
    meta += f'frontend_attributes={{kernel_metadata={{\n"xprof_metadata":"{{{SIZES}}}"\n}}}}'
    text = SPLASH.format(kind=kind, n=n, m=m, operands=operands, meta=meta)
    assert of(text) == expected * 2 * 32 * 512 * 512 * 64


CUDNN = """%q = bf16[2,128,8,64] parameter(0)
    %k = bf16[2,128,2,64] parameter(1)
    ROOT %f = (bf16[2,8,128,64], u8[0]) custom-call(%q, %k, %k), custom_call_target="{target}", {config}"""
SHAPE = '"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "8", "128", "128"]}'


@pytest.mark.parametrize(
    ("backward", "mask", "window", "products", "pairs"),
    [
        ("", "NO_MASK", 0, 2, 128 * 128),
        ("", "CAUSAL", 0, 2, 128 * 129 / 2),
        ("Backward", "CAUSAL", 0, 5, 128 * 129 / 2),
        ("", "PADDING_CAUSAL", 0, 2, 128 * 129 / 2),
        ("", "CAUSAL", 32, 2, 32 * 33 / 2 + 96 * 32),
    ],
)
def test_cudnn_computes_the_keys_that_its_mask_shows(backward, mask, window, products, pairs):
    config = f'backend_config={{{SHAPE}, "mask_type": "{mask}", "sliding_window_length": {window}}}'
    assert (
        of(CUDNN.format(target=f"__cudnn$fmhaSoftmax{backward}", config=config))
        == products * 2 * 2 * 8 * pairs * 64
    )


def test_a_kernel_that_is_not_known():
    assert of('ROOT %a = f32[2] custom-call(), custom_call_target="mosaic_gpu"') is None
    assert of('ROOT %a = f32[2] custom-call(), custom_call_target="tpu_custom_call"') is None
    assert of('ROOT %a = f32[2] custom-call(), custom_call_target="AllocateBuffer"') == 0
