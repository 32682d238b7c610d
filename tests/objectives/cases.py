"""One row for each objective: what the property tests need to know of it. A new objective adds its row here."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config import Lora
from jaxtrain.models import lora, value
from jaxtrain.models import reward as reward_models
from jaxtrain.objectives.distill import DistillSettings as Distilling
from jaxtrain.objectives.distill import distill
from jaxtrain.objectives.dpo import dpo, kto
from jaxtrain.objectives.next_token import next_token
from jaxtrain.objectives.online_dpo import online_dpo
from jaxtrain.objectives.policy_gradient import policy_gradient
from jaxtrain.objectives.ppo import ppo
from jaxtrain.objectives.reward import reward
from jaxtrain.objectives.sft import sft
from jaxtrain.ops import policy_gradient as pg
from jaxtrain.ops import preference
from jaxtrain.types import LM, ActorCritic, Batch, Key, Objective, Params, Shards
from tests import tiny

VOCAB = 24


class Trained(NamedTuple):
    """What of a model an objective's case needs; an LM has it too."""

    init: Callable[[Key], Params]
    axes: Any
    scores: Callable[[Params, Batch], Any]


def _itself(model: LM) -> LM:
    return model


class Case(NamedTuple):
    objective: Callable[[Any], Objective]  # of what `trained` makes of the tiny LM
    batch: Callable[[int], dict[str, np.ndarray]]  # rows -> a ragged batch
    positions: tuple[
        str, ...
    ]  # columns [B, T] or [B, N, T] whose content is free where nothing may depend on it
    free: Callable[[dict[str, np.ndarray]], np.ndarray]  # batch -> bool like them, where it is free
    arch: dict[str, Any] = {}  # noqa: RUF012  changes to the tiny Llama
    frozen: Any = ()
    like: str = ""  # the case that this one is a variant of
    trained: Callable[[LM], Any] = _itself
    lr: float = 1.0  # of the steps that the plans are compared by


def _packed(rows: int) -> dict[str, np.ndarray]:
    return tiny.batch(rows, 16, VOCAB)


def _with_entropy(rows: int) -> dict[str, np.ndarray]:
    made = _packed(rows)
    logp = -2.0 * made["mask"].sum(1)
    return {**made, "logp": logp.astype(np.float32), "has_logp": (made["row"] % 3 > 0).astype(np.float32)}


def _comparisons(rows: int, n: int = 2) -> dict[str, np.ndarray]:
    """Prompts with n completions of ragged lengths, every row's sequence whole with its last token."""
    rng, T = np.random.default_rng(5), 16
    prompt, place = rng.integers(2, 5, (rows, 1, 1)), np.arange(T)
    length = prompt[..., 0] + rng.integers(1, T - 5, (rows, n))
    tokens = rng.integers(0, VOCAB, (rows, n, T + 1)).astype(np.int32)
    mask = (place >= prompt - 1) & (place < length[..., None] - 1)
    return {
        "tokens": tokens[..., :-1],
        "targets": tokens[..., 1:],
        "mask": mask.astype(np.float32),
        "segments": (place < length[..., None]).astype(np.int32),
        "positions": np.broadcast_to(place, (rows, n, T)).astype(np.int32),
        "length": length.astype(np.int32),
        "row": np.arange(rows, dtype=np.int32),
    }


def _with_reference(rows: int) -> dict[str, np.ndarray]:
    made = _comparisons(rows)
    noise = np.random.default_rng(6).normal(size=(rows, 2))
    return {**made, "ref_logps": (-3.2 * made["mask"].sum(-1) + noise).astype(np.float32)}


def _own_pairs(rows: int) -> dict[str, np.ndarray]:
    """Pairs of a rollout, every fourth of which is undecided; one of each is from the reference model."""
    made = _with_reference(rows)
    made["mask"][3::4] = 0
    from_reference = np.eye(2, dtype=np.float32)[np.arange(rows) % 2]
    scores = np.random.default_rng(12).normal(size=(rows, 2)).astype(np.float32)
    return {**made, "from_reference": from_reference, "stats/objective/scores": scores}


def _unpaired(rows: int) -> dict[str, np.ndarray]:
    label = (np.arange(rows) % 3 > 0).astype(np.float32)
    return {**_with_reference(rows), "label": label, "kl": np.full(rows, 0.3, np.float32)}


def _ranked(rows: int) -> dict[str, np.ndarray]:
    """Three alternatives, of which a third of the rows lacks one, and soft labels on the pair of every fifth row."""
    made = _comparisons(rows, 3)
    rng = np.random.default_rng(8)
    rank = np.stack([rng.permutation(3) for _ in range(rows)]).astype(np.int32)
    absent = np.arange(rows) % 3 == 0
    rank[absent] = np.where(rank[absent] == 2, -1, rank[absent])
    made["length"] = np.where(rank < 0, 0, made["length"])
    made["segments"] = made["segments"] * (rank >= 0)[..., None]
    prefer = np.array(preference.pairs(rank))
    prefer[::5] = 0.8 * prefer[::5] + 0.2 * prefer[::5].swapaxes(1, 2)
    margin = rng.random(rows).astype(np.float32)
    weight = rng.integers(0, 3, (rows, 2)).astype(np.float32) + 0.25
    return {**made, "rank": rank, "prefer": prefer, "margin": margin, "weight": weight}


def _padding(batch: dict[str, np.ndarray]) -> np.ndarray:
    return batch["segments"] == 0


def _not_own(batch: dict[str, np.ndarray]) -> np.ndarray:
    """Padding, and all of the second alternative."""
    return (batch["segments"] == 0) | (np.arange(2) > 0)[:, None]


SETTINGS = preference.PreferenceSettings(
    beta=0.1,
    label_smoothing=0.0,
    divergence="reverse_kl",
    alpha=0.5,
    reference_free=False,
    length_penalty=0.0,
    nll_weight=0.0,
    summed=False,
    gamma=0.5,
    tau=0.05,
    desirable_weight=1.0,
    undesirable_weight=1.5,
)
COMPARED = ("tokens", "targets", "positions")


def _preferences(loss: str, **changes) -> Case:
    settings = SETTINGS._replace(**changes)
    return Case(
        lambda model: functools.partial(dpo, model=model, loss=loss, settings=settings),
        _with_reference,
        COMPARED,
        _padding,
        {"layers": 1},
        lr=0.1,
    )


def _scorer(model: LM) -> Trained:
    made = reward_models.build(model, 2)
    return Trained(lambda key: made.grow(model.init(key), key), made.axes, made.scores)


def _rewards(loss: str, centering: float) -> Case:
    return Case(
        lambda model: functools.partial(reward, scores=model.scores, loss=loss, centering=centering),
        _ranked,
        ("tokens", "positions"),
        _padding,
        {"layers": 1},
        trained=_scorer,
        lr=0.1,
    )


NUMBERS = ("old_logps", "ref_logps", "advantages", "old_values", "returns")


def _sampled(rows: int) -> dict[str, np.ndarray]:
    """Completions with what was known of their tokens; pretraining rows; every fifth completion is left out."""
    made = {name: x[:, 0] for name, x in _comparisons(rows, 1).items() if name not in ("row", "length")}
    rng = np.random.default_rng(10)
    made["mask"][4::5] = 0
    numbers = rng.normal(0, 0.3, (len(NUMBERS), *made["mask"].shape)).astype(np.float32)
    numbers[:2] -= 3.2  # about the log-probability of one of 24 tokens
    numbers[2:4] *= 3
    return {
        **made,
        **dict(zip(NUMBERS, numbers, strict=True)),
        "stats/objective/kl": rng.normal(size=rows).astype(np.float32),
        "entropy_coef": rng.uniform(0, 0.1, rows).astype(np.float32),
        **{f"ptx/{name}": x for name, x in tiny.batch(rows, 8, VOCAB, seed=3).items() if name != "bytes"},
        "ptx_scale": np.full(rows, 0.7, np.float32),
        "row": np.arange(rows, dtype=np.int32),
    }


class Critic(NamedTuple):
    """Policy and values of a model, as an objective's case trains them."""

    init: Callable[[Key], Params]
    axes: Any
    model: ActorCritic


def _critic(shared: bool, model: LM) -> Critic:
    """The head away from 0, where it would not teach the trunk."""
    made = value.build(model, shared)

    def init(key: Key) -> Params:
        params = made.grow(model.init(key), key)
        score = params["value"]["score"]
        score["weight"] = 0.3 * jax.random.normal(key, score["weight"].shape)
        return params

    return Critic(init, made.axes, made)


EVERYTHING = pg.PolicyGradientSettings(
    kl_weight=0.1, entropy_weight=0.02, temperature=0.8, value_weight=0.5, ptx_weight=0.5
)


def _ppo(shared: bool) -> Case:
    return Case(
        lambda critic: functools.partial(ppo, model=critic.model, settings=EVERYTHING),
        _sampled,
        ("tokens", "targets", "positions", *NUMBERS),
        _padding,
        {"layers": 1},
        trained=functools.partial(_critic, shared),
        lr=0.1,
    )


class Adapted(NamedTuple):
    """Adapters of a model, as an objective's case trains them."""

    init: Callable[[Key], Params]
    axes: Any
    model: LM


ADAPTERS = Lora(lora_rank=2, lora_alpha=2.0, dora=True)


def _drawn(shapes: Any) -> Any:
    rng = np.random.default_rng(9)
    return jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape).astype(x.dtype), shapes)


def _adapted(model: LM) -> Adapted:
    """All of them away from 0, where half of the gradient would be 0."""

    def init(key: Key) -> Params:
        start = lora.init(model.init(key), key, model.axes, ADAPTERS)
        return jax.tree.map(lambda x, moved: x + moved, start, _drawn(start))

    return Adapted(init, lora.adapter_axes(model.axes, ADAPTERS), model)


def _on_adapters(adapted: Adapted) -> Objective:
    def objective(params: Params, frozen: Params, batch: Batch, rng: Key | None) -> Any:
        base = jax.tree.map(jnp.asarray, frozen)
        whole = lora.merge(base, params, adapted.model.axes, ADAPTERS)
        return next_token(whole, (), batch, rng, model=adapted.model)

    return objective


def _taught(rows: int) -> dict[str, np.ndarray]:
    """Packed rows with what a teacher said of some of their targets: two tokens, one, or none."""
    made = _packed(rows)
    rng, shape = np.random.default_rng(11), made["targets"].shape
    ids = np.argsort(rng.random((*shape, VOCAB)), -1)[..., :2].astype(np.int32)
    told = rng.integers(0, 3, shape)[..., None]
    logps = np.log(rng.uniform(0.05, 0.45, ids.shape)).astype(np.float32)
    on_policy = (np.arange(rows) % 2).astype(np.float32)
    return {
        **made,
        "teacher_ids": np.where(np.arange(2) < told, ids, -1),
        "teacher_logps": logps,
        "on_policy": on_policy,
    }


def _from_teacher(model: LM) -> Objective:
    settings = Distilling("jsd", 0.3, 2.0, 0.25)

    def objective(params: Params, frozen: Params, batch: Batch, rng: Key | None) -> Any:
        says = jax.tree.map(jnp.asarray, frozen)
        return distill(params, says, batch, rng, model=model, teacher=model, settings=settings)

    return objective


EXPERTS = {
    "experts": 4, "experts_per_token": 2, "expert_ff": 16, "shared_experts": 1, "balance_weight": 0.05,
    "router_z_weight": 0.01,
}  # fmt: skip
SHAPES = jax.eval_shape(tiny.model(tiny.shrink("llama3.1-8b", layers=1, vocab=VOCAB)).init, jax.random.key(0))
CASES: dict[str, Case] = {
    "next_token": Case(
        lambda model: functools.partial(next_token, model=model, z_loss=1e-2),
        _packed,
        ("tokens", "targets", "positions"),
        _padding,
    ),
    "next_token_moe": Case(
        lambda model: functools.partial(next_token, model=model),
        _packed,
        ("tokens", "targets", "positions"),
        _padding,
        EXPERTS,
        like="next_token",
    ),
    "dpo_moe": _preferences("sigmoid")._replace(like="dpo", arch={"layers": 1, **EXPERTS}),
    "reward_moe": _rewards("logistic", 0.0)._replace(like="reward", arch={"layers": 1, **EXPERTS}),
    "next_token_entropy": Case(
        lambda model: functools.partial(next_token, model=model),
        _with_entropy,
        ("tokens", "targets"),
        _padding,
        like="next_token",
    ),
    "masked": Case(
        lambda model: functools.partial(next_token, model=model),
        _packed,
        ("tokens", "targets"),
        _padding,
        arch={"causal": False},
        like="next_token",
    ),
    "sft": Case(
        lambda model: functools.partial(
            sft, model=model, loss="dft", dft_power=0.5, label_smoothing=0.1, z_loss=1e-2
        ),
        _packed,
        ("tokens", "targets", "positions"),
        _padding,
        like="next_token",
    ),
    "reward": _rewards("logistic", 0.01),
    "reward_plackett_luce": _rewards("plackett_luce", 0.01)._replace(like="reward"),
    "dpo": _preferences("sigmoid", label_smoothing=0.1),
    "dpo_orpo": _preferences("orpo", nll_weight=1.0)._replace(like="dpo"),
    "kto": Case(
        lambda model: functools.partial(kto, model=model, settings=SETTINGS),
        _unpaired,
        COMPARED,
        _not_own,
        {"layers": 1},
        like="dpo",
        lr=0.1,
    ),
    "online_dpo": Case(
        lambda model: functools.partial(
            online_dpo, model=model, loss="ipo", settings=SETTINGS, temperature=0.8, exploration=0.01
        ),
        _own_pairs,
        COMPARED,
        _padding,
        {"layers": 1},
        like="dpo",
        lr=0.1,
    ),
    "ppo": _ppo(shared=False),
    "ppo_shared": _ppo(shared=True)._replace(like="ppo"),
    "policy_gradient": Case(
        lambda model: functools.partial(
            policy_gradient,
            model=model,
            settings=pg.PolicyGradientSettings(
                level="sequence", aggregate="sequence", kl_weight=0.1, kl="k2"
            ),
        ),
        _sampled,
        ("tokens", "targets", "positions", *NUMBERS),
        _padding,
        {"layers": 1},
        like="ppo",
        lr=0.1,
    ),
    "distill": Case(
        _from_teacher,
        _packed,
        ("tokens", "targets", "positions"),
        _padding,
        {"layers": 1},
        frozen=_drawn(SHAPES),
    ),
    "distill_top": Case(
        lambda model: functools.partial(
            distill, model=model, teacher=None, settings=Distilling("reverse_kl", hard_weight=0.25)
        ),
        _taught,
        ("tokens", "targets", "positions"),
        _padding,
        {"layers": 1},
        like="distill",
    ),
    "lora": Case(
        _on_adapters,
        _packed,
        ("tokens", "targets", "positions"),
        _padding,
        {"layers": 1},
        frozen=_drawn(SHAPES),
        like="next_token",
        trained=_adapted,
        lr=0.1,
    ),
}


def build(
    case: Case, dtype: Any = jnp.float32, local: Shards | None = None, matmul_dtype: str = "auto", **changes
) -> Any:
    """What the case's objective trains, tiny: an LM, or something on one, computed in `dtype`, on a plan's shards."""
    arch = tiny.shrink(
        "llama3.1-8b", **{"layers": 2, "vocab": VOCAB, "init_std": 0.1, **case.arch, **changes}
    )
    return case.trained(tiny.model(arch, dtype=dtype, local=local, matmul_dtype=matmul_dtype))
