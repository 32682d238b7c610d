"""GRPO and its kin: policy gradients from groups of completions, without a value function."""

import dataclasses
from typing import Any

from jaxtrain import config, flags, stages
from jaxtrain.rl.config import Episodes, PolicyLoss, RolloutSampler, Watch

# What an algorithm is defined with; a flag that is given goes before it.
#   baseline  of a completion's score: its group's mean, that of the others or of the batch, or none (returns by token)
#   scale     its group's standard deviation, the batch's, or none
#   aggregate a loss is the mean over tokens, over completions' means, or a sum over completions / --max_new
USUAL = {
    "grpo": {"kl_weight": 0.04},  # arXiv:2402.03300
    "rloo": {"baseline": "others", "scale": "none", "surrogate": "none", "kl_coef": 0.05},  # arXiv:2402.14740
    "gdpo": {"multi_objective_aggregation": "normalize_then_sum"},  # arXiv:2601.05242
    "dr_grpo": {"scale": "none", "aggregate": "fixed"},  # arXiv:2503.20783
    "dapo": {
        "aggregate": "token",
        "clip_ratio_high": 0.28,
    },  # arXiv:2503.14476, with --truncated=mask and --resample
    "gspo": {"level": "sequence", "clip_ratio": 3e-4, "clip_ratio_high": 4e-4},  # arXiv:2507.18071
    "cispo": {"surrogate": "cispo", "aggregate": "token", "clip_ratio_high": 5.0},  # arXiv:2506.13585
    "reinforce++": {
        "baseline": "none",
        "scale": "none",
        "aggregate": "token",
        "kl_coef": 0.01,
    },  # arXiv:2501.03262
}
COMMON = {
    "baseline": "mean", "scale": "std", "aggregate": "sequence", "surrogate": "clip", "level": "token",
    "clip_ratio": 0.2, "clip_ratio_high": 0.0, "kl_weight": 0.0, "kl_coef": 0.0,
    "multi_objective_aggregation": "sum_then_normalize",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class GrpoLoss(PolicyLoss):
    # fmt: off
    algorithm: str = config.arg("grpo", "What the following flags are where they are not given", choices=tuple(USUAL))
    baseline: str = config.arg("auto", "Taken off a score: its group's mean, that of the others in it, or of all other "
        "scores of the rollout, or nothing", choices=("auto", "mean", "others", "batch", "none"))
    scale: str = config.arg("auto", "What that is divided by: the group's standard deviation (Bessel's or the "
        "population's), the batch's, or nothing", choices=("auto", "std", "population", "batch", "none"))
    multi_objective_aggregation: str = config.arg("auto", "Several rewards are added, then compared in their group, or "
        "each is normalised in its group before, and the sum over the batch (GDPO)",
        choices=("auto", "sum_then_normalize", "normalize_then_sum"))
    surrogate: str = config.arg("auto", "Clipped ratio, CISPO's clipped weight, or the ratio as it is",
        choices=("auto", "clip", "cispo", "none"))
    level: str = config.arg("auto", "Whose ratio it is: a token's, or a completion's mean (GSPO)",
        choices=("auto", "token", "sequence"))
    aggregate: str = config.arg("auto",
        "The loss is a mean over tokens, over completions' means, or over completions of sums / --max_new",
        choices=("auto", "token", "sequence", "fixed"))
    clip_ratio: float = config.arg(0.0, "The ratio's clip, 1 ± this; 0: the algorithm's, 0.2", low=0)
    clip_ratio_high: float = config.arg(0.0, "Its upper side, if another; 0: the algorithm's, --clip_ratio", low=0)
    kl_weight: float = config.arg(-1.0, "Weight of the KL to the reference in the loss; -1: the algorithm's", low=-1)
    kl: str = config.arg("k3", "Its estimate, with the importance ratio", choices=("k2", "k3"))
    kl_coef: float = config.arg(-1.0, "Price of a nat of KL in the reward; -1: the algorithm's", low=-1)
    # fmt: on

    def first_kl_coef(self) -> float:
        return self.resolved()["kl_coef"]

    def resolved(self) -> dict:
        """The flags with the algorithm's values where they are not given."""
        left = {"clip_ratio": 0.0, "clip_ratio_high": 0.0, "kl_weight": -1.0, "kl_coef": -1.0}
        defaults = COMMON | USUAL[self.algorithm]
        given = {name: getattr(self, name) for name in defaults}
        return defaults | {name: x for name, x in given.items() if x != left.get(name, "auto")}


@dataclasses.dataclass(frozen=True)
class Grpo:
    model: config.Model = config.group(config.Model)
    data: config.Dialogs = config.group(config.Dialogs, data="tinytown:prompts", seq_len=48, batch_size=64)
    scores: config.Scores = config.group(config.Scores)
    watch: Watch = config.group(Watch)
    episodes: Episodes = config.group(Episodes)
    sampler: RolloutSampler = config.group(RolloutSampler)
    loss: GrpoLoss = config.group(GrpoLoss)
    samples: config.Rollouts = config.group(config.Rollouts, group=8, minibatches=2)
    optim: config.Optim = config.group(config.Optim, lr=1.5e-4, schedule="linear", warmup=4, weight_decay=0.0)
    lora: config.Lora = config.group(config.Lora)
    run: config.Run = config.group(config.Run, steps=128, eval_every=20, sample_every=0, log_every=4)

    def settings(self) -> Any:
        """The objective's settings. Raises ConfigError where one would do nothing."""
        from jaxtrain.rl import on_policy

        loss = self.loss.resolved()
        return on_policy.settings(
            self, critic=False, clip_low=loss["clip_ratio"] if loss["surrogate"] == "clip" else 0.2,
            clip_high=(loss["clip_ratio_high"] or loss["clip_ratio"]) if loss["surrogate"] != "none" else 0.2,
            surrogate=loss["surrogate"], level=loss["level"], aggregate=loss["aggregate"],
            limit=self.samples.max_new if loss["aggregate"] == "fixed" else 0,
            kl_weight=loss["kl_weight"], kl=self.loss.kl, entropy_weight=self.loss.entropy_coef,
        )  # fmt: skip


def main(cfg: Grpo) -> None:
    """Checks the flags, loads policy and reference, and trains on groups of completions."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    from jaxtrain.rl import watched_reward
    from jaxtrain.stages import init_from

    cfg = watched_reward.checked(cfg)
    start = init_from.resolve(cfg, needed=True)

    import functools

    from jaxtrain.inference import rollout_endpoint
    from jaxtrain.objectives.policy_gradient import policy_gradient
    from jaxtrain.rl import advantages, decoupled_rewards, kl_control, on_policy, samplers, scoring, stop_kl
    from jaxtrain.rl.entropy_control import EntropyControl

    on_policy.check(cfg, start.tokenizer)
    loss = cfg.loss.resolved()
    if loss["baseline"] not in ("none", "batch") and cfg.samples.group < 2:
        raise config.ConfigError(
            f"--group={cfg.samples.group}: a score has no group to be compared with; use 2 or more"
        )
    settings, compare, wrap = cfg.settings(), advantages.group_advantages, None
    if loss["multi_objective_aggregation"] == "normalize_then_sum":
        compare, wrap = decoupled_rewards.advantages_of(cfg)
    with stages.open(cfg, "grpo", start=start) as stage:
        template = stage.template
        scorer, _ = scoring.open_scorer(cfg, cfg.scores, stage.plan, stage.path)
        session = stage.session(template.tokenizer, on_policy.fingerprints(cfg, template))
        session = session._replace(extra=stop_kl.first_extra(cfg))
        how = advantages.AdvantageConfig(
            group=cfg.samples.group, baseline=loss["baseline"], scale=loss["scale"]
        )
        training = on_policy.stage(
            cfg, session, template, functools.partial(policy_gradient, model=session.model, settings=settings),
            functools.partial(compare, how=how), scorer, entropy=EntropyControl.of(cfg.loss),
            controller=kl_control.KlController(loss["kl_coef"], cfg.loss.kl_target, cfg.loss.kl_horizon),
            priced=bool(loss["kl_coef"] or loss["kl_weight"]), sampler=samplers.sampler_of(cfg, template, wrap),
            **rollout_endpoint.requests_of(cfg),
        )  # fmt: skip
        on_policy.train(cfg, session, training)


if __name__ == "__main__":
    flags.launch(Grpo, main, "./launch/run grpo")
