"""The parts of the GPU check, in order, with the time for each. Plain data: nothing heavy is imported."""

from typing import NamedTuple

HERE = "jaxtrain.apps.benchmark"


class Part(NamedTuple):
    """A part: what it measures, its function, its arguments after the sizes, its seconds, and XLA's flags."""

    about: str
    module: str
    function: str
    args: tuple[str, ...]
    least: int  # it is left out where less is left
    most: int
    xla_flags: str = ""


# Finding the fastest product takes longer than the rest of a part that measures no speed of products.
UNTUNED = "--xla_gpu_autotune_level=0"

PARTS: dict[str, Part] = {
    "device": Part("peak of bf16 products, copy rate", f"{HERE}.speed", "device", (), 8, 30),
    "attention": Part("kernels beside xla in f32", f"{HERE}.attention_check", "attention", (), 15, 90, UNTUNED),
    "pretrain_125m": Part("pretraining, 125M", f"{HERE}.speed", "pretrain", ("125M",), 25, 70),
    "parity": Part(
        "packed rows beside single documents, sampler beside trainer",
        f"{HERE}.parity_check",
        "parity",
        (),
        20,
        60,
        UNTUNED,
    ),
    "tests": Part("tests of the suite on the device", f"{HERE}.device_tests", "tests", (), 20, 60, UNTUNED),
    "pretrain_1.3b": Part("pretraining, 1.3B", f"{HERE}.speed", "pretrain", ("1.3B",), 30, 90),
    "decode": Part("decode, 1.3B", f"{HERE}.speed", "decode", (), 20, 100),
    "torch_pretrain": Part("pretraining in torch", f"{HERE}.torch_speed", "pretrain", (), 30, 110),
    "torch_decode": Part("decode in torch", f"{HERE}.torch_speed", "decode", (), 15, 40),
    "ppo": Part("a PPO iteration, 350M", f"{HERE}.ppo_speed", "iteration", (), 30, 75),
    "dpo_1.3b": Part("DPO, 1.3B", f"{HERE}.speed", "dpo", (), 30, 60),
    "pretrain_350m": Part("pretraining, 350M", f"{HERE}.speed", "pretrain", ("350M",), 25, 50),
    "decode_graphs": Part(
        "decode with its loops in CUDA graphs", f"{HERE}.speed", "decode_graphs", (), 15, 30,
        "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL",
    ),
    "sweep": Part("other settings, the most promising first", f"{HERE}.speed", "sweep", (), 25, 480),
}  # fmt: skip
