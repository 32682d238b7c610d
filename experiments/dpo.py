"""Direct preference optimisation and its family, on comparisons or, for kto, on completions judged good or bad."""

import dataclasses
from typing import Any

from jaxtrain import config, flags, stages

LOSSES = (
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "aot",
    "discopop", "sigmoid_norm", "simpo", "orpo", "cpo", "rpo", "kto",
)  # fmt: skip
# What a loss is defined with, where --beta, --nll_weight or --label_smoothing are not given.
USUAL = {
    "rpo": {"nll_weight": 1.0},
    "orpo": {"nll_weight": 1.0},
    "cpo": {"nll_weight": 1.0},
    "simpo": {"beta": 2.0},
    "exo_pair": {"label_smoothing": 1e-3},
}


@dataclasses.dataclass(frozen=True)
class DpoLoss(config.Group):
    # fmt: off
    loss: str = config.arg("sigmoid", "Loss on a comparison (ops/preference.py has the formulas); rpo is sigmoid + NLL",
        choices=LOSSES)
    beta: float = config.arg(0.0, "Strength of the pull to the reference. 0: the loss's usual, 0.1, simpo 2", low=0)
    label_smoothing: float = config.arg(-1.0,
        "Probability that a label is flipped (cDPO, robust, ...). -1: the loss's usual, 0, exo_pair 0.001", low=-1)
    nll_weight: float = config.arg(-1.0,
        "Weight of the chosen completion's NLL a token. -1: the loss's usual, 0, rpo, orpo and cpo 1", low=-1)
    divergence: str = config.arg("reverse_kl", "f-divergence that keeps the policy near the reference",
        choices=("reverse_kl", "forward_kl", "js", "alpha"))
    alpha: float = config.arg(0.5, "Order of the divergence, 0 (reverse KL) to 1 (forward KL)", low=0,
        only=("divergence", ("alpha",)))
    soft_labels: bool = config.arg(False, "Take p_win, the probability that chosen is better, where records have it")
    reference_free: bool = config.arg(False, "Take the reference as uniform")
    length_penalty: float = config.arg(0.0, "R-DPO's price of a completion token, in units of reward", low=0)
    summed: bool = config.arg(False, "IPO on sums over tokens, not on means", only=("loss", ("ipo",)))
    gamma: float = config.arg(1.0, "Target margin of the reward", low=0, only=("loss", ("simpo",)))
    tau: float = config.arg(0.05, "Temperature of DiscoPOP's mixing", only=("loss", ("discopop",)))
    desirable_weight: float = config.arg(1.0, "KTO's weight of good completions", low=0, only=("loss", ("kto",)))
    undesirable_weight: float = config.arg(1.0, "KTO's weight of bad completions", low=0, only=("loss", ("kto",)))
    # fmt: on

    def link(self) -> str:
        """The loss's name in ops/preference.py."""
        return "sigmoid" if self.loss == "rpo" else self.loss

    def settings(self) -> Any:
        """The flags as ops/preference.py's Settings. Raises ConfigError where one would do nothing."""
        from jaxtrain.ops import preference

        values = {name: getattr(self, name) for name in preference.PreferenceSettings._fields}
        usual = {"beta": 0.1, "label_smoothing": 0.0, "nll_weight": 0.0} | USUAL.get(self.loss, {})
        left = {"beta": 0.0, "label_smoothing": -1.0, "nll_weight": -1.0}
        values |= {name: usual[name] for name, alone in left.items() if values[name] == alone}
        settings = preference.PreferenceSettings(**values)
        try:
            preference.check(self.link(), settings)
        except ValueError as error:
            raise config.ConfigError(f"--{error}") from error
        return settings


@dataclasses.dataclass(frozen=True)
class Dpo:
    model: config.Model = config.group(config.Model)
    data: config.Dialogs = config.group(
        config.Dialogs, data="tinytown:preferences", seq_len=48, batch_size=32
    )
    loss: DpoLoss = config.group(DpoLoss)
    optim: config.Optim = config.group(config.Optim, lr=1e-4, warmup=10, weight_decay=0.0)
    lora: config.Lora = config.group(config.Lora)
    samples: config.Samples = config.group(config.Samples)
    run: config.Run = config.group(config.Run, steps=250, eval_every=0, sample_every=0)


def main(cfg: Dpo) -> None:
    """Checks the flags, reads the comparisons, annotates them with the reference's log-probabilities, and trains."""
    settings, link = cfg.loss.settings(), cfg.loss.link()
    with stages.open(cfg, "dpo", needed=True) as stage:
        # Imported here, so that a mistake in the flags is answered before jax is loaded.
        import functools

        from jaxtrain.data import preferences, special_text
        from jaxtrain.objectives.dpo import dpo, kto
        from jaxtrain.stages import eval_prompts, reference, trainer

        data = stage.prepare(
            preferences.prepare,
            kind="unpaired" if link == "kto" else "pairs",
            ties="drop",
            soft=cfg.loss.soft_labels,
        )
        session = stage.session(data.tokenizer, data.fingerprints)._replace(extra=reference.first_extra(link))
        loss = kto if link == "kto" else functools.partial(dpo, loss=link)
        objective = functools.partial(loss, model=session.model, settings=settings)
        sample = eval_prompts.eval_sampler(session, cfg, stage.template, data.tokenizer.decode_completion)
        columns = reference.reference_columns(cfg, session, data, link, settings)
        training = trainer.Stage(
            objective=objective,
            next_batch=columns.train,
            table=[*data.table, *columns.table],
            decode=special_text.marked_decoder(data.tokenizer),
            tokens=2 * cfg.data.batch_size * cfg.data.seq_len,
            score=trainer.evaluate_fn(
                session, objective, data.eval, cfg.run.eval_batches, complete=columns.held_out
            ),
            sample=sample,
            expect=reference.expected(link, settings),
            carry=reference.carry(link),
        )
        trainer.train(cfg, session, training)


if __name__ == "__main__":
    flags.launch(Dpo, main, "./launch/run dpo")
