"""Online DPO and XPO: a preference loss on pairs of completions of the policy, which a reward compares."""

import dataclasses
from typing import Any

from jaxtrain import config, flags, stages
from jaxtrain.rl.config import Episodes, RolloutSampler, Watch

LOSSES = (
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "sppo_hard", "apo_zero", "apo_down", "discopop",
    "sigmoid_norm",
)  # fmt: skip
ALONE = {"divergence": "reverse_kl", "alpha": 0.5, "reference_free": False, "length_penalty": 0.0, "nll_weight": 0.0,
    "summed": False, "gamma": 1.0, "tau": 0.05, "desirable_weight": 1.0, "undesirable_weight": 1.0}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OnlineDpoLoss(config.Group):
    # fmt: off
    loss: str = config.arg("sigmoid", "Loss on a pair (ops/preference.py has the formulas)", choices=LOSSES)
    beta: float = config.arg(0.1, "Strength of the pull to the reference model", low=1e-6)
    label_smoothing: float = config.arg(0.0, "Probability that a label is flipped (sigmoid, robust, exo_pair)", low=0,
        only=("loss", ("sigmoid", "robust", "exo_pair")))
    xpo_alpha: float = config.arg(0.0,
        "XPO: weight of the log-probability of a completion that the reference model samples in place of the last of "
        "each group, which becomes less likely; 0: online DPO", low=0)
    # fmt: on

    def settings(self) -> Any:
        """The flags as ops/preference.py's settings. Raises ConfigError where they are not legal."""
        from jaxtrain.ops import preference

        smoothing = self.label_smoothing or (1e-3 if self.loss == "exo_pair" else 0.0)
        settings = preference.PreferenceSettings(beta=self.beta, label_smoothing=smoothing, **ALONE)
        try:
            preference.check(self.loss, settings)
        except ValueError as error:
            raise config.ConfigError(f"--{error}") from error
        return settings


@dataclasses.dataclass(frozen=True)
class OnlineDpo:
    model: config.Model = config.group(config.Model)
    data: config.Dialogs = config.group(config.Dialogs, data="tinytown:prompts", seq_len=48, batch_size=64)
    scores: config.Scores = config.group(config.Scores)
    watch: Watch = config.group(Watch)
    episodes: Episodes = config.group(Episodes)
    sampler: RolloutSampler = config.group(RolloutSampler)
    loss: OnlineDpoLoss = config.group(OnlineDpoLoss)
    samples: config.Rollouts = config.group(config.Rollouts, group=2)
    optim: config.Optim = config.group(config.Optim, lr=1e-4, schedule="linear", warmup=4, weight_decay=0.0)
    lora: config.Lora = config.group(config.Lora)
    run: config.Run = config.group(config.Run, steps=128, eval_every=20, sample_every=0, log_every=4)


def require_pairs(cfg: OnlineDpo) -> None:
    """Raises ConfigError for flags of other on-policy stages that have no meaning for pairs."""
    s = cfg.samples
    if s.group < 2 or cfg.data.batch_size % s.group:
        raise config.ConfigError(
            f"--group={s.group}: pairs are the best and the worst of a group: use 2 or more, and a divisor of "
            f"--batch_size={cfg.data.batch_size}"
        )
    if s.stop_kl:
        raise config.ConfigError(f"--stop_kl={s.stop_kl}: a preference loss has no ratio; leave it out")
    if cfg.sampler.corrects():
        raise config.ConfigError(
            "--is_cap, --is_mask: a preference loss has no importance weights; leave them out"
        )
    if cfg.loss.xpo_alpha and cfg.episodes.env:
        raise config.ConfigError(
            "--xpo_alpha: the reference model samples single completions; leave --env out"
        )
    if cfg.loss.xpo_alpha and cfg.sampler.rollout_endpoint:
        raise config.ConfigError("--xpo_alpha: a server has no reference model; leave --rollout_endpoint out")
    if cfg.loss.xpo_alpha and s.group != 2:
        raise config.ConfigError("--xpo_alpha: a completion of each model is a pair: use --group=2")


def main(cfg: OnlineDpo) -> None:
    """Checks the flags, loads policy and reference, and trains on pairs of completions."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    from jaxtrain.rl import watched_reward
    from jaxtrain.stages import init_from

    require_pairs(cfg)
    cfg = watched_reward.checked(cfg)
    start = init_from.resolve(cfg, needed=True)

    import functools

    from jaxtrain.inference import rollout_endpoint
    from jaxtrain.objectives.online_dpo import online_dpo
    from jaxtrain.rl import kl_control, on_policy, pairs, request_samplers, scoring
    from jaxtrain.stages.reference import expected
    from jaxtrain.stages.session import reference_params

    on_policy.check(cfg, start.tokenizer)
    settings, loss, group = cfg.loss.settings(), cfg.loss, cfg.samples.group
    references = int(loss.xpo_alpha > 0)
    with stages.open(cfg, "online_dpo", start=start) as stage:
        template = stage.template
        stage.plan.check_batch(cfg.data.batch_size // group, cfg.optim.microbatches)
        scorer, _ = scoring.open_scorer(cfg, cfg.scores, stage.plan, stage.path)
        session = stage.session(template.tokenizer, on_policy.fingerprints(cfg, template))
        objective = functools.partial(
            online_dpo, model=session.model, loss=loss.loss, settings=settings, temperature=cfg.samples.temperature,
            exploration=loss.xpo_alpha,
        )  # fmt: skip
        requests = rollout_endpoint.requests_of(cfg)
        if references:
            reference = functools.partial(reference_params, session, cfg.run.seed)
            requests = {
                "requests": pairs.with_reference_samples(
                    reference, references, request_samplers.maker_of(cfg)
                )
            }
        training = on_policy.stage(
            cfg, session, template, objective, functools.partial(pairs.scores_of, group=group), scorer,
            controller=kl_control.KlController(0.0), priced=True,
            arrange=functools.partial(pairs.paired, group=group, references=references), **requests,
        )  # fmt: skip
        # The log-ratios of the first update are 0; with exploration the loss has another term.
        first = {
            name: x for name, x in expected(loss.loss, settings).items() if name != "loss" or not references
        }
        on_policy.train(cfg, session, training._replace(expect=first))


if __name__ == "__main__":
    flags.launch(OnlineDpo, main, "./launch/run online_dpo")
