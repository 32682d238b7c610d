"""Where the completions of token prompts in rollouts come from: fixed batches, or continuous batching."""

from collections.abc import Callable, Sequence

from jaxtrain.config import ConfigError
from jaxtrain.generate import continuous_sampler
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.generate.engine import CHUNK, build_engine
from jaxtrain.rl.config import WatchedStageConfig
from jaxtrain.stages import sampling
from jaxtrain.stages.sampling import SampledTokens
from jaxtrain.stages.session import Session
from jaxtrain.types import Params

# (requests, prompts of a call) -> their completions, those of a prompt together
SampleRequests = Callable[[Sequence[SampleRequest], int], list[SampledTokens]]
# (session, ends, max_new=) -> (what is trained, the base) -> SampleRequests, as stages.sampling.request_sampler
MakeSampler = Callable[..., Callable[[Params, Params], SampleRequests]]


def maker_of(cfg: WatchedStageConfig) -> MakeSampler:
    """What makes the sampler that the flags name."""
    rows = cfg.sampler.rollout_rows
    if not rows:
        return sampling.request_sampler

    def make(
        session: Session, ends: Sequence[int], *, max_new: int
    ) -> Callable[[Params, Params], SampleRequests]:
        return continuous(session, ends, max_new=max_new, longest=cfg.data.seq_len, rows=rows)

    return make


def continuous(
    session: Session, ends: Sequence[int], *, max_new: int, longest: int, rows: int
) -> Callable[[Params, Params], SampleRequests]:
    """Like stages.sampling.request_sampler, `rows` completions at a time by continuous batching; prompts have `longest`
    tokens at most. Raises ConfigError on devices that it does not run on.
    """
    if session.plan.process[1] > 1 or not session.plan.one_program():
        raise ConfigError(
            f"--rollout_rows={rows}: continuous batching takes one process, and one device or --parallel=mesh"
        )
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
