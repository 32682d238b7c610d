"""Drawing tokens from logits."""

import jax
import jax.numpy as jnp
from jax import Array


def draw(
    keys: Array, x: Array, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Array, Array]:
    """Tokens i32[B] from logits f32[B, V] with one key a row, and their log-probabilities f32[B].

    Temperature divides the logits first; then the top_k largest are kept (0: all); then the smallest set of most likely
    tokens whose probability reaches top_p (nucleus sampling, arXiv:1904.09751). The log-probability is under the
    distribution that is left, renormalised; for temperature 0, the most likely token, under the undivided one.
    """
    if temperature == 0.0:
        token = x.argmax(-1)
        return token.astype(jnp.int32), _logp(x, token)
    x = x / temperature
    if top_k and top_k < x.shape[-1]:
        least = jax.lax.top_k(x, top_k)[0][:, -1:]
        x = jnp.where(x < least, -jnp.inf, x)
    if top_p < 1.0:
        ordered = jnp.sort(x, -1, descending=True)
        share = jax.nn.softmax(ordered, -1)
        inside = jnp.cumsum(share, -1) - share < top_p
        least = jnp.where(inside, ordered, jnp.inf).min(-1, keepdims=True)
        x = jnp.where(x < least, -jnp.inf, x)
    token = jax.vmap(jax.random.categorical)(keys, x)
    return token.astype(jnp.int32), _logp(x, token)


def _logp(x: Array, token: Array) -> Array:
    return jnp.take_along_axis(jax.nn.log_softmax(x, -1), token[:, None], -1)[:, 0]
