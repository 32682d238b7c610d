"""Answers to prompts while a run trains, measured by a world's judge where the prompts are of one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxtrain import config, worlds
from jaxtrain.config import ConfigError, DialogStageConfig
from jaxtrain.data import prompts, source_spec
from jaxtrain.files import atomic
from jaxtrain.stages import init_from, sampling
from jaxtrain.stages.session import Session
from jaxtrain.train import loop, optim
from jaxtrain.types import TrainState
from jaxtrain.worlds import World

SHOWN = 3  # answers shown


class EvalSource(NamedTuple):
    """Sources of prompts, the flag that names them, and the world whose judge can judge the answers."""

    text: str
    flag: str
    world: World | None

    @property
    def setting(self) -> str:
        """The flag with its value, as people type it."""
        return f"--{self.flag}={self.text}"


class EvalAnswers(NamedTuple):
    """Answers to --prompts: of the same parameters always the same, and of the newest state sampled once."""

    source: EvalSource
    prompts: list[prompts.Prompt]
    sample: Callable[[TrainState], list[sampling.SampledTokens]]  # one a prompt


def eval_answers(
    session: Session, cfg: DialogStageConfig, template: Any, required: bool = True
) -> EvalAnswers | None:
    """The answers to --prompts.

    None, unless `required`, where --prompts was not given and the data are plain texts, which have no prompts.
    """
    settings = cfg.samples
    source = eval_source(settings, cfg.data)
    eval_set = prompts.read_prompts(
        source.text, cfg.data, template, flag=source.flag, limit=settings.prompt_count,
        required=required or settings.prompts != "auto",
    )  # fmt: skip
    if not eval_set:
        return None
    draw = sampling.token_sampler(
        session,
        init_from.end_ids(session.start, template.ends),
        max_new=settings.max_new,
        temperature=settings.answer_temperature(),
    )
    prompt_ids = [each.ids.tolist() for each in eval_set]
    last: dict[int, list[sampling.SampledTokens]] = {}

    def sample(state: TrainState) -> list[sampling.SampledTokens]:
        step = int(session.plan.get(state.step))
        if step not in last:
            last.clear()
            params = optim.eval_params(state.params, state.opt_state)
            last[step] = draw(params, session.base, prompt_ids, cfg.run.seed)
        return last[step]

    return EvalAnswers(source, eval_set, sample)


def eval_sampler(
    session: Session,
    cfg: DialogStageConfig,
    template: Any,
    decode: Callable,
    required: bool = True,
    answers: EvalAnswers | None = None,
) -> loop.Sample | None:
    """Completions of --prompts, written to samples/STEP.jsonl; a few are shown, with the world's measures of all.

    None where `eval_answers` is; `answers` are its, where the stage uses them for more.
    """
    answers = answers or eval_answers(session, cfg, template, required)
    if answers is None:
        return None
    source, world = answers.source.text, answers.source.world
    questions = [each.messages[-1]["content"] for each in answers.prompts]

    def sample(state: TrainState, step: int) -> tuple[str, Mapping[str, float]]:
        samples = answers.sample(state)
        texts = [decode(each.text_ids) for each in samples]
        measured = {
            "completions/mean_length": float(np.mean([len(each.ids) for each in samples])),
            "completions/clipped_ratio": float(np.mean([not each.ended for each in samples])),
        }
        if world:
            measured |= {f"judge/{name}": value for name, value in world.measure(questions, texts).items()}
        rows = [
            {"prompt": question, "completion": text, "ended": each.ended}
            | ({"gold": world.gold(question, text)} if world else {})
            for question, text, each in zip(questions, texts, samples, strict=True)
        ]
        sampling.write_sample(session, f"{step:08d}.jsonl", "".join(map(atomic.json_line, rows)))
        lines = [f"answers at step {step} to {len(rows)} prompts of {source}"]
        lines.append(loop.eval_lines("  ", measured))
        for question, text, each in list(zip(questions, texts, samples, strict=True))[:SHOWN]:
            lines += ["", *sampling.preview_lines(f"{question}▸{text}", each.ended)]
        return "\n".join(lines) + "\n", measured

    return sample


def about(sample: loop.Sample | None) -> list[tuple[str, str]]:
    """The line for the table where there is no sampler of `eval_sampler`."""
    line = "none: plain texts have no prompts, so no samples are drawn; --prompts names others"
    return [] if sample else [("prompts", line)]


def eval_source(settings: config.Samples, data: config.Dialogs) -> EvalSource:
    """Where --prompts, or the data, say that prompts are."""
    world = worlds.world_of(source.kind for source in source_spec.parse(data.data))
    if settings.prompts == "auto" and world:
        return EvalSource(world.eval_prompts, "prompts", world)
    if settings.prompts == "auto":
        return EvalSource(data.eval_data or data.data, "eval_data" if data.eval_data else "data", None)
    sources = source_spec.parse(settings.prompts, "prompts")
    if len(sources) != 1:
        raise ConfigError(f"--prompts={settings.prompts}: name one source")
    return EvalSource(settings.prompts, "prompts", worlds.world_of([sources[0].kind]))
