"""Prefill and decode as one pure function, for tests that compile it themselves."""

import jax

from jaxtrain.generate import sampler


def sample_fn(model, *, max_new, ends, **params):
    """A function (params, frozen, batch) -> Completions, with the sampling parameters `params` for all rows."""

    def sample(weights, frozen, batch):
        weights = jax.lax.optimization_barrier(model.ready(weights))  # or XLA would lay out each token anew
        columns = sampler.sampling_columns(batch["length"].shape[0], sampler.active_params(params))
        state = sampler.prefill(model, weights, {**batch, **columns}, ends=ends, max_new=max_new)
        return sampler.decode(model, weights, state, max_new - 1, ends=ends).completions

    return sample
