"""The judge that --judge names: a reward function, a world's judge, a reward model, or a model with a rubric."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import chat
from jaxtrain.data.messages import BadRecord
from jaxtrain.data.preferences import alternatives
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import load as load_tokenizer
from jaxtrain.files import paths
from jaxtrain.inference import llm_judge
from jaxtrain.inference.config import MachineFlags, is_url
from jaxtrain.inference.llm import LLM
from jaxtrain.inference.llm_judge import Judge, JudgeCase
from jaxtrain.rewards import functions, models
from jaxtrain.rewards.function_args import available
from jaxtrain.stages.load_model import inference_plan
from jaxtrain.train import workdir

AT_ONCE = 64  # answers that a reward model scores at once
WIDTH = 16  # its rows have a multiple of this many tokens
TOP = 20  # log-probabilities of a soft verdict
VOTE_TEMPERATURE = 0.7  # where there are several


class JudgeQuality(Protocol):
    """The flags of a judge."""

    judge: str
    rubric: str
    votes: int
    soft: bool
    judge_temperature: float
    judge_max_new: int

    def is_llm_judge(self) -> bool: ...


def open_judge(
    quality: JudgeQuality,
    machine: MachineFlags,
    open_model: Callable[[str, str, int], LLM],
    fields: Collection[str] = (),
) -> tuple[Judge | None, LLM | None]:
    """(the judge, the LLM behind it), either None where there is none; `open_model` takes (name, flag, max_new).

    `fields` are those of the records that a function is given as columns.
    """
    text = quality.judge
    if not quality.is_llm_judge():
        if not text:
            return None, None
        reward = functions.resolve(text, "judge")
        functions.check_arguments(reward, available(set(fields), has_ids=False, state=None), "what is judged")
        return llm_judge.reward_judge(reward), None
    if not is_url(text) and not text.startswith("hf:"):
        source, step = workdir.split_step(text, "judge")
        if workdir.read_run(source, "--judge")["stage"] == "reward":
            if quality.rubric or quality.soft or quality.votes > 1:
                raise ConfigError(
                    f"--judge={text}: a reward model reads no rubric: leave out --rubric, --soft, --votes"
                )
            return reward_model_judge(source, step, machine), None
    model = open_model(text, "judge", quality.judge_max_new)
    if not model.chat:
        raise ConfigError(
            f"--judge={text}: it has no chat template to read a rubric with; name another model"
        )
    rubric = quality.rubric or llm_judge.RUBRIC
    if rubric.endswith(".txt"):
        if not Path(rubric).expanduser().is_file():
            raise ConfigError(f"--rubric={rubric}: no such file")
        rubric = Path(rubric).expanduser().read_text(encoding="utf-8")
    how = llm_judge.JudgeConfig(
        rubric=rubric,
        votes=quality.votes,
        temperature=_temperature(quality),
        top_logprobs=TOP if quality.soft else 0,
        max_new=quality.judge_max_new,
    )
    return llm_judge.llm_judge(model, how), model


def _temperature(quality: JudgeQuality) -> float:
    if quality.judge_temperature >= 0:
        return quality.judge_temperature
    return VOTE_TEMPERATURE if quality.votes > 1 else 0.0


def reward_model_judge(source: Path, step: int | None, machine: MachineFlags) -> Judge:
    """A judge by a reward model's normalised reward: of its starting model's answers mean 0, variance 1."""
    scores = config.Scores(reward_model=str(source))
    tokenizer = load_tokenizer(source / "tokenizer")
    models.check(scores, tokenizer, 0)
    plan = inference_plan(config.Run(mesh=machine.mesh), machine.cache_dir)
    name = f"{paths.absolute(source)}@{step or workdir.newest_step(source)}"
    model = models.load(scores, name, plan, machine.model())
    size = -(-AT_ONCE // plan.shards) * plan.shards
    scorer, template = models.model_scorer(model, plan, size), chat.load_template("auto", tokenizer)
    context = workdir.read_run(source)["arch"]["max_len"]

    def score(cases: Sequence[JudgeCase]) -> list[float | None]:
        if not cases:
            return []
        pairs = [_ids(template, one) for one in cases]
        filled = [*pairs, *[pairs[-1]] * (-len(pairs) % size)]
        longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
        if context and longest > context:
            raise ConfigError(
                f"--judge={source}: an answer and its prompt have {longest} tokens, its context {context}"
            )
        rows = alternatives(filled, len(filled), -(-longest // WIDTH) * WIDTH, tokenizer.pad)
        prompts = [Prompt(one.messages, prompt, {}) for one, (prompt, _) in zip(cases, pairs, strict=True)]
        values = scorer.scores(rows, prompts, [one.answer for one in cases])
        return [float(value) for value in values[: len(cases)]]

    return llm_judge.score_judge(name, score)


def _ids(template: chat.Template, one: JudgeCase) -> tuple[np.ndarray, np.ndarray]:
    try:
        prompt, (answer,), _ = template.encode_completions(one.messages, [one.answer])
    except BadRecord as error:
        raise ConfigError(f"--judge: {error}") from error
    return prompt, answer
