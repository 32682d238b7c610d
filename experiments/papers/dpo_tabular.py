"""DPO on enumerable answers: the policy it ends at against the optimum of KL-regularised RL, which has a formula."""

import dataclasses
from typing import Any

from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed

PAPER = Paper(
    name="dpo_tabular",
    title="DPO's optimum on enumerable answers",
    source="Rafailov et al. 2023, arXiv:2305.18290",
    figure="section 4, equations 4 and 7",
    claim="Minimising DPO's loss on Bradley-Terry preferences finds the policy that maximises reward less β KL.",
    published="a derivation, without numbers",
    measured="8 prompts with 16 answers each, random rewards and reference, a softmax policy of one logit an answer, "
    "the exact preference probabilities as soft labels, β .1, .5 and 1.",
    criterion="Total variation between the policy and ref · exp(r/β)/Z below .02 on every prompt; reward less β KL "
    "within 1 % of its maximum β log Z.",
)
BETAS = (0.1, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class TabularFlags(config.Group):
    # fmt: off
    prompts: int = config.arg(8, "Prompts, each with its own rewards and reference policy", low=1)
    answers: int = config.arg(16, "Answers of a prompt", low=2)
    steps: int = config.arg(4_000, "Steps of gradient descent on all pairs at once", low=1)
    lr: float = config.arg(0.05, "Adam's peak learning rate, which falls to 0 as a cosine", low=0)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class DpoTabular:
    trial: PaperTrial = config.group(PaperTrial)
    table: TabularFlags = config.group(TabularFlags)


def measure(cfg: DpoTabular, runs: Any) -> Result:
    """By β: the largest total variation over prompts, and the objective with its maximum, means over prompts."""
    import numpy as np

    table = cfg.table
    rng = np.random.default_rng(runs.seed)
    reward = rng.normal(size=(table.prompts, table.answers))
    ref = rng.normal(size=reward.shape)
    ref -= np.log(np.exp(ref).sum(-1, keepdims=True))  # log-probabilities
    found = {}
    for beta in BETAS:
        tilted = ref + reward / beta
        log_z = np.log(np.exp(tilted).sum(-1))
        optimum = tilted - log_z[:, None]
        policy = np.asarray(dpo_policy(table, reward, ref, beta), np.float64)
        p = np.exp(policy)
        objective = (p * (reward - beta * (policy - ref))).sum(-1)
        found[str(beta)] = {
            "total_variation": float(np.abs(p - np.exp(optimum)).sum(-1).max() / 2),
            "objective": float(objective.mean()),
            "maximum": float((beta * log_z).mean()),
            "off": float((np.abs(objective / (beta * log_z) - 1)).max()),
            "policy": p[0].tolist(),
            "optimum": np.exp(optimum[0]).tolist(),
        }
    return {"beta": found}


def dpo_policy(table: TabularFlags, reward: Any, ref: Any, beta: float) -> Any:
    """f32[prompts, answers]: log-probabilities of the policy that DPO's loss of ops/preference.py is minimised at."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from experiments.dpo import DpoLoss
    from jaxtrain.ops import preference

    settings = DpoLoss(beta=beta).settings()
    first, second = np.triu_indices(table.answers, 1)
    ref = jnp.asarray(ref, jnp.float32)
    wins = jax.nn.sigmoid(jnp.asarray(reward[:, first] - reward[:, second], jnp.float32)).reshape(-1)

    def loss(logits):
        h = jax.nn.log_softmax(logits) - ref
        ratios = jnp.stack([h[:, first], h[:, second]], -1).reshape(-1, 2)
        pair = preference.PairLogps(ratios, ratios, jnp.ones_like(ratios), None, None, None, None)
        one = preference.sigmoid_loss(pair, settings)
        other = preference.sigmoid_loss(preference.swapped(pair), settings)
        return (wins * one + (1 - wins) * other).mean()

    tx = optax.adam(optax.cosine_decay_schedule(table.lr / beta**0.5, table.steps))

    def step(carry, _):
        logits, state = carry
        updates, state = tx.update(jax.grad(loss)(logits), state)
        return (optax.apply_updates(logits, updates), state), None

    (logits, _), _ = jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), length=table.steps))(ref)
    return jax.nn.log_softmax(logits)


def judge(cfg: DpoTabular, results: list[Result]) -> list[Check]:
    """The two parts of the criterion, on every seed."""
    near = [max(one["total_variation"] for one in result["beta"].values()) for result in results]
    off = [max(one["off"] for one in result["beta"].values()) for result in results]
    return [
        by_seed("total variation below .02", near, lambda x: (x < 0.02, f"{x:.7f}")),
        by_seed("objective within 1 % of β log Z", off, lambda x: (x < 0.01, f"{100 * x:.5f} %")),
    ]


def draw(cfg: DpoTabular, results: list[Result], figure: Any) -> None:
    """Each answer's probability under the policy over that under the optimum, on the first prompt of every seed."""
    axes = figure.subplots()
    axes.axline((0, 0), slope=1, linewidth=1, linestyle="--", color="grey", label="equal")
    for beta, marker in zip(BETAS, "os^", strict=True):
        of_beta = [result["beta"][str(beta)] for result in results]
        x = [value for one in of_beta for value in one["optimum"]]
        y = [value for one in of_beta for value in one["policy"]]
        axes.plot(x, y, marker, label=f"β = {beta:g}", alpha=0.8)
    axes.set(xlabel="probability of an answer, ref · exp(r/β) / Z", ylabel="probability after DPO")
    axes.set_title("Policies of DPO and the closed form (first prompt of each seed)")
    axes.legend()


def main(cfg: DpoTabular) -> None:
    """Fits a table of logits by DPO's loss and compares it with the formula."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(DpoTabular, main, "./launch/run papers.dpo_tabular")
