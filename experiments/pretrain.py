"""Pretraining: next-token prediction on text (or masked tokens, or fill-in-the-middle)."""

import dataclasses

from jaxtrain import config


@dataclasses.dataclass(frozen=True)
class Loss(config.Group):
    z_loss: float = config.arg(
        0.0, "Weight of the square of the logits' log-normaliser (1e-4 is usual)", low=0
    )


@dataclasses.dataclass(frozen=True)
class Pretrain:
    model: config.Model = config.group(config.Model)
    data: config.Data = config.group(config.Data)
    loss: Loss = config.group(Loss)
    optim: config.Optim = config.group(config.Optim)
    run: config.Run = config.group(config.Run)


def main(cfg: Pretrain) -> None:
    """Checks the flags, prepares the data, trains, and ends with held-out numbers and samples."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    from jaxtrain.data import spec
    from jaxtrain.models import zoo

    arch = zoo.resolve(cfg.model.model)
    if arch.max_len and cfg.data.seq_len > arch.max_len and not cfg.model.init_from:
        raise config.ConfigError(
            f"--seq_len={cfg.data.seq_len}: the context of {cfg.model.model} is {arch.max_len}"
        )
    spec.check(cfg.data)

    import functools

    from experiments import common
    from jaxtrain.data import pipeline
    from jaxtrain.objectives.next_token import next_token
    from jaxtrain.train import parallel, workdir

    parallel.initialize()
    begin, plan = common.start(cfg.model), common.plan_of(cfg)
    folder = config.workdir(cfg, "pretrain")
    with workdir.open_workdir(
        folder, cfg, "pretrain", lineage=begin.lineage, primary=plan.process[0] == 0
    ) as path:
        data = pipeline.prepare(cfg.data, seed=cfg.run.seed, tokenizer=begin.tokenizer, process=plan.process)
        workdir.record_data(path, data.fingerprints)
        causal = cfg.data.objective != "masked"
        run = common.session(cfg, path, plan, begin, data.tokenizer, causal=causal)
        prompts = [list(tokens[:16]) for tokens in data.eval.batch(0)["tokens"]][:8] if causal else []
        common.train(
            cfg,
            run,
            begin,
            functools.partial(next_token, model=run.model, z_loss=cfg.loss.z_loss),
            common.offline(data.train.iterate),
            table=data.table,
            decode=data.tokenizer.decode,
            tokens=cfg.data.batch_size * cfg.data.seq_len,
            eval_batches=data.eval,
            sample=common.continuations(run, data.tokenizer, prompts, 48, cfg.run.seed) if causal else None,
        )


if __name__ == "__main__":
    config.launch(Pretrain, main, "./launch/run pretrain")
