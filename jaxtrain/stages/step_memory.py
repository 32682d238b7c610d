"""The state and memory that a training step needs at least, beside what there is, before anything is computed."""

from typing import Any

import jax

from jaxtrain import config
from jaxtrain.models import transformer
from jaxtrain.models.zoo import Arch
from jaxtrain.stages import state_memory
from jaxtrain.stages.session import Session, fresh_state_fn
from jaxtrain.stages.state_memory import GIB
from jaxtrain.train import parallel, preflight
from jaxtrain.types import TrainState

# Where nothing is recomputed a step needs about 3 times what `stored_activations` counts (82 for 28 MiB, tinytown-1m).
ROOM = 0.4


def stored_activations(arch: Arch, remat: str, tensor: int = 1) -> float:
    """Elements that the backward pass reads of each token and layer, at least: the layer's input and, unless `remat` is
    `full`, the results of its products, which are split over `tensor` devices.
    """
    products = arch.C * (2 * arch.heads + 2 * arch.K) + (3 if arch.gated else 2) * arch.used_ff
    return arch.width + (products / tensor if remat != "full" else 0)


def state_shapes(session: Session, seed: int) -> TrainState:
    """The shapes of the first state. Raises ConfigError where the devices have no room for it."""
    shapes = session.plan.abstract(fresh_state_fn(session, seed), session.trained.axes)
    state_memory.require_room(session.plan, shapes, "the training state of this model")
    return shapes


def rows(cfg: config.StageConfig, session: Session, tokens: int, state: Any) -> list[tuple[str, str]]:
    """Rows of the preflight's table: bytes of activations at least, and a warning where they do not fit.

    tokens: of a global batch. state: the abstract TrainState.
    """
    plan = session.plan
    how = transformer.execution(cfg.model, plan.platform)
    elements = session.arch.layers * stored_activations(session.arch, how.remat)
    activations = elements * how.dtype.itemsize * tokens / cfg.optim.microbatches / len(plan.devices)
    arch, found = session.arch, []
    if arch.experts:
        count = transformer.parameters(arch, active=True)
        share = f"{arch.experts_per_token} of {arch.experts} experts"
        found.append(("active parameters", f"{count:,} of the model's, a token passes {share}"))
    found += [("activations", f"{activations / 2**20:,.1f} MiB at least, on each device")]
    needed = activations + sum(preflight.leaf_bytes(leaf, shard=True) for leaf in jax.tree.leaves(state))
    there = state_memory.of_a_device(plan)
    if there is not None and needed > there * (ROOM if how.remat == "none" else 1):
        found.append(
            (
                "warning",
                f"a step needs at least {needed / GIB:,.1f} GiB on each device, which has {there / GIB:,.1f}: lower "
                f"--seq_len={cfg.data.seq_len} or --batch_size={cfg.data.batch_size}, raise --microbatches"
                f"{'' if how.remat == 'full' else ', or set --remat=full'}",
            )
        )
    return found


def dtype(cfg: config.StageConfig, plan: parallel.Plan) -> str:
    """The type of computation, and how to have float32 where `auto` chose another one."""
    name = str(transformer.compute_dtype(cfg.model, plan.platform))
    if cfg.model.dtype != "auto" or name == "float32":
        return f"computes in {name}"
    return f"computes in {name}, parameters and sums in float32; --dtype=float32 computes all in it, slower"
