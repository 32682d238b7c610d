"""Speed on the device: its own rates, training steps, decode. Each function is a part of the GPU check.

A part takes the sizes, its arguments, its seconds and a `report`; it returns what it left out for lack of time.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax

from jaxtrain import config
from jaxtrain.apps.benchmark import timing, workloads
from jaxtrain.apps.benchmark.process import LeftOut, Report, first_lines
from jaxtrain.apps.benchmark.sizes import CheckSizes, DecodingSize, TrainingSize
from jaxtrain.apps.benchmark.timing import Clock
from jaxtrain.models import transformer, zoo
from jaxtrain.stages.load_model import build_model
from jaxtrain.train import metrics

SEED = 0
OPTIM = config.Optim(lr=3e-4, b2=0.95, warmup=0)


def device(sizes: CheckSizes, seconds: float, report: Report) -> list[str]:
    """What jax says of the device, the peak of bf16 products, and the rate of a copy."""
    clock, first = Clock(seconds), jax.devices()[0]
    nominal = metrics.peak_flops(first.device_kind)
    report(
        "device",
        {
            "kind": first.device_kind,
            "platform": first.platform,
            "count": jax.device_count(),
            "memory": (first.memory_stats() or {}).get("bytes_limit"),
            "nominal_flops": nominal,
        },
    )
    n = sizes.matmul
    times = timing.matmul_timing(n, n, n, jax.numpy.bfloat16, warmup=3, repeats=8, calls=10, clock=clock)
    report("matmul", {"size": n, "seconds": times.record(), "flops_per_s": 2 * n**3 / times.median})
    times = timing.copy_timing(sizes.copy, warmup=3, repeats=8, calls=10, clock=clock)
    report(
        "copy", {"bytes": sizes.copy, "seconds": times.record(), "bytes_per_s": 2 * sizes.copy / times.median}
    )
    return []


def pretrain(sizes: CheckSizes, name: str, seconds: float, report: Report) -> list[str]:
    """Pretraining steps of one size, with the first of its settings that fits in memory."""
    if name not in sizes.pretrain:
        raise LeftOut(f"there is no {name} among these sizes")
    return _until_one_fits(sizes, name, "pretrain", sizes.pretrain[name], Clock(seconds), report)


def dpo(sizes: CheckSizes, seconds: float, report: Report) -> list[str]:
    """DPO steps; the reference's log-probabilities are a column of the batch, as they are in training."""
    return _until_one_fits(sizes, "1.3B", "dpo", sizes.dpo, Clock(seconds), report)


def _until_one_fits(
    sizes: CheckSizes, name: str, task: str, size: TrainingSize, clock: Clock, report: Report
) -> list[str]:
    for settings in size.settings:
        record = measured_step(sizes, task, size, settings, clock)
        report(f"{name} {named(settings)}", record)
        if "error" not in record:
            return []
    raise config.Failure("no setting fits: see the errors of each")


def named(settings: Mapping[str, Any]) -> str:
    """Settings as flags, and in words what is none; `defaults` where there are none."""
    words = {"rows": "--batch_size={}", "documents": "{} documents a row"}
    texts = [words.get(name, f"--{name}={{}}").format(value) for name, value in settings.items()]
    return " ".join(texts) or "defaults"


def measured_step(
    sizes: CheckSizes, task: str, size: TrainingSize, settings: Mapping[str, Any], clock: Clock
) -> dict[str, Any]:
    """Tokens/s, FLOP/s and memory of a training step; {"error"} where it does not fit or does not compile.

    Steps run ahead of the host as they do in training: a repeat is several in a row.
    """
    rows, documents = settings.get("rows", size.rows), settings.get("documents", 1)
    flags = {key: value for key, value in settings.items() if key not in ("rows", "documents")}
    arch, plan = zoo.resolve(size.model), workloads.one_device()
    model = config.Model(model=size.model, **flags)
    about = {"task": task, "model": size.model, "rows": rows, "length": size.length, "documents": documents}
    about["flags"] = flags
    begun = time.monotonic()
    try:
        step = workloads.training_step(
            plan, arch, model, OPTIM, task, rows, size.length, seed=SEED, documents=documents
        )
        run = step.runner()
        _, metric = jax.block_until_ready(run())
        first = time.monotonic() - begun
        times = timing.repeat(run, warmup=1, repeats=sizes.repeats, calls=sizes.calls, clock=clock)
    except jax.errors.JaxRuntimeError as error:
        return {**about, "error": first_lines(error)}
    tokens, flops = step.work.tokens, transformer.flops_per_token(arch, size.length // documents)
    loss, count = metric["loss"]
    return {
        **about,
        "plan": plan.name,
        "parameters": transformer.parameters(arch),
        "tokens": tokens,
        "seconds": times.record(),
        "tokens_per_s": tokens / times.median,
        "flops_per_token": flops,
        "flops_per_s": flops * tokens / times.median,
        "peak_memory": workloads.peak_memory(plan),
        "first_step_s": first,
        "first_loss": float(loss) / float(count),
    }


def decode(sizes: CheckSizes, seconds: float, report: Report) -> list[str]:
    """Decode at each batch, from a prefilled cache."""
    return list(_decoded(sizes, sizes.decode, {}, Clock(seconds), report))


def decode_graphs(sizes: CheckSizes, seconds: float, report: Report) -> list[str]:
    """Decode at the two smaller batches, in a process whose XLA puts loops into CUDA graphs, too."""
    size = sizes.decode._replace(batches=sizes.decode.batches[:2])
    return list(_decoded(sizes, size, {}, Clock(seconds), report))


def _decoded(
    sizes: CheckSizes, size: DecodingSize, flags: Mapping[str, Any], clock: Clock, report: Report
) -> Iterator[str]:
    """Reports each batch; yields those left out."""
    arch, plan, last = zoo.resolve(size.model), workloads.one_device(), 0.0
    settings = config.Model(model=size.model, **flags)
    model = build_model(plan, arch, settings)
    params = plan.init(lambda: model.init(jax.random.key(SEED)), model.axes)
    engine = workloads.sampler_engine(plan, arch, settings, size.new)
    ready = engine.ready(params, ())
    del params  # the f32 masters: the cache needs their memory
    for B in size.batches:
        begun = time.monotonic()
        if not clock.fits(last):
            yield f"batch {B}"
            continue
        try:
            work = workloads.sampling(engine, ready, arch.vocab, B, size.prompt, SEED)
            record = _decoding(sizes, work, clock)
        except jax.errors.JaxRuntimeError as error:
            record = {"error": first_lines(error)}
        about = {"model": size.model, "rows": B, "prompt": size.prompt, "new": size.new, "flags": dict(flags)}
        read = bytes_a_token(arch, B, size.prompt, size.new, itemsize(settings, plan.platform))
        report(
            f"batch {B}" + (f" {named(flags)}" if flags else ""), {**about, "bytes_a_step": read, **record}
        )
        last = time.monotonic() - begun


def itemsize(settings: config.Model, platform: str) -> int:
    """Bytes of a number in the type of computation."""
    return transformer.compute_dtype(settings, platform).itemsize


def bytes_a_token(arch: zoo.Arch, rows: int, prompt: int, new: int, itemsize: int) -> float:
    """The fewest bytes that a step of decode reads: each weight once, and the keys and values before each token.

    An untied embedding is looked up, not read; a window bounds what a layer reads. The mean over the completion.
    """
    weights = transformer.parameters(arch) - (0 if arch.tied else arch.vocab * arch.width)
    places = range(prompt, prompt + new - 1)  # the first token is prefill's
    keys = sum(min(place + 1, window or place + 1) for window in arch.windows() for place in places) / len(
        places
    )
    return itemsize * (weights + 2.0 * rows * arch.K * arch.C * keys)


def _decoding(sizes: CheckSizes, work: workloads.SamplingWork, clock: Clock) -> dict[str, Any]:
    """Times of prefill and of a step of decode."""
    begun = time.monotonic()
    jax.block_until_ready(work.decode(work.prefill()))
    first, steps = time.monotonic() - begun, work.engine.max_new - 1
    prefill = timing.repeat(work.prefill, warmup=0, repeats=sizes.repeats, clock=clock)
    walls, cpus = [], []
    for _ in range(
        sizes.repeats
    ):  # decode donates its state: each repeat needs a new one, which is not timed
        state = jax.block_until_ready(work.prefill())
        one = timing.repeat(lambda state=state: work.decode(state), warmup=0, repeats=1)
        walls.append(one.wall[0] / steps)
        cpus.append(one.cpu[0] / steps)
        if not clock.fits(2 * walls[-1] * steps + prefill.median):
            break
    times = timing.Timing(tuple(walls), tuple(cpus))
    rows = len(work.batch["length"])
    return {
        "prefill_seconds": prefill.record(),
        "step_seconds": times.record(),
        "tokens_per_s": rows / times.median,
        "first_call_s": first,
    }


def sweep(sizes: CheckSizes, seconds: float, report: Report) -> list[str]:
    """Other settings of pretraining and decode, in turn the next most promising of each size."""
    clock, missing, longest = Clock(seconds), [], 0.0
    for name, settings in _in_turn({name: size.sweep for name, size in sizes.pretrain.items()}):
        if not clock.fits(longest):
            missing.append(f"{name} {named(settings)}")
            continue
        begun = time.monotonic()
        report(
            f"{name} {named(settings)}",
            measured_step(sizes, "pretrain", sizes.pretrain[name], settings, clock),
        )
        longest = max(longest, time.monotonic() - begun)
    for flags in sizes.decode.sweep:
        left_out = _decoded(sizes, sizes.decode, flags, clock, report)
        missing += [f"decode {named(flags)}, {each}" for each in left_out]
    return missing


def _in_turn(lists: Mapping[str, Iterable[Any]]) -> Iterator[tuple[str, Any]]:
    """The first of each list, then the second of each, and so on, with the list's name."""
    left = {name: list(items) for name, items in lists.items()}
    while any(left.values()):
        for name, items in left.items():
            if items:
                yield name, items.pop(0)
