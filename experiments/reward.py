"""A reward model, or an ensemble, from comparisons of completions; ends with its accuracy and calibration."""

import dataclasses

from jaxtrain import config, flags, stages


@dataclasses.dataclass(frozen=True)
class RewardLoss(config.Group):
    # fmt: off
    loss: str = config.arg("logistic", "Bradley-Terry, the hinge with --margin, or Plackett-Luce on rankings",
        choices=("logistic", "hinge", "plackett_luce"))
    margin: float = config.arg(0.0, "By how much the better score must win, where the record does not say", low=0,
        only=("loss", ("logistic", "hinge")))
    centering: float = config.arg(0.0, "Weight of (s_i + s_j)² (0.01 is usual)", low=0)
    ties: str = config.arg("half", "A tie counts half for each side, or is dropped; both are counted",
        choices=("half", "drop"))
    soft_labels: bool = config.arg(False, "Take p_win, the probability that chosen is better, where records have it")
    flat: bool = config.arg(False, "Weigh each pair of a ranking 1, not 1 / pairs",
        only=("loss", ("logistic", "hinge")))
    members: int = config.arg(1, "Reward models trained side by side, on bootstraps of the data", low=1)
    ensemble: str = config.arg("mean", "One score of several: mean, min, or mean - price * variance",
        choices=("mean", "min", "penalised"), live=True)
    price: float = config.arg(0.1, "Price of the members' variance", low=0, live=True,
        only=("ensemble", ("penalised",)))
    # fmt: on

    def check(self):
        if self.members == 1 and self.ensemble != "mean":
            raise config.ConfigError(f"--ensemble={self.ensemble}: acts only with --members above 1")


@dataclasses.dataclass(frozen=True)
class Reward:
    model: config.Model = config.group(config.Model)
    data: config.Dialogs = config.group(
        config.Dialogs, data="tinytown:preferences", seq_len=48, batch_size=32
    )
    loss: RewardLoss = config.group(RewardLoss)
    optim: config.Optim = config.group(config.Optim, lr=1e-3, warmup=20)
    lora: config.Lora = config.group(config.Lora)
    samples: config.Samples = config.group(config.Samples)
    run: config.Run = config.group(config.Run, steps=500, eval_every=0, eval_batches=0, sample_every=0)


def main(cfg: Reward) -> None:
    """Checks the flags, reads the comparisons, trains, normalises, and reports how well the scores agree."""
    if cfg.run.sample_every:
        raise config.ConfigError("--sample_every: a reward model generates nothing; leave it out")
    with stages.open(cfg, "reward", needed=True) as stage:
        # Imported here, so that a mistake in the flags is answered before jax is loaded.
        import functools

        from jaxtrain.data import preferences, special_text
        from jaxtrain.models import reward as models
        from jaxtrain.objectives.reward import reward
        from jaxtrain.stages import reward_model, trainer

        data = stage.prepare(
            preferences.prepare,
            kind="ranked",
            ties=cfg.loss.ties,
            flat=cfg.loss.flat,
            soft=cfg.loss.soft_labels,
            margin=cfg.loss.margin,
        )
        members = cfg.loss.members
        heads = functools.partial(models.build, members=members)
        session = stage.session(data.tokenizer, data.fingerprints, heads=heads)
        session = session._replace(extra=reward_model.identity_normalisation(members))
        objective = functools.partial(
            reward, scores=session.heads.scores, loss=cfg.loss.loss, centering=cfg.loss.centering
        )
        training = trainer.Stage(
            objective=objective,
            next_batch=reward_model.ensemble_batches(data.train, members, cfg.run.seed),
            table=data.table,
            decode=special_text.marked_decoder(data.tokenizer),
            tokens=data.rows[0]["tokens"].size * cfg.data.batch_size * members,
            score=reward_model.evaluator(cfg, session, data),
            finish=reward_model.normaliser(cfg, session, stage.template),
        )
        trainer.train(cfg, session, training)


if __name__ == "__main__":
    flags.launch(Reward, main, "./launch/run reward")
