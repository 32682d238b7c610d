"""Frequencies of rotary positions, and what stretches them to contexts longer than those that were trained on.

All is worked in float64 and rounded once, when a program is traced: the frequencies are constants of the program.
"""

import math

import numpy as np

from jaxtrain.models.zoo import Arch


def frequencies(arch: Arch, theta: float, scaled: bool, context: int) -> tuple[np.ndarray, float]:
    """(radians a position f32[R/2], what cos and sin are multiplied by), R being the rotary width of a head.

    θ^(-2i/R) (arXiv:2104.09864), and where `scaled` arch.rope_scaling's change of it. `context` is the length of the
    rows, or of the KV cache: LongRoPE has a table for contexts above the original length and one for the others, and
    dynamic scaling a θ for each length above it.
    """
    freq = theta ** (-np.arange(0, arch.R, 2) / arch.R)
    factor, numbers = 1.0, arch.rope_scaling if scaled else ()
    if arch.rope_factors and scaled:
        original, factor = numbers
        short, long = np.split(np.asarray(arch.rope_factors), 2)
        freq = freq / (long if context > original else short)
    elif len(numbers) == 1:
        freq = freq / numbers[0]
    elif len(numbers) == 2:
        freq = _dynamic(freq, *numbers, context)
    elif len(numbers) == 4:
        freq = _llama3(freq, *numbers)
    elif numbers:
        freq, factor = _yarn(freq, theta, *numbers[:4], truncate=bool(numbers[5])), numbers[4]
    return freq.astype(np.float32), factor


def _dynamic(freq: np.ndarray, factor: float, original: float, context: int) -> np.ndarray:
    """Dynamic "NTK-aware" scaling, θ' = θ · (s · context / original − (s − 1))^(R / (R − 2)), s being the factor.

    arXiv:2309.00071, sections 3.1 and 3.3, in the form of transformers: contexts up to the original length are left as
    they are, and beyond it the factor says how fast θ grows.
    """
    growth = factor * max(context, original) / original - (factor - 1)
    half = len(freq)
    return freq * growth ** (-np.arange(half) / (half - 1))  # (θ'/θ)^(-2i/R) = growth^(-2i / (R - 2))


def _llama3(freq: np.ndarray, factor: float, low: float, high: float, original: float) -> np.ndarray:
    """Llama 3.1's interpolation (arXiv:2407.21783, released code).

    Wavelengths shorter than original / high are left as they are, those longer than original / low are divided by the
    factor, and those between are blended.
    """
    turns = original * freq / (2 * np.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * freq + (1 - keep) * freq / factor


def _yarn(
    freq: np.ndarray,
    theta: float,
    factor: float,
    fast: float,
    slow: float,
    original: float,
    *,
    truncate: bool,
) -> np.ndarray:
    """YaRN's "NTK by parts" (arXiv:2309.00071, eqs. 17 to 21), with the ramp over dimensions of the released code.

    Frequencies that turn more than `fast` times in the original length are left as they are, those that turn less than
    `slow` times are divided by the factor, and between the two dimensions, which `truncate` makes whole numbers, the
    share is linear.
    """
    width = 2 * len(freq)

    def dimension(turns: float) -> float:
        return width * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta))

    low, high = dimension(fast), dimension(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    ramp = np.clip((np.arange(len(freq)) - low) / ((high - low) or 0.001), 0.0, 1.0)
    return freq * (1 - ramp) + freq / factor * ramp
