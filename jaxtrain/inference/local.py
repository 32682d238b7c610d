"""What --generator, --expert and --judge may name: a run, a Hugging Face directory, or an endpoint."""

import functools
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import chat
from jaxtrain.data.chat import Template
from jaxtrain.data.record_formats import BadRecord
from jaxtrain.inference import remote, sampler
from jaxtrain.inference.llm import (
    CUT_OFF,
    LLM,
    REFUSED,
    Completion,
    LocalModel,
    Request,
    TokenLogprob,
    Usage,
    derive_seed,
)
from jaxtrain.inference.sampler import SampleRequest
from jaxtrain.ops.logprobs import logits
from jaxtrain.stages import init_from
from jaxtrain.stages.load_model import inference_plan, load_model
from jaxtrain.train import parallel
from jaxtrain.types import LM, Params

AT_ONCE = 64  # completions drawn at once
BUCKET = 32  # rows of a forward pass have a power of two times this many tokens


def open_llm(text: str, flag: str, settings: remote.EndpointFlags, machine: Any, width: int) -> LLM:
    """The model that --`flag` names. `width` is the most tokens of a reply. Raises ConfigError where there is none."""
    if remote.is_url(text):
        return remote.open_endpoint(
            text, flag, settings, Path(machine.cache_dir).expanduser() / "requests.sqlite"
        )
    return _of_run(text, flag, machine, width)


def _of_run(text: str, flag: str, machine: Any, width: int) -> LLM:
    start = init_from.load_run(text, flag, causal=True)
    plan = inference_plan(config.Run(mesh=machine.mesh), machine.cache_dir)
    if plan.process[1] > 1:
        raise ConfigError(
            f"--{flag}={text}: a run replies in one process; serve it, and name the server's URL"
        )
    model, params, *_ = load_model(start, plan, config.Model(dtype=machine.dtype))
    chats = bool(start.tokenizer.chat_template)
    templates = {True: chat.load_template("none", start.tokenizer)}
    templates[False] = chat.load_template("auto", start.tokenizer) if chats else templates[True]
    context = start.arch.max_len
    drawers = {
        raw: sampler.text_sampler(plan, model, params, template, width, context)
        for raw, template in templates.items()
    }
    spent, look = Usage(), forward(plan, model, params)
    name = start.lineage.get("origin") or text

    def generate(asks: Sequence[Request]) -> list[list[Completion]]:
        opened = [_opened(templates[ask.raw], ask, flag) for ask in asks]
        full = [i for i, ids in enumerate(opened) if context and len(ids) >= context]
        found = {i: [Completion("", REFUSED)] * asks[i].samples for i in full}
        spent.add(refused=len(full))
        for place in _alike(asks, set(full)):
            part, ids = [asks[i] for i in place], [opened[i] for i in place]
            raw = part[0].raw
            told = drawers[raw].draw([_want(*pair) for pair in zip(part, ids, strict=True)])
            for n, i in enumerate(place):
                mine = told[n * part[n].samples :][: part[n].samples]
                tops = _tops(look, templates[raw], ids[n], mine, part[n].top_logprobs)
                found[i] = [_reply(*each) for each in zip(mine, tops, strict=True)]
            spent.add(
                requests=len(part),
                tokens_in=sum(map(len, ids)),
                tokens_out=sum(len(one.ids) for one in told),
            )
        return [found[i] for i in range(len(asks))]

    encode = start.tokenizer.encode
    notes = tuple(("template", note) for note in templates[False].notes)
    return LLM(
        name, generate, chats, spent, embed=lambda texts: embed_texts(look, encode(texts), context), notes=notes,
        inside=LocalModel(templates[False], lambda pairs: completion_logps(look, pairs), context),
    )  # fmt: skip


def _alike(asks: Sequence[Request], without: Set[int]) -> list[list[int]]:
    """The places of asks in groups that one call can draw."""
    groups: dict[tuple, list[int]] = {}
    for i, ask in enumerate(asks):
        if i not in without:
            groups.setdefault((ask.raw, ask.samples), []).append(i)
    steps = {kind: max(1, AT_ONCE // kind[1]) for kind in groups}
    return [
        places[first : first + steps[kind]]
        for kind, places in groups.items()
        for first in range(0, len(places), steps[kind])
    ]


def _opened(template: Template, ask: Request, flag: str) -> np.ndarray:
    try:
        return template.prompt(ask.messages)
    except BadRecord as error:
        raise ConfigError(f"--{flag}: {error}") from error


def _want(ask: Request, ids: np.ndarray) -> SampleRequest:
    seeds = [derive_seed(ask.seed, g) for g in range(ask.samples)]
    return SampleRequest(ids, seeds, ask.max_new, {"temperature": ask.temperature}, ask.stop)


def _reply(answer: sampler.SampledText, tops: tuple[TokenLogprob, ...] | None) -> Completion:
    return Completion(answer.text, "stop" if answer.ended else CUT_OFF, tops)


def forward(plan: parallel.Plan, model: LM, params: Params) -> Callable:
    """(what, [R, T] ids, lengths, k) -> a forward pass of training over whole rows: `means` or `tops`."""

    def hidden(params: Params, batch: Any) -> Any:
        T = batch["tokens"].shape[-1]
        places = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), batch["tokens"].shape)
        inside = (places < batch["length"][:, None]).astype(jnp.int32)
        found = model.hidden(
            params, {"tokens": batch["tokens"], "positions": places * inside, "segments": inside}
        )
        return found, inside

    def means(params: Params, _: Any, batch: Any) -> Any:
        found, inside = hidden(params, batch)
        return (found * inside[..., None]).astype(jnp.float32).sum(1) / jnp.maximum(inside.sum(1), 1)[:, None]

    def tops(k: int, params: Params, _: Any, batch: Any) -> Any:
        logps = jax.nn.log_softmax(logits(hidden(params, batch)[0], model.head(params)))
        values, ids = jax.lax.top_k(logps, k)
        own = jnp.take_along_axis(logps[:, :-1], batch["tokens"][:, 1:, None], -1)[..., 0]
        return own, values, ids

    compiled: dict[Any, Callable] = {}

    def look(rows: Sequence[np.ndarray], k: int = 0) -> Any:
        """With k the log-probability of each token after the first, and the k likeliest ones; else mean hiddens."""
        if k not in compiled:
            compiled[k] = plan.rows(functools.partial(tops, k) if k else means)
        width = BUCKET
        while width < max(map(len, rows)):
            width *= 2
        count = -(-(1 << (len(rows) - 1).bit_length()) // plan.shards) * plan.shards
        batch = {"tokens": np.zeros((count, width), np.int32), "length": np.zeros(count, np.int32)}
        for i, row in enumerate(rows):
            batch["tokens"][i, : len(row)], batch["length"][i] = row, len(row)
        found = plan.get(compiled[k](params, (), plan.put(batch)))
        return jax.tree.map(lambda x: x[: len(rows)], found)

    return look


def _tops(
    look: Callable, template: Template, prompt: np.ndarray, answers: Sequence[sampler.SampledText], k: int
) -> list[tuple[TokenLogprob, ...] | None]:
    if not k:
        return [None] * len(answers)
    decode = template.tokenizer.decode
    own, values, ids = look([np.concatenate([prompt, np.array(one.ids, np.int32)]) for one in answers], k)
    told = []
    for row, one in enumerate(answers):
        first = len(prompt) - 1
        told.append(
            tuple(
                TokenLogprob(
                    decode([token]),
                    float(own[row, first + t]),
                    tuple(
                        (decode([int(i)]), float(v))
                        for i, v in zip(ids[row, first + t], values[row, first + t], strict=True)
                    ),
                )
                for t, token in enumerate(one.ids)
            )
        )
    return told


def embed_texts(look: Callable, rows: Sequence[np.ndarray], context: int) -> np.ndarray:
    """f32[N, D]: the mean hidden state of each text; of one longer than the context, of its beginning."""
    cut = [np.asarray(row[: context or None], np.int32) for row in rows]
    parts = [look(cut[first : first + AT_ONCE]) for first in range(0, len(cut), AT_ONCE)]
    return np.concatenate(parts)


def completion_logps(
    look: Callable, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inside's logps. A prompt has a token at least."""
    found = []
    for first in range(0, len(pairs), AT_ONCE):
        part = pairs[first : first + AT_ONCE]
        own, _, best = look([np.concatenate(pair).astype(np.int32) for pair in part], 1)
        for row, (prompt, answer) in enumerate(part):
            place = slice(len(prompt) - 1, len(prompt) - 1 + len(answer))
            found.append((own[row, place], best[row, place, 0] == answer))
    return found
