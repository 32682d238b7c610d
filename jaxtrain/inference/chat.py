"""A run that answers: prompts in, scored completions out. What ./launch/run sample does with a model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data.chat import Template
from jaxtrain.data.dialogs import with_system
from jaxtrain.data.preferences import alternatives
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.record_formats import BadRecord, Message
from jaxtrain.files import terminal
from jaxtrain.generate import sampler, stop_strings
from jaxtrain.inference import best_of
from jaxtrain.inference.sampler import SampledText, SampleRequest, decoder, text_sampler
from jaxtrain.ops.sampling import HOW
from jaxtrain.rewards import models
from jaxtrain.stages.init_from import InitFrom
from jaxtrain.stages.load_model import inference_plan, load_model
from jaxtrain.train import parallel, workdir
from jaxtrain.types import LM, Params

AT_ONCE = 64  # completions drawn at once
WIDTH = 16  # rows for a reward model have a multiple of this many tokens


class ChatModel(NamedTuple):
    """An open run: how to ask it, and what scores it."""

    cfg: Any
    template: Template
    decode: Callable[[list[int]], str]
    context: int  # most tokens of prompt and completion; 0: no bound
    draw: Callable[
        ..., list[SampledText]
    ]  # (prompts, seeds of each one's answers) -> answers, those of a prompt together
    stream: Callable[[np.ndarray, int], Iterator[list[int]]]  # (prompt, seed) -> new tokens, a few at a time
    judge: models.CompletionScorer | None
    judged: int  # completions that it scores at once
    process: tuple[int, int]  # (index of this host, number of hosts); the first one writes and prints
    notes: list[tuple[str, str]]  # for people


def open_chat_model(cfg: Any, start: InitFrom, template: Template) -> ChatModel:
    """Loads what the flags name. Raises ConfigError where the reward does not fit the run."""
    plan = inference_plan(config.Run(mesh=cfg.machine.mesh), cfg.machine.cache_dir)
    settings = config.Model(dtype=cfg.machine.dtype)
    judge, size, context = _judge(cfg, start, plan, settings)
    loaded = load_model(start, plan, settings)
    draw, stream = _drawn(cfg, plan, loaded.model, loaded.params, template, context)
    return ChatModel(
        cfg=cfg, template=template, decode=decoder(template), context=context, draw=draw, stream=stream,
        judge=judge, judged=size, process=plan.process, notes=_notes(cfg, template, judge),
    )  # fmt: skip


def _drawn(
    cfg: Any, plan: parallel.Plan, model: LM, params: Params, template: Template, context: int
) -> tuple[Callable, Callable]:
    """Speaker's draw and stream."""
    settings = cfg.drawing
    how = sampler.active_params({name: getattr(settings, name) for name in HOW})
    made = text_sampler(plan, model, params, template, settings.max_new, context)

    def want(prompt: np.ndarray, seeds: Sequence[int]) -> SampleRequest:
        return SampleRequest(prompt, seeds, settings.max_new, how, settings.stops())

    def draw(prompts: Sequence[np.ndarray], seeds: Sequence[Sequence[int]]) -> list[SampledText]:
        return made.draw([want(*pair) for pair in zip(prompts, seeds, strict=True)])

    return draw, lambda prompt, seed: made.stream(want(prompt, [seed]))


def _notes(cfg: Any, template: Template, judge: models.CompletionScorer | None) -> list[tuple[str, str]]:
    n = cfg.chosen.best_of
    far = f"the best of {n}: at most {best_of.kl(n):.2f} nats from the run (KL)"
    return [
        *(("template", note) for note in template.notes),
        *(judge.table if judge else ()),
        *([("best of", far)] if n > 1 else ()),
    ]


def _judge(
    cfg: Any, start: InitFrom, plan: parallel.Plan, settings: config.Model
) -> tuple[models.CompletionScorer | None, int, int]:
    """(what scores completions, how many at once, the context that has room for them and in it)."""
    context, chosen = start.arch.max_len, cfg.chosen
    if not (chosen.reward or chosen.reward_model):
        return None, 1, context
    scores = config.Scores(reward=chosen.reward, reward_model=chosen.reward_model)
    models.check(scores, start.tokenizer, 0)
    if scores.reward:
        return models.function_scorer(scores.reward, plan), plan.process[1], context
    source, step = workdir.split_step(scores.reward_model)
    bounds = [bound for bound in (context, workdir.read_run(source)["arch"]["max_len"]) if bound]
    model = models.load(scores, f"{source}@{step or workdir.newest_step(source)}", plan, settings)
    most = AT_ONCE if cfg.asked.prompts else chosen.best_of * cfg.drawing.samples
    size = -(-most // plan.shards) * plan.shards
    return models.model_scorer(model, plan, size), size, min(bounds, default=0)


def chat_prompt(voice: ChatModel, messages: Sequence[Message]) -> Prompt:
    """A conversation up to where an answer is wanted. Raises ConfigError where the template refuses it."""
    asked = with_system(tuple(messages), voice.cfg.asked.system)
    try:
        return Prompt(asked, voice.template.encode_prompt(asked), {})
    except BadRecord as error:
        raise ConfigError(f"--prompt: {error}") from error


def require_room(voice: ChatModel, asked: Prompt, flag: str) -> None:
    """Raises ConfigError where a prompt fills the context."""
    if voice.context and len(asked.ids) >= voice.context:
        raise ConfigError(
            f"{flag}: {len(asked.ids)} tokens leave no room for an answer in a context of {voice.context}: shorten it"
        )


def answers(voice: ChatModel, asked: Sequence[Prompt], place: int = 0) -> list[list[SampledText]]:
    """--samples answers to each prompt, or the best of --best_of; `place` is the number of the first prompt."""
    chosen, drawing = voice.cfg.chosen, voice.cfg.drawing
    each = chosen.best_of * drawing.samples
    seeds = [
        [sampler.completion_seed(drawing.seed, place + i, g) for g in range(each)] for i in range(len(asked))
    ]
    found = voice.draw([one.ids for one in asked], seeds)
    if voice.judge:
        rows = [one for one in asked for _ in range(each)]
        scores = _scores(voice, rows, found)
        found = [one._replace(score=float(score)) for one, score in zip(found, scores, strict=True)]
    groups = [found[i : i + each] for i in range(0, len(found), each)]
    if chosen.best_of == 1:
        return groups
    best = best_of.best_of(scores.reshape(len(groups), each))
    return [[group[i]] for group, i in zip(groups, best, strict=True)]


def samples_per_prompt(voice: ChatModel) -> int:
    """Completions drawn of a prompt."""
    return voice.cfg.chosen.best_of * voice.cfg.drawing.samples


def can_stream(voice: ChatModel) -> bool:
    """Whether an answer can be shown while it is drawn: one host draws it, it is the only one, nothing scores it."""
    return samples_per_prompt(voice) == 1 and voice.judge is None and voice.process[1] == 1


def stream_answer(voice: ChatModel, asked: Prompt, place: int, write: Callable[[str], None]) -> str:
    """The answer, written as it is drawn, with a mark of how it ended; the same that `answers` gives."""
    ids: list[int] = []

    def noted() -> Iterator[list[int]]:
        for chunk in voice.stream(asked.ids, sampler.completion_seed(voice.cfg.drawing.seed, place, 0)):
            ids.extend(chunk)
            yield chunk

    text = ""
    for piece in text_pieces(noted(), voice.decode, voice.cfg.drawing.stops()):
        write(piece)
        text += piece
    ended = (
        ids[-1:] == [voice.template.end]
        or stop_strings.find_stop(voice.decode(ids), voice.cfg.drawing.stops()) is not None
    )
    write(terminal.END if ended else " …")
    return text


def fit_conversation(voice: ChatModel, said: Sequence[Message]) -> tuple[Prompt, int]:
    """(the conversation with room for --max_new, turns dropped from its beginning)."""
    for start in range(0, len(said), 2):
        asked = chat_prompt(voice, said[start:])
        if not voice.context or len(asked.ids) + voice.cfg.drawing.max_new <= voice.context:
            return asked, start
    require_room(voice, asked, "the last turn")
    return asked, start


def _scores(voice: ChatModel, asked: Sequence[Prompt], found: Sequence[SampledText]) -> np.ndarray:
    count = len(found)
    filled = [*range(count), *[count - 1] * (-count % voice.judged)]
    asked, found = [asked[i] for i in filled], [found[i] for i in filled]
    pairs = [
        (one.ids, np.asarray(_ids(voice, one, new), np.int32)) for one, new in zip(asked, found, strict=True)
    ]
    longest = max(len(prompt) + len(new) for prompt, new in pairs)
    width = -(-longest // WIDTH) * WIDTH
    rows = alternatives(pairs, len(pairs), min(width, voice.context or width), voice.template.tokenizer.pad)
    return np.asarray(voice.judge.scores(rows, asked, [one.text for one in found]), np.float32)[:count]


def _ids(voice: ChatModel, asked: Prompt, new: SampledText) -> list[int]:
    """The answer as a reward model has learnt to see it: one that --stop ended has the template's end."""
    if not new.ended or new.ids[-1:] == [voice.template.end]:
        return new.ids
    return voice.template.encode_completions(asked.messages, [new.text])[1][0].tolist()


def text_pieces(
    chunks: Iterable[list[int]], decode: Callable[[list[int]], str], ends: Sequence[str]
) -> Iterator[str]:
    """The text of tokens as they come, each part as soon as nothing to come can change it, up to the first stop."""
    ids: list[int] = []
    text, told = "", 0
    for chunk in chunks:
        ids += chunk
        text = decode(ids)
        sure, stopped = stop_strings.stable_text(text, ends)
        if stopped:
            yield sure[told:]
            return
        if len(sure) > told:
            yield sure[told:]
            told = len(sure)
    yield text[told:]
