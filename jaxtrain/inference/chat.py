"""A model to chat with: prompts in, scored completions out. What ./launch/run sample does with a run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data.chat import Template
from jaxtrain.data.dialogs import with_system
from jaxtrain.data.messages import BadRecord, Message
from jaxtrain.data.preferences import alternatives
from jaxtrain.data.prompts import Prompt
from jaxtrain.files import terminal
from jaxtrain.generate import sampler, stop_strings
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.inference import best_of
from jaxtrain.inference.config import MachineFlags
from jaxtrain.inference.sampler import SampledText, TextSampler, decoder, text_sampler
from jaxtrain.ops.sampling import HOW
from jaxtrain.rewards import models
from jaxtrain.stages.init_from import InitFrom, end_ids
from jaxtrain.stages.load_model import inference_plan, load_model
from jaxtrain.train import parallel, workdir

AT_ONCE = 64  # completions of one call
WIDTH = 16  # rows for a reward model have a multiple of this many tokens


class ChatFlags(Protocol):
    """The flags of ./launch/run sample: experiments/sample.py has the groups."""

    asked: Any  # prompt, prompts, system, ...
    drawing: Any  # the sampling parameters
    chosen: Any  # best_of, reward, reward_model
    machine: MachineFlags


class ChatModel(NamedTuple):
    """A model for inference, and what scores its completions."""

    cfg: ChatFlags
    template: Template
    ends: tuple[int, ...]  # tokens that end a completion
    decode: Callable[[list[int]], str]
    context: int  # most tokens of prompt and completion; 0: no bound
    # (prompts, seeds of each one's completions) -> completions, those of a prompt together
    sample: Callable[[Sequence[np.ndarray], Sequence[Sequence[int]]], list[SampledText]]
    stream: Callable[[np.ndarray, int], Iterator[list[int]]]  # (prompt, seed) -> new tokens, a few at a time
    scorer: models.CompletionScorer | None
    scorer_batch: int  # completions that it scores at once
    process: tuple[int, int]  # (index of this host, number of hosts); the first one writes and prints
    notes: list[tuple[str, str]]  # for people


def open_chat_model(cfg: ChatFlags, start: InitFrom, template: Template) -> ChatModel:
    """The model that the flags name, loaded. Raises ConfigError where the reward does not fit the run."""
    plan = inference_plan(config.Run(mesh=cfg.machine.mesh), cfg.machine.cache_dir)
    settings = cfg.machine.model()
    scorer, size, context = _open_scorer(cfg, start, plan, settings, template)
    loaded = load_model(start, plan, settings)
    ends = end_ids(start, template.ends)
    texts = text_sampler(plan, loaded.model, loaded.params, template, ends, cfg.drawing.max_new, context)
    sample, stream = _with_flags(cfg, texts)
    return ChatModel(
        cfg=cfg, template=template, ends=ends, decode=decoder(template, ends), context=context, sample=sample,
        stream=stream, scorer=scorer, scorer_batch=size, process=plan.process, notes=_notes(cfg, template, scorer),
    )  # fmt: skip


def _with_flags(cfg: ChatFlags, texts: TextSampler) -> tuple[Callable, Callable]:
    """ChatModel's sample and stream: a text sampler with the flags' sampling parameters."""
    settings = cfg.drawing
    sampling_params = sampler.active_params({name: getattr(settings, name) for name in HOW})

    def request(prompt: np.ndarray, seeds: Sequence[int]) -> SampleRequest:
        return SampleRequest(prompt, seeds, settings.max_new, sampling_params, settings.stops())

    def sample(prompts: Sequence[np.ndarray], seeds: Sequence[Sequence[int]]) -> list[SampledText]:
        return texts.sample([request(*pair) for pair in zip(prompts, seeds, strict=True)])

    return sample, lambda prompt, seed: texts.stream(request(prompt, [seed]))


def _notes(
    cfg: ChatFlags, template: Template, scorer: models.CompletionScorer | None
) -> list[tuple[str, str]]:
    n = cfg.chosen.best_of
    far = f"the best of {n}: at most {best_of.kl(n):.2f} nats from the run (KL)"
    return [
        *(("template", note) for note in template.notes),
        *(scorer.table if scorer else ()),
        *([("best of", far)] if n > 1 else ()),
    ]


def _open_scorer(
    cfg: ChatFlags, start: InitFrom, plan: parallel.Plan, settings: config.Model, template: Template
) -> tuple[models.CompletionScorer | None, int, int]:
    """(what scores completions, how many at once, the context of the model and of its reward model)."""
    context, chosen = start.arch.max_len, cfg.chosen
    if not (chosen.reward or chosen.reward_model):
        return None, 1, context
    scores = config.Scores(reward=chosen.reward, reward_model=chosen.reward_model)
    models.check(scores, start.tokenizer, 0, template)
    if scores.reward:
        return models.function_scorer(scores.reward, plan), plan.process[1], context
    source, step = workdir.split_step(scores.reward_model, "reward_model")
    bounds = [bound for bound in (context, workdir.read_run(source)["arch"]["max_len"]) if bound]
    model = models.load(scores, f"{source}@{step or workdir.newest_step(source)}", plan, settings)
    most = AT_ONCE if cfg.asked.prompts else chosen.best_of * cfg.drawing.samples
    size = -(-most // plan.shards) * plan.shards
    return models.model_scorer(model, plan, size), size, min(bounds, default=0)


def chat_prompt(chat_model: ChatModel, messages: Sequence[Message]) -> Prompt:
    """The prompt of a conversation, up to the model's next turn. Raises ConfigError where the template refuses it."""
    conversation = with_system(tuple(messages), chat_model.cfg.asked.system)
    try:
        return Prompt(conversation, chat_model.template.encode_prompt(conversation), {})
    except BadRecord as error:
        raise ConfigError(f"--prompt: {error}") from error


def require_room(chat_model: ChatModel, prompt: Prompt, flag: str) -> None:
    """Raises ConfigError where a prompt fills the context."""
    if chat_model.context and len(prompt.ids) >= chat_model.context:
        raise ConfigError(
            f"{flag}: {len(prompt.ids)} tokens leave no room for an answer in a context of {chat_model.context}: "
            "shorten it"
        )


def answers(chat_model: ChatModel, prompts: Sequence[Prompt], place: int = 0) -> list[list[SampledText]]:
    """--samples completions of each prompt, or the best of --best_of; `place` is the number of the first prompt."""
    chosen, seed = chat_model.cfg.chosen, chat_model.cfg.drawing.seed
    each = samples_per_prompt(chat_model)
    seeds = [[sampler.completion_seed(seed, place + i, g) for g in range(each)] for i in range(len(prompts))]
    completions = chat_model.sample([prompt.ids for prompt in prompts], seeds)
    if chat_model.scorer:
        scores = _scores(chat_model, [prompt for prompt in prompts for _ in range(each)], completions)
        completions = [
            one._replace(score=float(score)) for one, score in zip(completions, scores, strict=True)
        ]
    groups = [completions[i : i + each] for i in range(0, len(completions), each)]
    if chosen.best_of == 1:
        return groups
    best = best_of.best_of(scores.reshape(len(groups), each))
    return [[group[i]] for group, i in zip(groups, best, strict=True)]


def samples_per_prompt(chat_model: ChatModel) -> int:
    """The number of completions sampled of a prompt."""
    return chat_model.cfg.chosen.best_of * chat_model.cfg.drawing.samples


def can_stream(chat_model: ChatModel) -> bool:
    """Whether an answer can be streamed: one host samples it, it is the only one, nothing scores it."""
    return samples_per_prompt(chat_model) == 1 and chat_model.scorer is None and chat_model.process[1] == 1


def stream_answer(chat_model: ChatModel, prompt: Prompt, place: int, write: Callable[[str], None]) -> str:
    """The answer, written as it is sampled, with a mark of how it ended; the same that `answers` gives."""
    ids: list[int] = []
    stops, seed = chat_model.cfg.drawing.stops(), chat_model.cfg.drawing.seed

    def chunks() -> Iterator[list[int]]:
        for chunk in chat_model.stream(prompt.ids, sampler.completion_seed(seed, place, 0)):
            ids.extend(chunk)
            yield chunk

    text = ""
    for piece in text_pieces(chunks(), chat_model.decode, stops):
        write(piece)
        text += piece
    ended = (bool(ids) and ids[-1] in chat_model.ends) or (
        stop_strings.find_stop(chat_model.decode(ids), stops) is not None
    )
    write(terminal.END if ended else " …")
    return text


def fit_conversation(chat_model: ChatModel, messages: Sequence[Message]) -> tuple[Prompt, int]:
    """(the prompt of a conversation with room for --max_new, turns dropped from its beginning)."""
    for start in range(0, len(messages), 2):
        prompt = chat_prompt(chat_model, messages[start:])
        if not chat_model.context or len(prompt.ids) + chat_model.cfg.drawing.max_new <= chat_model.context:
            return prompt, start
    require_room(chat_model, prompt, "the last turn")
    return prompt, start


def _scores(
    chat_model: ChatModel, prompts: Sequence[Prompt], completions: Sequence[SampledText]
) -> np.ndarray:
    """f32[B]: the score of each completion; the last one fills the scorer's batch up."""
    count = len(completions)
    filled = [*range(count), *[count - 1] * (-count % chat_model.scorer_batch)]
    prompts, completions = [prompts[i] for i in filled], [completions[i] for i in filled]
    pairs = [
        (prompt.ids, np.asarray(_scored_ids(chat_model, prompt, one), np.int32))
        for prompt, one in zip(prompts, completions, strict=True)
    ]
    longest = max(len(prompt) + len(completion) for prompt, completion in pairs)
    width = -(-longest // WIDTH) * WIDTH
    width = min(width, chat_model.context or width)
    rows = alternatives(pairs, len(pairs), width, chat_model.template.tokenizer.pad)
    scores = chat_model.scorer.scores(rows, prompts, [one.text for one in completions])
    return np.asarray(scores, np.float32)[:count]


def _scored_ids(chat_model: ChatModel, prompt: Prompt, completion: SampledText) -> list[int]:
    """The completion as a reward model was trained to see it: one that --stop ended has the template's end."""
    template = chat_model.template
    if not completion.ended or completion.ids[-1:] == [template.end]:
        return completion.ids
    _, (ids,), _ = template.encode_completions(prompt.messages, [completion.text], prompt.template_kwargs)
    return ids.tolist()


def text_pieces(
    chunks: Iterable[list[int]], decode: Callable[[list[int]], str], stops: Sequence[str]
) -> Iterator[str]:
    """The text of streamed tokens in pieces, each as soon as no later token can change it, up to the first stop."""
    ids: list[int] = []
    text, sent = "", 0
    for chunk in chunks:
        ids += chunk
        text = decode(ids)
        stable, stopped = stop_strings.stable_text(text, stops)
        if stopped:
            yield stable[sent:]
            return
        if len(stable) > sent:
            yield stable[sent:]
            sent = len(stable)
    yield text[sent:]
