"""Where the completions of token prompts in rollouts come from: fixed batches, or continuous batching.

Fixed batches of episodes keep the KV cache from turn to turn.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.generate import continuous_sampler, sampler, turn_sampler
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.generate.engine import CHUNK, build_engine
from jaxtrain.rl.config import WatchedStageConfig
from jaxtrain.stages import sampling
from jaxtrain.stages.sampling import SampledTokens
from jaxtrain.stages.session import Session
from jaxtrain.types import Batch, Params

# (requests, prompts of a call) -> their completions, those of a prompt together
SampleRequests = Callable[[Sequence[SampleRequest], int], list[SampledTokens]]
# (session, ends, max_new=) -> (what is trained, the base) -> SampleRequests, as stages.sampling.request_sampler
MakeSampler = Callable[..., Callable[[Params, Params], SampleRequests]]


def maker_of(cfg: WatchedStageConfig) -> MakeSampler:
    """What makes the sampler that the flags name."""
    rows = cfg.sampler.rollout_rows
    if not rows and cfg.episodes.env:
        return functools.partial(of_turns, longest=cfg.data.seq_len)
    if not rows:
        return sampling.request_sampler

    def make(
        session: Session, ends: Sequence[int], *, max_new: int
    ) -> Callable[[Params, Params], SampleRequests]:
        return continuous(session, ends, max_new=max_new, longest=cfg.data.seq_len, rows=rows)

    return make


def of_turns(
    session: Session, ends: Sequence[int], *, max_new: int, longest: int
) -> Callable[[Params, Params], SampleRequests]:
    """Like stages.sampling.request_sampler for requests of one completion each, whose calls go on from one another;
    conversations have `longest` tokens at most.
    """
    engine = build_engine(
        session.plan, session.model, ends=ends, max_new=max_new, whole=session.trained.whole,
        slots=sampler.bucketed(longest),
    )  # fmt: skip

    def extend(params: Params, state: Any, _: Any, batch: Batch) -> Any:
        return turn_sampler.extend(session.model, params, state, batch, ends=ends)

    extended = engine.plan.carry(extend)

    def start(params: Params, base: Params) -> SampleRequests:
        ready, kept = engine.ready(params, base), None

        def sample(requests: Sequence[SampleRequest], size: int) -> list[SampledTokens]:
            nonlocal kept
            before, kept = kept, None  # its buffers are donated
            done, kept = turn_sampler.sample(
                engine, extended, ready, before, requests, context=session.arch.max_len, size=size
            )
            return [SampledTokens(one.ids, one.ids[-1] in ends, one.logps) for one in done]

        return sample

    return start


def continuous(
    session: Session, ends: Sequence[int], *, max_new: int, longest: int, rows: int
) -> Callable[[Params, Params], SampleRequests]:
    """Like stages.sampling.request_sampler, `rows` completions at a time by continuous batching; prompts have `longest`
    tokens at most. Raises ConfigError on devices that it does not run on.
    """
    if not session.plan.one_program():
        raise ConfigError(f"--rollout_rows={rows}: continuous batching takes one device, or --parallel=mesh")
    chunk = min(CHUNK, max_new)
    engine = build_engine(
        session.plan, session.model, ends=ends, max_new=max_new, max_steps=chunk, whole=session.trained.whole,
        slots=continuous_sampler.cache_slots(longest, max_new),
    )  # fmt: skip

    def start(params: Params, base: Params) -> SampleRequests:
        ready = engine.ready(params, base)

        def sample(requests: Sequence[SampleRequest], size: int) -> list[SampledTokens]:
            completions = continuous_sampler.sample(
                engine, ready, requests, context=session.arch.max_len, rows=rows, chunk=chunk
            )
            return [SampledTokens(one.ids, one.ids[-1] in ends, one.logps) for one in completions]

        return sample

    return start
