"""FLOPs of HLO instructions: products, convolutions, and the kernels of attention, whose inside the text does not show.

A multiplication and an addition are two FLOPs. What is no matrix product (norms, softmax, the optimizer) counts as
nothing: it is bound by memory.
"""

import math
import re
from collections.abc import Callable, Mapping

from jaxtrain.apps.plan.hlo_text import Computation, Instruction


def flops(computation: Computation, instruction: Instruction) -> float | None:
    """FLOPs of one run of an instruction; None for a kernel that is not known. A called computation is not entered."""
    if instruction.opcode == "dot":
        return _dot(computation, instruction, r"lhs_contracting_dims=\{([\d,]*)\}")
    if instruction.opcode == "convolution":
        return _convolution(computation, instruction)
    if instruction.opcode == "custom-call":
        target = custom_target(instruction)
        count = next((f for name, f in _KERNELS.items() if re.match(name, target)), None)
        return count(computation, instruction) if count else None
    return 0.0


def eight_bits(computation: Computation, instruction: Instruction) -> str:
    """The type of a product's first operand where both have 8 bits, such as s8 or f8e4m3fn; empty for any other."""
    if instruction.opcode == "custom-call" and not custom_target(instruction).startswith("__cublas$"):
        return ""
    if instruction.opcode not in ("dot", "convolution", "custom-call"):
        return ""
    operands = (computation.operand(instruction, index) for index in (0, 1))
    types = [each.shapes[0].dtype if each is not None and each.shapes else "" for each in operands]
    return types[0] if all(re.match(r"[su]8$|f8e", name) for name in types) else ""


def custom_target(instruction: Instruction) -> str:
    """What a custom call calls."""
    return instruction.attribute(r'custom_call_target="([^"]*)"')


def _dims(computation: Computation, instruction: Instruction, index: int) -> tuple[int, ...]:
    operand = computation.operand(instruction, index)
    if operand is None or not operand.shapes:
        raise ValueError(f"{instruction.name} in {computation.name}: operand {index} has no shape")
    return operand.shapes[0].dims


def _dot(computation: Computation, instruction: Instruction, contracting: str) -> float:
    left = _dims(computation, instruction, 0)
    over = [int(n) for n in re.findall(r"\d+", instruction.attribute(contracting))]
    return 2.0 * math.prod(instruction.shapes[0].dims) * math.prod(left[n] for n in over)


def _cublas(computation: Computation, instruction: Instruction) -> float:
    return _dot(computation, instruction, r'"lhs_contracting_dimensions":\[([^\]]*)\]')


def _convolution(computation: Computation, instruction: Instruction) -> float:
    """2 · batch · output features · input features of a group · Π_spatial (window positions on real input).

    The TPU's compiler writes batched and transposed products as convolutions whose windows lie partly on padding, or on
    the holes of a dilated input: those cost nothing.
    """
    labels = instruction.attribute(r"dim_labels=(\w+_\w+->\w+)")
    if not labels:
        raise ValueError(f"{instruction.name} in {computation.name}: a convolution without dim_labels")
    left_labels, kernel_labels, out_labels = re.split(r"_|->", labels)
    left, kernel = _dims(computation, instruction, 0), _dims(computation, instruction, 1)
    out = instruction.shapes[0].dims
    batch = left[left_labels.index("b")] / int(instruction.attribute(r"batch_group_count=(\d+)") or 1)
    features = out[out_labels.index("f")] * kernel[kernel_labels.index("i")]
    spatial = sum(label.isdigit() for label in out_labels)
    window = _window(instruction.attribute(r"window=\{([^}]*)\}"), spatial)
    positions = math.prod(
        _positions(left[left_labels.index(str(n))], out[out_labels.index(str(n))], *window[n])
        for n in range(spatial)
    )
    return 2.0 * batch * features * positions


def _window(text: str, spatial: int) -> list[tuple[int, int, int, int, int]]:
    """(size, stride, padding before, input dilation, window dilation) of each spatial dimension."""

    def each(key: str, default: str) -> list[str]:
        found = re.search(rf"\b{key}=(\S+)", text)
        return found.group(1).split("x") if found else [default] * spatial

    names = {"size": "1", "stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    columns = [each(key, default) for key, default in names.items()]
    return [tuple(int(part.split("_")[0]) for part in row) for row in zip(*columns, strict=True)]


def _positions(size: int, out: int, window: int, stride: int, before: int, dilation: int, spread: int) -> int:
    """Pairs of an output and a window position that lie on an input element."""
    count, last = 0, (size - 1) * dilation
    for k in range(window):
        first = k * spread - before  # where output 0 reads
        low = max(0, -(first // stride))  # first output at 0 or after
        high = min(out - 1, (last - first) // stride)
        if dilation == 1:
            count += max(0, high - low + 1)
        else:
            count += sum((first + o * stride) % dilation == 0 for o in range(low, high + 1))
    return count


def _splash(computation: Computation, instruction: Instruction) -> float | None:
    """FLOPs of a kernel of jax's splash attention on the TPU: the blocks of its grid that the mask lets it compute.

    Queries are [..., T, C]. A mask that hides blocks comes as an s8 or s32 [heads, n, m] operand, of which m is only as
    wide as the widest row of blocks: under a causal mask row i computes i + 1 of them, with a window at most m. Without
    it every block is computed. The values of the mask are not in the text.
    """
    kind = re.search(r"splash_m[hq]a_(fwd|dq|dkv)", f"{instruction.name} {instruction.op_name}")
    if not kind:
        return None
    operands = [computation.operand(instruction, n) for n in range(len(instruction.operands))]
    arrays = [each.shapes[0] for each in operands if each is not None and each.shapes]
    queries = next(
        shape.dims for shape in arrays if shape.dtype in ("bf16", "f32", "f16") and len(shape.dims) > 1
    )
    sizes = {key: int(n) for key, n in re.findall(r'\\?"(block_\w+)\\?": (\d+)', instruction.attributes)}
    suffix = {"fwd": "", "dq": "_dq", "dkv": "_dkv"}[kind.group(1)]
    rows, columns = sizes.get(f"block_q{suffix}"), sizes.get(f"block_kv{suffix}")
    if not rows or not columns:
        return None
    fused = kind.group(1) == "dkv" and 'use_fused_bwd_kernel\\": true' in instruction.attributes
    products = {"fwd": 2, "dq": 3, "dkv": 5 if fused else 4}[kind.group(1)]
    T, C = queries[-2:]
    masks = [s.dims for s in arrays if s.dtype in ("s8", "s32") and len(s.dims) == 3]
    blocks = _visible_blocks(*masks[0][1:]) if masks else (T // rows) ** 2 * rows / columns
    return products * 2.0 * math.prod(queries[:-2]) * blocks * rows * columns * C


def _visible_blocks(n: int, m: int) -> int:
    """Blocks under a causal mask, of a grid that is shrunk to the widest row (or, for keys, column) of blocks."""
    long, short = max(n, m), min(n, m)
    return sum(min(i + 1, short) for i in range(long))


def _cudnn_attention(computation: Computation, instruction: Instruction) -> float:
    """FLOPs of cuDNN's flash attention: two products forward, five backward, on the keys that its mask lets it see.

    Packed rows (several segments in one) are counted as one document, the most that they can cost.
    """
    shape = instruction.attribute(r'"intermediate_tensor_shape": ?\{[^\]]*?"dimensions": ?\[([^\]]*)\]')
    B, H, T, S = (int(n) for n in re.findall(r"\d+", shape))
    C = _dims(computation, instruction, 0)[-1]
    causal = "CAUSAL" in instruction.attribute(r'"mask_type": ?"(\w+)"')
    window = int(instruction.attribute(r'"sliding_window_length": ?"?(\d+)') or 0)
    keys = _mean_keys(T, min(window, S) or S) if causal else S
    return (5 if "Backward" in custom_target(instruction) else 2) * 2.0 * B * H * T * keys * C


def _mean_keys(length: int, window: int) -> float:
    """Keys that a query sees on average under a causal mask with a window."""
    return (window * (window + 1) / 2 + max(0, length - window) * window) / length


def _free(computation: Computation, instruction: Instruction) -> float:
    return 0.0


# Targets of custom calls, as regular expressions.
_KERNELS: Mapping[str, Callable[[Computation, Instruction], float | None]] = {
    "tpu_custom_call": _splash,
    r"__cudnn\$fmha": _cudnn_attention,
    r"__cublas\$": _cublas,
    "AllocateBuffer|ConcatBitcast|AssumeGatherIndicesInBound|GatherScatterIndicesBitpacked|AsyncCollective": _free,
    "Sharding|SPMDFullToShardShape|SPMDShardToFullShape|MoveToDevice|MoveToHost|AnnotateDevicePlacement": _free,
    r"TopK|__cub\$|cu_threefry|annotate_device_placement|X64Combine|X64SplitLow|X64SplitHigh": _free,
}
