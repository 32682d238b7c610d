"""Proximal policy optimisation with a price on the KL from the reference: RLHF's last step."""

import dataclasses
from typing import Any

from jaxtrain import config, flags, stages
from jaxtrain.data import source_spec
from jaxtrain.rl.config import Episodes, PolicyLoss, RolloutSampler, StepScores, Watch


@dataclasses.dataclass(frozen=True)
class PpoLoss(PolicyLoss):
    # fmt: off
    kl_coef: float = config.arg(0.12, "Price of a nat of KL from the reference, taken off the reward token by token",
        low=0)
    gamma: float = config.arg(1.0, "Discount a token (GAE)", low=0)
    lam: float = config.arg(0.95, "λ of GAE", low=0)
    bootstrap: bool = config.arg(False, "A completion cut off at --max_new goes on with the value of its last state")
    whiten_rewards: bool = config.arg(False, "Divide the rewards of a rollout by their standard deviation")
    whiten_advantages: bool = config.arg(True, "Give the advantages of a rollout mean 0 and standard deviation 1")
    clip_ratio: float = config.arg(0.2, "The ratio's clip, 1 ± this", low=0.001)
    value_clip: float = config.arg(0.2, "Values move by this much from the rollout's; 0: freely", low=0)
    value_coef: float = config.arg(0.1, "Weight of the value loss", low=0)
    value: str = config.arg("auto",
        "Values have a trunk of their own, which starts as the reward model's or the policy's, or are a head on the "
        "policy. auto: reward where there is a reward model, else policy", choices=("auto", "reward", "policy", "head"))
    value_lr: float = config.arg(5e-4, "Peak learning rate of values with a trunk of their own; 0: --lr", low=0)
    ptx_weight: float = config.arg(-1.0,
        "Weight of the pretraining loss in the same update (PPO-ptx). -1: 0.1 where --data is Tinytown's, else 0",
        low=-1)
    ptx_data: str = config.arg("tinytown:pretrain", "Data of that loss: texts or conversations", remote=True)
    # fmt: on

    def check(self):
        super().check()
        if self.value == "head" and self.value_lr != type(self).value_lr:
            raise config.ConfigError("--value_lr: --value=head shares the policy's trunk; leave it out")
        for name in ("gamma", "lam"):
            if getattr(self, name) > 1:
                raise config.ConfigError(f"--{name}={getattr(self, name)}: at most 1")

    def first_kl_coef(self) -> float:
        return self.kl_coef

    def pretraining(self, data: str) -> float:
        """The pretraining loss's weight beside prompts of `data`. Raises ConfigError for --ptx_data without one."""
        town = all(source.kind == "tinytown" for source in source_spec.parse(data))
        weight = self.ptx_weight if self.ptx_weight >= 0 else 0.1 * town
        if not weight:
            config.require_default(self, "acts only with --ptx_weight above 0, and it is 0", ["ptx_data"])
        return weight

    def value_from(self, scored: bool) -> str:
        """Where the values start; `scored`: there is a reward model."""
        if self.value == "reward" and not scored:
            raise config.ConfigError("--value=reward: there is no --reward_model to start the values from")
        return self.value if self.value != "auto" else ("reward" if scored else "policy")


@dataclasses.dataclass(frozen=True)
class Ppo:
    model: config.Model = config.group(config.Model)
    data: config.Dialogs = config.group(config.Dialogs, data="tinytown:prompts", seq_len=48, batch_size=64)
    scores: config.Scores = config.group(config.Scores)
    watch: Watch = config.group(Watch)
    episodes: Episodes = config.group(Episodes)
    sampler: RolloutSampler = config.group(RolloutSampler)
    steps: StepScores = config.group(StepScores)
    loss: PpoLoss = config.group(PpoLoss)
    samples: config.Rollouts = config.group(config.Rollouts, minibatches=2, epochs=2)
    optim: config.Optim = config.group(
        config.Optim, lr=1.5e-4, schedule="linear", warmup=4, weight_decay=0.0, ema=0.95
    )
    lora: config.Lora = config.group(config.Lora)
    run: config.Run = config.group(config.Run, steps=160, eval_every=20, sample_every=0, log_every=4)

    def settings(self, ptx_weight: float) -> Any:
        """The objective's settings. Raises ConfigError where one would do nothing."""
        from jaxtrain.rl import on_policy

        loss = self.loss
        return on_policy.settings(
            self, critic=True, clip_low=loss.clip_ratio, clip_high=loss.clip_ratio, entropy_weight=loss.entropy_coef,
            value_weight=loss.value_coef, value_clip=loss.value_clip, ptx_weight=ptx_weight,
        )  # fmt: skip


def main(cfg: Ppo) -> None:
    """Checks the flags, loads policy, reference and reward model, and trains on rollouts."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    from jaxtrain.rl import watched_reward
    from jaxtrain.stages import init_from

    cfg, weight = watched_reward.checked(cfg), cfg.loss.pretraining(cfg.data.data)
    start = init_from.resolve(cfg, needed=True)

    import functools

    from jaxtrain.inference import rollout_endpoint
    from jaxtrain.models import value
    from jaxtrain.objectives.ppo import ppo
    from jaxtrain.rl import advantages, kl_control, on_policy, ptx, samplers, scoring, step_scores, stop_kl
    from jaxtrain.rl.entropy_control import EntropyControl

    on_policy.check(cfg, start.tokenizer)
    with stages.open(cfg, "ppo", start=start) as stage:
        template, loss = stage.template, cfg.loss
        scorer, reward_model = scoring.open_scorer(cfg, cfg.scores, stage.plan, stage.path)
        kind = loss.value_from(reward_model is not None)
        rate = loss.value_lr / cfg.optim.lr if loss.value_lr and kind != "head" else 1.0
        session = stage.session(
            template.tokenizer, on_policy.fingerprints(cfg, template),
            heads=functools.partial(value.build, shared=kind == "head"),
            given=lambda: (reward_model.member(),) if kind == "reward" else (),
            rates={"value": rate},
        )._replace(extra=stop_kl.first_extra(cfg))  # fmt: skip
        settings = cfg.settings(weight)
        how = advantages.AdvantageConfig(
            gamma=loss.gamma, lam=loss.lam, bootstrap=loss.bootstrap, whiten_rewards=loss.whiten_rewards,
            whiten_advantages=loss.whiten_advantages,
        )  # fmt: skip
        extra, table = ptx.ptx_columns(cfg, session, template, weight, loss.ptx_data)
        training = on_policy.stage(
            cfg, session, template, functools.partial(ppo, model=session.heads, settings=settings),
            functools.partial(advantages.gae_advantages, how=how), scorer,
            controller=kl_control.KlController(loss.kl_coef, loss.kl_target, loss.kl_horizon),
            priced=loss.kl_coef > 0, extra=extra, table=table, entropy=EntropyControl.of(loss),
            sampler=samplers.sampler_of(cfg, template, step_scores.wrapper_of(cfg, template)),
            **rollout_endpoint.requests_of(cfg),
        )  # fmt: skip
        on_policy.train(cfg, session, training)


if __name__ == "__main__":
    flags.launch(Ppo, main, "./launch/run ppo")
