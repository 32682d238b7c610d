"""Pretraining: next-token prediction on text (or masked tokens, or fill-in-the-middle)."""

import dataclasses

from jaxtrain import config, flags, stages
from jaxtrain.models.config import Depth


@dataclasses.dataclass(frozen=True)
class PretrainLoss(config.Group):
    z_loss: float = config.arg(
        0.0, "Weight of the square of the logits' log-normaliser (1e-4 is usual)", low=0
    )


@dataclasses.dataclass(frozen=True)
class Pretrain:
    model: config.Model = config.group(config.Model)
    data: config.Corpus = config.group(config.Corpus)
    loss: PretrainLoss = config.group(PretrainLoss)
    optim: config.Optim = config.group(config.Optim)
    lora: config.Lora = config.group(config.Lora)
    depth: Depth = config.group(Depth)
    run: config.Run = config.group(config.Run)


def main(cfg: Pretrain) -> None:
    """Checks the flags, prepares the data, trains, and ends with held-out numbers and samples."""
    causal = cfg.data.objective != "masked"
    with stages.open(cfg, "pretrain", causal=causal) as stage:
        # Imported here, so that a mistake in the flags is answered before jax is loaded.
        import functools

        from jaxtrain.data import pipeline, special_text, streaming
        from jaxtrain.objectives.next_token import next_token
        from jaxtrain.stages import offline, sampling, source_evaluation, trainer

        data = stage.prepare(streaming.prepare if cfg.data.streaming else pipeline.prepare)
        session = cfg.depth.session(stage, data)
        prompts = sampling.pretraining_prompts(stage.plan, data.eval.batch(0)) if causal else []
        objective = functools.partial(next_token, model=session.model, z_loss=cfg.loss.z_loss)
        samples = (
            sampling.continuations(session, data.tokenizer, prompts, 48, cfg.run.seed) if causal else None
        )
        training = trainer.Stage(
            objective=objective,
            next_batch=offline.OfflineBatches(data.train.iterate),
            table=data.table,
            decode=special_text.marked_decoder(data.tokenizer),
            tokens=cfg.data.batch_size * cfg.data.seq_len,
            score=source_evaluation.evaluate_fn(session, objective, data, cfg.run.eval_batches),
            sample=samples,
        )
        trainer.train(cfg, session, training)


if __name__ == "__main__":
    flags.launch(Pretrain, main, "./launch/run pretrain")
