"""The activations of feed-forward layers, of one product or of two."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

SHARPNESS, LIMIT = 1.702, 7.0  # of gpt-oss; config.json may name no others


def _clamped_swiglu(gate: Array, up: Array) -> Array:
    """gpt-oss (arXiv:2508.10925): both products are clamped, the gate is x σ(1.702 x), and 1 is added to the other."""
    gate, up = jnp.minimum(gate, LIMIT), jnp.clip(up, -LIMIT, LIMIT)
    return gate * nn.sigmoid(SHARPNESS * gate) * (up + 1)


_GATED: dict[str, Callable[[Array, Array], Array]] = {
    "swiglu": lambda gate, up: nn.silu(gate) * up,
    "geglu": lambda gate, up: nn.gelu(gate) * up,
    "clamped_swiglu": _clamped_swiglu,
}
_PLAIN: dict[str, Callable[[Array], Array]] = {
    "gelu": nn.gelu,
    "gelu_erf": functools.partial(nn.gelu, approximate=False),
}


def activated(mlp: str, product: Callable[[str], Array]) -> Array:
    """What the last product takes: of product("up") or, in gated layers, of product("gate") and product("up")."""
    if mlp in _GATED:
        return _GATED[mlp](product("gate"), product("up"))
    return _PLAIN[mlp](product("up"))
