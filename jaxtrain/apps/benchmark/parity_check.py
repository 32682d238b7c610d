"""One model two ways on the device: packed rows and single documents, sampler and trainer. A part of the GPU check."""

import functools
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxtrain import config
from jaxtrain.apps.benchmark import workloads
from jaxtrain.apps.benchmark.process import Report
from jaxtrain.apps.benchmark.sizes import CheckSizes
from jaxtrain.apps.benchmark.timing import Clock
from jaxtrain.generate import engine
from jaxtrain.models import zoo
from jaxtrain.ops.logprobs import token_stats
from jaxtrain.stages.load_model import build_model
from jaxtrain.train import parallel
from jaxtrain.types import LM, Batch, Params

# Nats. A token's log-probability is rounded by hundredths in bfloat16; that is noise, whose mean must be near 0.
MOST_F32, MOST_BF16, MOST_MEAN = 1e-3, 0.05, 1e-3
DOCUMENTS = 4  # of a packed row


def parity(sizes: CheckSizes, seconds: float, report: Report) -> list[str]:
    """Differences in nats a token; `good` where they are within rounding."""
    clock, arch, plan = Clock(seconds), zoo.resolve(sizes.parity), workloads.one_device()
    make = functools.partial(build_model, plan, arch)
    exact = config.Model(model=sizes.parity, dtype="float32", attention="xla")
    low = config.Model(model=sizes.parity, dtype="bfloat16")
    params = plan.init(lambda: make(exact).init(jax.random.key(0)), {})
    with jax.default_matmul_precision("highest"):
        record = packed(plan, make(exact), params, sizes, arch.vocab)
    report("packed rows, f32", {**record, "good": record["largest"] < MOST_F32})
    record = packed(plan, make(low), params, sizes, arch.vocab)
    report("packed rows, bf16", {**record, "good": record["mean_absolute"] < MOST_BF16})
    if not clock.fits(1):
        return ["sampler"]
    record = sampler(plan, arch, low, params, sizes)
    report("sampler beside trainer, bf16", {**record, "good": abs(record["mean"]) < MOST_MEAN})
    return []


def logps(model: LM, params: Params, frozen: Params, batch: Batch) -> Array:
    """f32[B, T], the log-probability of each target."""
    return token_stats(model.hidden(params, batch), model.head(params), batch["targets"])["logps"]


def packed(plan: parallel.Plan, model: LM, params: Params, sizes: CheckSizes, vocab: int) -> dict[str, float]:
    """Log-probabilities in rows of DOCUMENTS documents less those of each document in a row of its own."""
    together, alone, places = documents(sizes.parity_rows // DOCUMENTS, sizes.parity_length, vocab)
    run = plan.rows(functools.partial(logps, model))
    rows = plan.get(run(params, (), plan.put(together)))
    single = plan.get(run(params, (), plan.put(alone)))
    difference = [rows[i, a:b] - single[j, : b - a] for j, (i, a, b) in enumerate(places)]
    return differences(np.concatenate(difference), rows)


def documents(rows: int, length: int, vocab: int) -> tuple[Batch, Batch, list[tuple[int, int, int]]]:
    """(packed rows, the same documents in a row each, (row, start, end) of each document in the packed rows)."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocab, (rows, length + 1)).astype(np.int32)
    cuts = np.sort(rng.permuted(np.tile(np.arange(1, length), (rows, 1)), axis=1)[:, : DOCUMENTS - 1], axis=1)
    bounds = np.concatenate([np.zeros((rows, 1), int), cuts, np.full((rows, 1), length)], axis=1)
    places = [
        (i, int(a), int(b)) for i in range(rows) for a, b in zip(bounds[i, :-1], bounds[i, 1:], strict=True)
    ]

    def empty(count: int) -> Batch:
        return {
            name: np.zeros((count, length), np.int32)
            for name in ("tokens", "targets", "segments", "positions")
        }

    together, alone = empty(rows), empty(len(places))
    for j, (i, a, b) in enumerate(places):
        for batch, row, start, segment in ((together, i, a, 1 + j % DOCUMENTS), (alone, j, 0, 1)):
            end = start + b - a
            batch["tokens"][row, start:end] = ids[i, a:b]
            batch["targets"][row, start:end] = ids[i, a + 1 : b + 1]
            batch["segments"][row, start:end] = segment
            batch["positions"][row, start:end] = np.arange(b - a)
    return together, alone, places


def sampler(
    plan: parallel.Plan, arch: zoo.Arch, settings: config.Model, params: Params, sizes: CheckSizes
) -> dict[str, Any]:
    """Log-probabilities that sampling gives less those that the training forward pass gives the same tokens."""
    prompt, T = sizes.parity_prompt, sizes.parity_length
    decoder = workloads.sampler_engine(plan, arch, settings, T - prompt)
    work = workloads.sampling(decoder, decoder.ready(params, ()), arch.vocab, sizes.parity_rows, prompt, 0)
    completions = engine.complete(work.engine, work.params, work.batch)
    ids = np.concatenate([work.batch["prompt"][:, :prompt], completions.tokens], axis=1)
    batch = {"tokens": ids, "targets": np.roll(ids, -1, axis=1), "segments": np.ones_like(ids)}
    batch["positions"] = np.tile(np.arange(T, dtype=np.int32), (len(ids), 1))
    run = plan.rows(functools.partial(logps, build_model(plan, arch, settings)))
    trained = plan.get(run(params, (), plan.put(batch)))[:, prompt - 1 : -1]
    return differences(completions.logps - trained, trained)


def differences(d: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    """What there is to say of differences in nats a token, and the spread of the log-probabilities themselves."""
    d = np.asarray(d, np.float64).ravel()
    return {
        "tokens": d.size,
        "mean": float(d.mean()),
        "standard_error": float(d.std() / d.size**0.5),
        "mean_absolute": float(np.abs(d).mean()),
        "largest": float(np.abs(d).max()),
        "logps_spread": float(np.std(values)),
    }
