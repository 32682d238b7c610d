"""What a training step or a sampler works on in a benchmark: random tokens, on the same step and plan as training."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain import config
from jaxtrain.generate import engine, sampler
from jaxtrain.models import reward as reward_models
from jaxtrain.models.zoo import Arch
from jaxtrain.objectives import dpo, next_token, reward, sft
from jaxtrain.ops.preference import PreferenceSettings
from jaxtrain.stages.load_model import build_model
from jaxtrain.train import metrics, optim, parallel
from jaxtrain.train.parallel import Plan
from jaxtrain.train.step import init_state, train_step
from jaxtrain.types import LM, Key, Objective, Params

# DPO as its paper has it; what else the settings hold acts in other losses.
DPO_SETTINGS = PreferenceSettings(
    beta=0.1, label_smoothing=0.0, divergence="reverse_kl", alpha=0.5, reference_free=False, length_penalty=0.0,
    nll_weight=0.0, summed=False, gamma=1.0, tau=0.05, desirable_weight=1.0, undesirable_weight=1.0,
)  # fmt: skip


class StepWork(NamedTuple):
    """What one training step works on."""

    params: Callable[[Key], Params]
    axes: Any
    objective: Objective
    batch: dict[str, np.ndarray]
    tokens: int  # in the batch


def step_work(task: str, model: LM, B: int, T: int, vocab: int, seed: int, documents: int = 1) -> StepWork:
    """B random rows of T tokens, or B pairs of them, with an eighth of each as the prompt where there is one.

    Each row is that many documents, as equally long as can be.
    """
    shape = (B, 2, T) if task in ("reward", "dpo") else (B, T)
    ids = np.random.default_rng(seed).integers(0, vocab, (*shape[:-1], T + 1)).astype(np.int32)
    ones, places = np.ones(shape, np.int32), np.arange(T, dtype=np.int32)
    segments = places * documents // T
    starts = np.searchsorted(segments, segments).astype(np.int32)
    batch = {
        "tokens": ids[..., :-1],
        "targets": ids[..., 1:],
        "mask": (ones * (places >= (0 if task == "pretrain" else T // 8))).astype(np.float32),
        "segments": (1 + segments) * ones,
        "positions": (places - starts) * ones,
        "row": np.arange(B, dtype=np.int32),
    }
    params, axes = model.init, model.axes
    if task == "pretrain":
        batch["bytes"] = np.full(B, T, np.float32)
        objective = functools.partial(next_token.next_token, model=model)
    elif task == "sft":
        objective = functools.partial(
            sft.sft, model=model, loss="nll", dft_power=1.0, label_smoothing=0.0, z_loss=0.0
        )
    elif task == "dpo":
        batch["ref_logps"] = np.full((B, 2), -T * np.log(vocab), np.float32)
        objective = functools.partial(dpo.dpo, model=model, loss="sigmoid", settings=DPO_SETTINGS)
    else:
        batch["length"] = np.full((B, 2), T, np.int32)
        batch["prefer"] = np.tile(np.eye(2, k=1, dtype=np.float32), (B, 1, 1))
        batch["margin"] = np.zeros(B, np.float32)
        scorer = reward_models.build(model, 1)
        objective = functools.partial(reward.reward, scores=scorer.scores, loss="logistic", centering=0.0)
        params, axes = lambda key: scorer.grow(model.init(key), jax.random.fold_in(key, 1)), scorer.axes
    return StepWork(params, axes, objective, batch, batch["tokens"].size)


class TrainingStep(NamedTuple):
    """A training step of a plan, not yet compiled, and what it works on."""

    plan: Plan
    work: StepWork
    update: Callable[..., Any]  # train_step with objective and optimizer
    start: Callable[[], Any]  # the state before the first step

    def scratch_memory(self) -> int:
        """Bytes that the compiled step needs beside state and batch; nothing runs."""
        shapes = jax.eval_shape(self.start), (), jax.eval_shape(lambda: self.work.batch)
        program = jax.jit(self.update, donate_argnums=0).lower(*shapes).compile()
        return program.memory_analysis().temp_size_in_bytes

    def runner(self) -> Callable[[], Any]:
        """A function that takes one step and returns its state and metrics."""
        step, state = self.plan.step(self.update), self.plan.init(self.start, self.work.axes)
        batch = self.plan.put(self.work.batch)

        def run() -> Any:
            nonlocal state
            state, metric = step(state, (), batch)
            return state, metric

        return run


def training_step(
    plan: Plan,
    arch: Arch,
    settings: config.Model,
    how: config.Optim,
    task: str,
    B: int,
    T: int,
    *,
    seed: int,
    documents: int = 1,
) -> TrainingStep:
    """The step of a task on B random rows, or pairs, of T tokens in `documents` documents."""
    work = step_work(task, build_model(plan, arch, settings), B, T, arch.vocab, seed, documents)
    tx = optim.optimizer(how, 1000, work.axes)
    update = functools.partial(train_step, objective=work.objective, tx=tx, microbatches=how.microbatches)
    key = jax.random.key(seed)
    return TrainingStep(plan, work, update, lambda: init_state(work.params(key), tx, key))


def one_device() -> Plan:
    """The plan of a command in one process, on the first device alone."""
    return parallel.make(config.Run(), jax.devices()[:1])


def nominal_peak(plan: Plan) -> float | None:
    """Published dense bf16 FLOP/s of the plan's devices together, None where it is not known."""
    peaks = [metrics.peak_flops(device.device_kind) for device in plan.devices]
    return None if None in peaks else sum(peaks)


def peak_memory(plan: Plan) -> int | None:
    """Most bytes that were in use at once on the plan's first device, None where the platform does not say."""
    return (plan.devices[0].memory_stats() or {}).get("peak_bytes_in_use")


class SamplingWork(NamedTuple):
    """A sampler on random prompts, compiled for a plan."""

    engine: engine.Engine
    params: Params  # ready
    batch: dict[str, np.ndarray]

    def prefill(self) -> Any:
        """The decode state after the prompts; each row has its first token."""
        return self.engine.prefill(self.params, self.engine.plan.put(self.batch))

    def decode(self, state: Any) -> Any:
        """The state with all other tokens."""
        return self.engine.decode(self.params, state, self.engine.max_new - 1)


def sampler_engine(plan: Plan, arch: Arch, settings: config.Model, new: int) -> engine.Engine:
    """An engine whose completions have `new` tokens: no token ends one."""
    return engine.build_engine(plan, build_model(plan, arch, settings), ends=(), max_new=new)


def sampling(
    decoder: engine.Engine, ready: Params, vocab: int, B: int, prompt: int, seed: int
) -> SamplingWork:
    """A sampler after B random prompts of `prompt` tokens; `ready` is what the engine's `ready` gave."""
    ids = np.random.default_rng(seed).integers(0, vocab, (B, prompt))
    return SamplingWork(decoder, ready, sampler.prompt_batch(ids.tolist(), seed, bucket=prompt))
