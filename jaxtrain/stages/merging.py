"""Parameters of a merge: models are loaded one after another, and merged tensor by tensor on their devices."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxtrain.ops import merging
from jaxtrain.stages.init_from import InitFrom
from jaxtrain.stages.load_model import LoadedModel, load_model
from jaxtrain.stages.merge_spec import Merge
from jaxtrain.train import parallel
from jaxtrain.types import Array, Params


def merged_params(merge: Merge, plan: parallel.Plan) -> Params:
    """The parameters of a merge, as the plan shards them.

    linear: Σ wᵢ θᵢ, a model soup (arXiv:2203.05482). task: θ₀ + λ Σ wᵢ (θᵢ − θ₀), task arithmetic (arXiv:2212.04089).
    ties: θ₀ + λ ops.merging.ties of the θᵢ − θ₀. slerp: along the arc between two models. Linear and task hold two
    models at once, the others all of them.
    """
    weights = [one.weight for one in merge.inputs]
    starts = [one.start for one in merge.inputs]
    if merge.method in ("linear", "task"):
        if merge.base:
            weights = [1 - merge.scale * sum(weights), *(merge.scale * weight for weight in weights)]
            starts = [merge.base, *starts]
        return _weighted_sum(plan, starts, weights)
    models = [load_model(start, plan) for start in ([merge.base] if merge.base else []) + starts]
    if merge.method == "slerp":
        f = functools.partial(merging.slerp, t=weights[1])
        return _by_tensor(plan, models, f)
    return _by_tensor(
        plan, models, functools.partial(_ties, weights=weights, density=merge.density, scale=merge.scale)
    )


def _ties(base: Array, *models: Array, weights: Sequence[float], density: float, scale: float) -> Array:
    vectors = jnp.stack([model - base for model in models])
    return base + scale * merging.ties(vectors, jnp.array(weights), density)


def _weighted_sum(plan: parallel.Plan, starts: Sequence[InitFrom], weights: Sequence[float]) -> Params:
    first = load_model(starts[0], plan)
    total = _by_tensor(plan, [first], lambda x: weights[0] * x)
    for start, weight in zip(starts[1:], weights[1:], strict=True):
        add = functools.partial(lambda x, y, weight: x + weight * y, weight=weight)
        total = _by_tensor(plan, [first._replace(params=total), load_model(start, plan)], add)
    return total


def _by_tensor(plan: parallel.Plan, models: Sequence[LoadedModel], f: Callable[..., Array]) -> Params:
    """f of each tensor of the models; of the stacked layers [L, ...], of each layer's."""

    def merge(*trees: Params) -> Params:
        def tensor(path: tuple, *leaves: Array) -> Array:
            stacked = path[0] == jax.tree_util.DictKey("layers")
            return (jax.vmap(f) if stacked else f)(*leaves)

        return jax.tree_util.tree_map_with_path(tensor, *trees)

    return plan.init(merge, models[0].model.axes, *(one.params for one in models))
