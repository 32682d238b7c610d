"""What --generator, --expert and --judge may name: a run, a Hugging Face directory, or an endpoint."""

import functools
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import chat
from jaxtrain.data.chat import Template
from jaxtrain.data.messages import BadRecord
from jaxtrain.data.response import opens_thought
from jaxtrain.files import progress
from jaxtrain.generate import batch_sampler
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.generate.sampler import bucketed
from jaxtrain.inference import config as inference_config
from jaxtrain.inference import remote
from jaxtrain.inference.config import MachineFlags
from jaxtrain.inference.llm import (
    CUT_OFF,
    LLM,
    REFUSED,
    Completion,
    LocalModel,
    Request,
    TokenLogprob,
    Usage,
    completion_of,
    derive_seed,
)
from jaxtrain.inference.sampler import SampledText, text_sampler
from jaxtrain.ops.logprobs import logits
from jaxtrain.stages import init_from
from jaxtrain.stages.load_model import LoadedModel, inference_plan, load_model
from jaxtrain.train import parallel, processes
from jaxtrain.types import LM, Batch, Params

AT_ONCE = 64  # completions of one call
TAIL = 32  # last tokens of a prompt, in which it may open the thought
BUCKET = 32  # rows of a forward pass have a power of two times this many tokens


def open_llm(
    text: str, flag: str, settings: inference_config.EndpointFlags, machine: MachineFlags, max_new: int
) -> LLM:
    """The model that --`flag` names, for completions of at most `max_new` tokens. Raises ConfigError for none."""
    if inference_config.is_url(text):
        return remote.open_endpoint(
            text, flag, settings, Path(machine.cache_dir).expanduser() / "requests.sqlite"
        )
    return local_llm(load_local(text, flag, machine), text, flag, max_new)


def load_local(text: str, flag: str, machine: MachineFlags) -> LoadedModel:
    """The run or Hugging Face directory that --`flag` names, loaded in one process. Raises ConfigError for none."""
    start = init_from.load_run(text, flag, causal=True)
    plan = inference_plan(config.Run(mesh=machine.mesh), machine.cache_dir)
    if plan.process[1] > 1:
        raise ConfigError(
            f"--{flag}={text}: a run is sampled in one process; serve it, and name the server's URL"
        )
    return load_model(start, plan, machine.model())


def serving_plan(machine: MachineFlags) -> parallel.Plan:
    """The plan of a model that also serves: one program over all devices of one process. Raises ConfigError."""
    processes.initialize(machine.cache_dir)
    if jax.process_count() > 1:
        raise ConfigError("serving takes one process; --mesh spreads the model over its devices")
    kind = "mesh" if jax.device_count() > 1 else "auto"
    return parallel.make(config.Run(mesh=machine.mesh, parallel=kind))


def local_llm(loaded: LoadedModel, name: str, flag: str, max_new: int) -> LLM:
    """A loaded model as an LLM, for completions of at most `max_new` tokens; messages name --`flag`."""
    model, params, plan, start = loaded
    has_template = bool(start.tokenizer.chat_template)
    raw = chat.load_template("none", start.tokenizer)
    template = chat.load_template("auto", start.tokenizer, otherwise="none")
    templates = {True: raw, False: template}  # by Request.raw
    context = start.arch.max_len
    samplers = {
        is_raw: text_sampler(plan, model, params, one, init_from.end_ids(start, one.ends), max_new, context)
        for is_raw, one in templates.items()
    }
    usage, forward = Usage(), forward_fn(plan, model, params)

    def generate(requests: Sequence[Request]) -> list[list[Completion]]:
        prompts = [_encode(templates[request.raw], request, flag) for request in requests]
        full = [i for i, ids in enumerate(prompts) if context and len(ids) >= context]
        completions = {i: [Completion("", REFUSED)] * requests[i].samples for i in full}
        usage.add(refused=len(full))
        for places in _calls(requests, set(full)):
            part = [requests[i] for i in places]
            is_raw, n = part[0].raw, part[0].samples
            texts = samplers[is_raw].sample([_sample_request(requests[i], prompts[i]) for i in places])
            for k, i in enumerate(places):
                own = texts[k * n : (k + 1) * n]
                logprobs = _token_logprobs(
                    forward, templates[is_raw], prompts[i], own, requests[i].top_logprobs
                )
                opened = not is_raw and opens_thought(template.tokenizer.decode(prompts[i][-TAIL:]))
                completions[i] = [
                    completion_of(
                        one.text, "stop" if one.ended else CUT_OFF, logps, raw=is_raw, opened=opened
                    )
                    for one, logps in zip(own, logprobs, strict=True)
                ]
            usage.add(
                requests=len(part),
                tokens_in=sum(len(prompts[i]) for i in places),
                tokens_out=sum(len(one.ids) for one in texts),
            )
        return [completions[i] for i in range(len(requests))]

    encode = start.tokenizer.encode
    return LLM(
        start.lineage.get("origin") or name,
        generate,
        has_template,
        usage,
        embed=lambda texts: embed_texts(forward, encode(texts), context),
        notes=tuple(("template", note) for note in template.notes),
        local=LocalModel(template, lambda pairs: token_logps(forward, pairs), context),
    )


def _calls(requests: Sequence[Request], without: Set[int]) -> list[list[int]]:
    """The places of requests in groups that one call can sample."""
    groups: dict[tuple, list[int]] = {}
    for i, request in enumerate(requests):
        if i not in without:
            groups.setdefault((request.raw, request.samples), []).append(i)
    sizes = {kind: max(1, AT_ONCE // kind[1]) for kind in groups}
    return [
        places[first : first + sizes[kind]]
        for kind, places in groups.items()
        for first in range(0, len(places), sizes[kind])
    ]


def _encode(template: Template, request: Request, flag: str) -> np.ndarray:
    try:
        return template.encode_prompt(request.messages)
    except BadRecord as error:
        raise ConfigError(f"--{flag}: {error}") from error


def _sample_request(request: Request, ids: np.ndarray) -> SampleRequest:
    seeds = [derive_seed(request.seed, g) for g in range(request.samples)]
    return SampleRequest(ids, seeds, request.max_new, {"temperature": request.temperature}, request.stop)


class Forward(Protocol):
    """The training forward pass over whole rows of tokens i32[n].

    With k: (log-probability f32[R, T-1] of each token after the first, those f32[R, T, k] of the k likeliest ones,
    these i32[R, T, k]). Without: the mean hidden states f32[R, D].
    """

    def __call__(self, rows: Sequence[np.ndarray], k: int = 0) -> Any: ...


def forward_fn(plan: parallel.Plan, model: LM, params: Params) -> Forward:
    """A model's forward pass, compiled for few shapes: log-probabilities, or mean hidden states."""

    def hidden(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        T = batch["tokens"].shape[-1]
        places = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), batch["tokens"].shape)
        inside = (places < batch["length"][:, None]).astype(jnp.int32)
        columns = {"tokens": batch["tokens"], "positions": places * inside, "segments": inside}
        return model.hidden(params, columns), inside

    def means(params: Params, _: Any, batch: Batch) -> jax.Array:
        x, inside = hidden(params, batch)
        return (x * inside[..., None]).astype(jnp.float32).sum(1) / jnp.maximum(inside.sum(1), 1)[:, None]

    def logprobs(k: int, params: Params, _: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        logps = jax.nn.log_softmax(logits(hidden(params, batch)[0], model.head(params)))
        values, ids = jax.lax.top_k(logps, k)
        own = jnp.take_along_axis(logps[:, :-1], batch["tokens"][:, 1:, None], -1)[..., 0]
        return own, values, ids

    compiled: dict[int, Callable] = {}

    def forward(rows: Sequence[np.ndarray], k: int = 0) -> Any:
        if k not in compiled:
            compiled[k] = plan.rows(functools.partial(logprobs, k) if k else means)
        width = bucketed(max(map(len, rows)), BUCKET)
        count = batch_sampler.padded_rows(len(rows), plan.shards)
        batch = {"tokens": np.zeros((count, width), np.int32), "length": np.zeros(count, np.int32)}
        for i, row in enumerate(rows):
            batch["tokens"][i, : len(row)], batch["length"][i] = row, len(row)
        columns = plan.get(compiled[k](params, (), plan.put(batch)))
        return jax.tree.map(lambda x: x[: len(rows)], columns)

    return forward


def _token_logprobs(
    forward: Forward, template: Template, prompt: np.ndarray, texts: Sequence[SampledText], k: int
) -> list[tuple[TokenLogprob, ...] | None]:
    """Of each completion's tokens the log-probability, with the k likeliest ones; None without k."""
    if not k:
        return [None] * len(texts)
    decode = template.tokenizer.decode
    own, values, ids = forward([np.concatenate([prompt, np.array(one.ids, np.int32)]) for one in texts], k)

    def token_logprob(row: int, t: int, token: int) -> TokenLogprob:
        likeliest = zip(ids[row, t], values[row, t], strict=True)
        return TokenLogprob(
            decode([token]), float(own[row, t]), tuple((decode([int(i)]), float(v)) for i, v in likeliest)
        )

    first = len(prompt) - 1
    return [
        tuple(token_logprob(row, first + t, token) for t, token in enumerate(one.ids))
        for row, one in enumerate(texts)
    ]


def embed_texts(forward: Forward, rows: Sequence[np.ndarray], context: int) -> np.ndarray:
    """f32[N, D]: the mean hidden state of each text; of one longer than the context, of its beginning."""
    cut = [np.asarray(row[: context or None], np.int32) for row in rows]
    parts = []
    for first in range(0, len(cut), AT_ONCE):
        progress.report(f"embeddings, text {first} of {len(cut)}")
        parts.append(forward(cut[first : first + AT_ONCE]))
    return np.concatenate(parts)


def token_logps(
    forward: Forward, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """LocalModel's logps: of each completion (log-probabilities f32[n], whether the token is the likeliest bool[n]).

    A prompt has a token at least.
    """
    logps = []
    for first in range(0, len(pairs), AT_ONCE):
        progress.report(f"log-probabilities, completion {first} of {len(pairs)}")
        part = pairs[first : first + AT_ONCE]
        own, _, best = forward([np.concatenate(pair).astype(np.int32) for pair in part], 1)
        for row, (prompt, completion) in enumerate(part):
            place = slice(len(prompt) - 1, len(prompt) - 1 + len(completion))
            logps.append((own[row, place], best[row, place, 0] == completion))
    return logps
