"""Distillation: a student learns from a teacher's distribution, on data, on the teacher's completions or on its own."""

import dataclasses

from jaxtrain import config, flags, stages
from jaxtrain.inference.config import EndpointFlags, is_url

DATA = "data"  # --teacher=data: the data has the teacher's log-probabilities


@dataclasses.dataclass(frozen=True)
class DistillLoss(config.Group):
    # fmt: off
    teacher: str = config.arg("",
        "The teacher: a run (WORKDIR or WORKDIR@STEP), hf:DIR, an OpenAI-compatible endpoint "
        "(http://HOST:PORT/v1?model=NAME), or data: stored completions with log-probabilities (store:PATH)",
        remote=True)
    teacher_topk: int = config.arg(0,
        "Ask the teacher once for this many likeliest tokens at each position of the data, keep them on disk, and "
        "train without it beside the student; 0: its whole distribution at every step", low=0)
    divergence: str = config.arg("forward_kl", "Divergence between teacher and student that is minimised",
        choices=("forward_kl", "reverse_kl", "jsd"))
    jsd_beta: float = config.arg(0.5, "Share of the teacher in JSD's mixture; 0 is forward KL, 1 reverse KL", low=0,
        only=("divergence", ("jsd",)))
    soft_temperature: float = config.arg(1.0,
        "Divides the logits of teacher and student in the divergence, which is multiplied by its square", low=0.01)
    hard_weight: float = config.arg(0.0, "Share of the cross-entropy of the tokens themselves; 1: no teacher", low=0)
    completions: str = config.arg("auto",
        "Where those come from that the student does not sample: the data, or the teacher's samples for its prompts. "
        "auto: the data where it has completions", choices=("auto", "data", "teacher"))
    draws: int = config.arg(4, "Completions that the teacher draws for each prompt", low=1)
    on_policy: float = config.arg(0.0, "Share of the batches whose completions the student writes (GKD's λ)", low=0)
    draw_temperature: float = config.arg(1.0, "Temperature of what teacher and student draw to learn from", low=0)
    # fmt: on

    def check(self):
        for name in ("hard_weight", "on_policy", "jsd_beta"):
            if getattr(self, name) > 1:
                raise config.ConfigError(f"--{name}={getattr(self, name)}: a share, at most 1")
        if self.hard_weight == 1:
            config.require_default(
                self, "--hard_weight=1 leaves no divergence", ["divergence", "jsd_beta", "soft_temperature"]
            )
        stored = self.stored_logprobs()
        if stored and self.soft_temperature != 1:
            raise config.ConfigError(
                "--soft_temperature: stored log-probabilities are at temperature 1; leave it at 1"
            )
        if stored and self.teacher_topk:
            raise config.ConfigError(
                f"--teacher_topk: --teacher={self.teacher} gives what it gives; leave it out"
            )
        if self.on_policy and (stored or self.teacher_topk):
            raise config.ConfigError(
                "--on_policy: the student's own completions need a teacher beside it at every step, a run or hf:DIR, "
                "without --teacher_topk"
            )
        if self.teacher == DATA and self.completions == "teacher":
            raise config.ConfigError("--completions=teacher: --teacher=data has only those that are stored")
        if self.teacher == DATA:
            self.require_drawing(draws=False, any_at_all=False)

    def require_drawing(self, draws: bool, any_at_all: bool) -> None:
        """Raises ConfigError for flags of drawing where the teacher writes nothing, or nobody does."""
        for name, acts in (("draws", draws), ("draw_temperature", any_at_all)):
            if not acts and getattr(self, name) != getattr(type(self), name):
                raise config.ConfigError(
                    f"--{name}: the completions are the data's, nothing is sampled; leave it out, or use "
                    "--completions=teacher"
                )

    def remote(self) -> bool:
        """Whether the teacher is an HTTP endpoint."""
        return is_url(self.teacher)

    def stored_logprobs(self) -> bool:
        """Whether the teacher's log-probabilities come with stored completions alone."""
        return self.remote() or self.teacher == DATA


@dataclasses.dataclass(frozen=True)
class Distill:
    model: config.Model = config.group(config.Model, model="tinytown-200k")
    data: config.Dialogs = config.group(config.Dialogs, data="tinytown:prompts", seq_len=48, batch_size=32)
    loss: DistillLoss = config.group(DistillLoss)
    endpoint: EndpointFlags = config.group(EndpointFlags)
    optim: config.Optim = config.group(config.Optim, lr=4e-3, warmup=20)
    lora: config.Lora = config.group(config.Lora)
    samples: config.Samples = config.group(config.Samples, max_new=32)
    run: config.Run = config.group(config.Run, steps=1000, eval_every=500, sample_every=0)


def main(cfg: Distill) -> None:
    """Checks the flags, loads teacher and student, trains, and ends with the held-out divergence and answers."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    from jaxtrain.stages import init_from

    if not cfg.loss.teacher:
        raise config.ConfigError("--teacher: name the model to learn from, such as runs/ppo, hf:DIR, or data")
    cfg.endpoint.require(cfg.loss.teacher)
    if not cfg.model.init_from and not cfg.loss.stored_logprobs():
        config.require_default(cfg.data, "a student takes the teacher's tokenizer", ["tokenizer"])
    start = init_from.resolve(cfg)

    import functools

    from jaxtrain.data import special_text
    from jaxtrain.distillation import data
    from jaxtrain.distillation import teacher as distillation_teacher
    from jaxtrain.models import transformer
    from jaxtrain.objectives.distill import DistillSettings, distill
    from jaxtrain.stages import eval_prompts, trainer

    start, origin = distillation_teacher.student_init(cfg, start)
    with stages.open(cfg, "distill", start=start) as stage:
        teacher = distillation_teacher.load(cfg, origin, stage.plan, stage.path)
        prepared = data.prepare(cfg, teacher, stage.template, stage.plan, stage.path)
        session = stage.session(prepared.data.tokenizer, prepared.data.fingerprints)
        settings = DistillSettings(
            cfg.loss.divergence, cfg.loss.jsd_beta, cfg.loss.soft_temperature, cfg.loss.hard_weight
        )
        beside = teacher if prepared.live else None
        objective = functools.partial(distill, model=session.model, teacher=beside and beside.model)
        frozen = beside.params if beside else ()
        sample = eval_prompts.eval_sampler(
            session, cfg, stage.template, prepared.data.tokenizer.decode_completion, required=False
        )
        training = trainer.Stage(
            objective=functools.partial(objective, settings=settings),
            next_batch=data.batches(cfg, session, prepared, stage.template),
            table=[*prepared.table, *eval_prompts.about(sample)],
            decode=special_text.marked_decoder(prepared.data.tokenizer),
            tokens=cfg.data.batch_size * cfg.data.seq_len,
            # Whatever is trained on, runs compare by KL(teacher ‖ student) at temperature 1.
            score=trainer.evaluate_fn(
                session, functools.partial(objective, settings=DistillSettings()), prepared.data.eval,
                cfg.run.eval_batches, frozen=frozen,
            ),
            sample=sample,
            expect=distillation_teacher.expected_at_start(
                start, origin, transformer.compute_dtype(cfg.model, stage.plan.platform)
            ),
            frozen=frozen,
        )  # fmt: skip
        trainer.train(cfg, session, training)


if __name__ == "__main__":
    flags.launch(Distill, main, "./launch/run distill")
