"""The model that a run trains as evaluation tasks see it: log-probabilities and completions from its own parameters."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain.config import Failure, StageConfig
from jaxtrain.data import packing
from jaxtrain.files import progress
from jaxtrain.generate import batch_sampler, sampler, stop_strings
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.ops.logprobs import token_stats
from jaxtrain.stages import init_from, sampling
from jaxtrain.stages.session import Session, policy_session
from jaxtrain.tasks.task_model import Pair, Scores, TaskModel, TextPrompt, after_bos
from jaxtrain.types import Batch, Params

BUCKET = 32  # rows have a power of two times this many tokens, so that few programs are compiled


class TaskModels(NamedTuple):
    """The TaskModel of any parameters, whose programs are compiled once."""

    of_params: Callable[[Params], TaskModel]  # of what is trained; the base of adapters is the session's
    take_cut: Callable[[], int]  # the number of prompts that lost their beginning since it was called


def open_models(cfg: StageConfig, session: Session) -> TaskModels:
    """A run's TaskModels. A call scores at most as many tokens as a step of training has in a microbatch."""
    policy, cuts = policy_session(session), [0]
    tokens = cfg.data.batch_size * cfg.data.seq_len // cfg.optim.microbatches
    logps, generate = pair_scorer(policy, tokens), text_generator(policy, cfg.run.seed)
    tokenizer = session.start.tokenizer

    def count_cut() -> None:
        cuts[0] += 1

    def take_cut() -> int:
        count, cuts[0] = cuts[0], 0
        return count

    def of_params(params: Params) -> TaskModel:
        def complete(prompts: Sequence[TextPrompt]) -> list[str]:
            return generate(model, params, prompts)

        model = TaskModel(
            tokenizer.encode, tokenizer.bos, session.arch.max_len, functools.partial(logps, params),
            complete, count_cut,
        )  # fmt: skip
        return model

    return TaskModels(of_params, take_cut)


def pair_scorer(session: Session, tokens: int) -> Callable[[Params, Sequence[Pair]], Scores]:
    """A function from what is trained and pairs of context and continuation to the continuations' log-probabilities.

    It runs the training forward pass on at most about `tokens` tokens at once, pairs of similar length together.
    """
    plan, pad = session.plan, session.start.tokenizer.pad

    def likeliest(x: Array, targets: Array) -> dict[str, Array]:
        return {"likeliest": (x.argmax(-1) == targets).astype(jnp.float32)}

    def stats(params: Params, base: Params, batch: Batch) -> dict[str, Array]:
        whole, targets = session.trained.whole(params, base), batch["targets"]
        hidden, head = session.model.hidden(whole, batch), session.model.head(whole)
        return token_stats(hidden, head, targets, beside=(targets,), also=likeliest)

    compiled = plan.rows(stats)

    def logps(params: Params, pairs: Sequence[Pair]) -> Scores:
        lengths = [len(context) + len(own) - 1 for context, own in pairs]
        order = np.argsort(lengths, kind="stable")[
            ::-1
        ].tolist()  # the longest first: memory is short at once
        scores: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        while len(scores) < len(pairs):
            progress.stop_point(f"log-probabilities, continuation {len(scores)} of {len(pairs)}")
            width = -(-sampler.bucketed(lengths[order[len(scores)]], BUCKET) // plan.context) * plan.context
            most = max(1, tokens // width // plan.shards) * plan.shards
            part = order[len(scores) :][:most]
            rows = [_row(pairs[i], width, pad) for i in part]
            count = min(most, batch_sampler.padded_rows(len(part), plan.shards))
            rows += [rows[0]] * (count - len(rows))
            local = plan.local_rows(count).tolist()
            batch = {name: np.stack([rows[r][name] for r in local]) for name in rows[0]}
            found = plan.get(compiled(params, session.base, plan.put(batch)))
            for row, i in enumerate(part):
                place = slice(len(pairs[i][0]) - 1, lengths[i])
                scores[i] = found["logps"][row, place], found["likeliest"][row, place] > 0
        return [scores[i] for i in range(len(pairs))]

    return logps


def _row(pair: Pair, width: int, pad: int) -> dict[str, np.ndarray]:
    ids = np.concatenate(pair).astype(np.int32)
    row = packing.assemble([(ids, np.ones(len(ids) - 1, np.float32))], width, pad)
    return {name: row[name] for name in ("tokens", "targets", "segments", "positions")}


def text_generator(
    session: Session, seed: int
) -> Callable[[TaskModel, Params, Sequence[TextPrompt]], list[str]]:
    """A function that completes texts with what is trained, as lm-eval's generate_until has them."""
    tokenizer, plan, context = session.start.tokenizer, session.plan, session.arch.max_len
    ends = init_from.end_ids(session.start, (tokenizer.eos,))
    engines: dict[int, Any] = {}

    def request(model: TaskModel, prompt: TextPrompt) -> SampleRequest:
        ids = after_bos(model, tokenizer.encode([prompt.text])[0])
        if context and prompt.max_new >= context:
            raise Failure(
                f"--eval_tasks: a completion of {prompt.max_new} tokens (max_gen_toks) leaves no room for its prompt "
                f"in the context of {context}"
            )
        if context and len(ids) > context - prompt.max_new:
            model.count_cut()
            ids = ids[prompt.max_new - context :]
        own = [sampler.completion_seed(seed, prompt.number, 0)]
        return SampleRequest(ids.tolist(), own, prompt.max_new, {"temperature": prompt.temperature})

    def generate(model: TaskModel, params: Params, prompts: Sequence[TextPrompt]) -> list[str]:
        if not prompts:
            return []
        requests = [request(model, prompt) for prompt in prompts]
        max_new = sampler.bucketed(max(prompt.max_new for prompt in prompts))
        if max_new not in engines:
            engines[max_new] = sampling.request_sampler(session, ends, max_new=max_new)
        size = batch_sampler.prompts_per_call(len(requests), 1, plan.shards)
        completions = engines[max_new](params, session.base)(requests, size)
        texts = [tokenizer.decode_completion(one.text_ids) for one in completions]
        return [
            text[: stop_strings.find_stop(text, [stop for stop in prompt.stops if stop])]
            for prompt, text in zip(prompts, texts, strict=True)
        ]

    return generate
