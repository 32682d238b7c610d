"""Supervised fine-tuning on dialogs; ends with held-out loss and answers to held-out prompts."""

import dataclasses

from jaxtrain import config, flags, stages


@dataclasses.dataclass(frozen=True)
class SftLoss(config.Group):
    # fmt: off
    loss: str = config.arg("nll", "Cross-entropy, or dynamic fine-tuning, which weighs each token by its probability",
        choices=("nll", "dft"))
    dft_power: float = config.arg(1.0, "Power of that probability, 0 to 1: the model's answers are then those of the "
        "data at a temperature of 1 less it", low=0, only=("loss", ("dft",)))
    label_smoothing: float = config.arg(0.0, "Share of the target that is spread over the vocabulary", low=0)
    neftune: float = config.arg(0.0, "α of the uniform noise on the embeddings (NEFTune; 5 is usual)", low=0)
    z_loss: float = config.arg(0.0, "Weight of the square of the logits' log-normaliser (1e-4 is usual)", low=0)
    # fmt: on

    def check(self):
        if self.label_smoothing >= 1:
            raise config.ConfigError(f"--label_smoothing={self.label_smoothing}: must be below 1")
        if self.dft_power > 1:
            raise config.ConfigError(f"--dft_power={self.dft_power}: must be at most 1")


@dataclasses.dataclass(frozen=True)
class Sft:
    model: config.Model = config.group(config.Model)
    data: config.Dialogs = config.group(config.Dialogs, batch_size=16)
    loss: SftLoss = config.group(SftLoss)
    optim: config.Optim = config.group(config.Optim, lr=2e-3, warmup=20)
    lora: config.Lora = config.group(config.Lora)
    samples: config.Samples = config.group(config.Samples)
    run: config.Run = config.group(config.Run, steps=500, eval_every=250, sample_every=0)


def main(cfg: Sft) -> None:
    """Checks the flags, reads the dialogs, trains, and ends with held-out numbers and answers."""
    with stages.open(cfg, "sft", needed=True) as stage:
        # Imported here, so that a mistake in the flags is answered before jax is loaded.
        import functools

        from jaxtrain.data import dialogs, special_text
        from jaxtrain.objectives.sft import sft
        from jaxtrain.stages import eval_prompts, offline, run_turns, trainer

        data = stage.prepare(dialogs.prepare)
        session = stage.session(data.tokenizer, data.fingerprints, noise=cfg.loss.neftune)
        run_turns.record(session, data.single_turn)
        loss = cfg.loss
        objective = functools.partial(sft, model=session.model, loss=loss.loss, dft_power=loss.dft_power,
                                      label_smoothing=loss.label_smoothing, z_loss=loss.z_loss)  # fmt: skip
        sample = eval_prompts.eval_sampler(
            session, cfg, stage.template, data.tokenizer.decode_completion, required=False
        )
        training = trainer.Stage(
            objective=objective,
            next_batch=offline.OfflineBatches(data.train.iterate),
            table=[*data.table, *eval_prompts.about(sample)],
            decode=special_text.marked_decoder(data.tokenizer),
            tokens=cfg.data.batch_size * cfg.data.seq_len,
            score=trainer.evaluate_fn(session, objective, data.eval, cfg.run.eval_batches),
            sample=sample,
        )
        trainer.train(cfg, session, training)


if __name__ == "__main__":
    flags.launch(Sft, main, "./launch/run sft")
