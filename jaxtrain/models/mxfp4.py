"""Weights in MXFP4, as gpt-oss publishes those of its experts: 4 bits a number and a power of two for 32 of them.

OCP Microscaling Formats 1.0, sections 5.2 (blocks of 32), 5.3.3 (E2M1) and 5.4.1 (E8M0). A tensor f[E, I, O] is stored
as `_blocks` u8[E, O, I/32, 16], two numbers a byte, the lower half first, and `_scales` u8[E, O, I/32].
"""

from typing import Any

import ml_dtypes
import numpy as np

BLOCKS, SCALES = "_blocks", "_scales"  # what the names of the two end in
SIZE = 32
_POSITIVE = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
_NUMBERS = np.array(_POSITIVE + [-x for x in _POSITIVE], np.float32)
_EXPONENT_BIAS = 127


def numbers(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """f32[..., n * 32] of blocks u8[..., n, 16] and scales u8[..., n]; a scale of 255 is NaN."""
    halves = np.stack([blocks & 0x0F, blocks >> 4], -1).reshape(*scales.shape, SIZE)
    exponents = scales.astype(np.int32) - _EXPONENT_BIAS
    with np.errstate(over="ignore"):
        found = np.ldexp(_NUMBERS[halves], exponents[..., None])
    found[scales == 255] = np.nan
    return found.reshape(*scales.shape[:-1], -1)


class Mxfp4Tensor:
    """The tensor f[E, I, O] of two parts of safetensors that can be sliced, as itself: bfloat16 holds it exactly."""

    def __init__(self, blocks: Any, scales: Any):
        self._blocks, self._scales = blocks, scales

    def get_shape(self) -> list[int]:
        """[E, I, O]; where the two parts do not fit, the shape of the blocks."""
        shape, of_scales = (list(part.get_shape()) for part in (self._blocks, self._scales))
        if len(shape) != 4 or shape[:3] != of_scales or 2 * shape[3] != SIZE:
            return shape
        experts, outputs, blocks, _ = shape
        return [experts, blocks * SIZE, outputs]

    def get_dtype(self) -> str:
        """The type of what a slice has, or that of a part which is no u8."""
        kinds = {self._blocks.get_dtype(), self._scales.get_dtype()} - {"U8"}
        return min(kinds, default="BF16")

    def __getitem__(self, index: tuple[slice, slice, slice]) -> np.ndarray:
        experts, inputs, outputs = (
            range(*part.indices(size)) for part, size in zip(index, self.get_shape(), strict=True)
        )
        first, last = inputs.start // SIZE, -(-inputs.stop // SIZE)
        cut = slice(inputs.start - first * SIZE, inputs.stop - first * SIZE)
        out = np.empty((len(experts), len(inputs), len(outputs)), ml_dtypes.bfloat16)
        rows = slice(outputs.start, outputs.stop)
        for place, expert in enumerate(experts):  # one at a time: the numbers of all are 8 times their blocks
            part = (slice(expert, expert + 1), rows, slice(first, last))
            found = numbers(self._blocks[(*part, slice(None))][0], self._scales[part][0])
            out[place] = found[:, cut].T
        return out
