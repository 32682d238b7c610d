"""One score from those of an ensemble's members."""

from collections.abc import Callable, Mapping

from jax import Array

# name -> (scores f32[M, ...], price of disagreement) -> f32[...]
COMBINED: Mapping[str, Callable[[Array, float], Array]] = {
    "mean": lambda scores, price: scores.mean(0),
    # Worst-case and uncertainty-weighted optimisation (Coste et al. 2023, arXiv:2310.02743).
    "min": lambda scores, price: scores.min(0),
    "penalised": lambda scores, price: scores.mean(0) - price * scores.var(0),
}
