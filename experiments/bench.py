"""Benchmark: tokens/s, FLOP/s, MFU and memory of a stage's training step, and the time to the first one."""

import dataclasses
from typing import Any, NamedTuple

from jaxtrain import config, flags
from jaxtrain.files import atomic


@dataclasses.dataclass(frozen=True)
class BenchTask(config.Group):
    # fmt: off
    task: str = config.arg("pretrain",
        "Whose step: of rows, or of pairs of --seq_len tokens (reward, dpo). sample: a fifth of --seq_len is prompt, "
        "the rest is drawn", choices=("pretrain", "sft", "reward", "dpo", "sample"))
    sizes: str = config.arg("bench-s+bench-s-gpt2", "Models to measure, of models/zoo.py, joined by +")
    rounds: int = config.arg(12, "Steps measured; the median and the best are shown. 0: compile only, for the memory",
        low=0)
    warmup_steps: int = config.arg(2, "Steps before them", low=1)
    json: str = config.arg("", "Also append one JSON object a model to this file")
    # fmt: on


@dataclasses.dataclass(frozen=True)
class Bench:
    what: BenchTask = config.group(BenchTask)
    model: config.Model = config.group(config.Model)
    data: config.Corpus = config.group(config.Corpus, seq_len=256, batch_size=8)
    optim: config.Optim = config.group(config.Optim, lr=3e-4, b2=0.95, warmup=0)
    run: config.Run = config.group(config.Run)


def main(cfg: Bench) -> None:
    """Measures each size with random tokens, on the same step, plan and optimizer as training."""
    from jaxtrain.models import zoo
    from jaxtrain.train import host

    host.keep_freed_memory()
    archs = {size: zoo.resolve(size) for size in cfg.what.sizes.split("+")}
    for size, arch in archs.items():
        if not arch.vocab:
            raise config.ConfigError(
                f"--sizes={size}: it has no vocabulary of its own; write {size},vocab=512"
            )

    from jaxtrain.train import parallel

    parallel.initialize()
    for size, arch in archs.items():
        one = measure_sampling if cfg.what.task == "sample" else measure
        numbers = {"task": cfg.what.task, "model": size, **one(cfg, arch)}
        print("  ".join(f"{name} {_shown(name, value)}" for name, value in numbers.items()), flush=True)
        if cfg.what.json:
            with open(cfg.what.json, "a", encoding="utf-8") as file:
                file.write(atomic.json_line(numbers))


class BenchWork(NamedTuple):
    """A step's work."""

    params: Any  # key -> parameters
    axes: Any
    objective: Any
    batch: dict[str, Any]
    tokens: int


def bench_work(task: str, model: Any, B: int, T: int, vocab: int, seed: int) -> BenchWork:
    """B random rows of T tokens, or B pairs of them, with an eighth of each as the prompt where there is one."""
    import functools

    import jax
    import numpy as np

    from experiments.dpo import DpoLoss
    from jaxtrain.models import reward as reward_model
    from jaxtrain.objectives import dpo, next_token, reward, sft

    shape = (B, 2, T) if task in ("reward", "dpo") else (B, T)
    ids = np.random.default_rng(seed).integers(0, vocab, (*shape[:-1], T + 1)).astype(np.int32)
    ones, places = np.ones(shape, np.int32), np.arange(T, dtype=np.int32)
    batch = {
        "tokens": ids[..., :-1],
        "targets": ids[..., 1:],
        "mask": (ones * (places >= (0 if task == "pretrain" else T // 8))).astype(np.float32),
        "segments": ones,
        "positions": places * ones,
        "row": np.arange(B, dtype=np.int32),
    }
    if task == "pretrain":
        batch["bytes"] = np.full(B, T, np.float32)
        objective = functools.partial(next_token.next_token, model=model)
    elif task == "sft":
        objective = functools.partial(sft.sft, model=model, loss="nll", label_smoothing=0.0, z_loss=0.0)
    elif task == "dpo":
        batch["ref_logps"] = np.full((B, 2), -T * np.log(vocab), np.float32)
        objective = functools.partial(dpo.dpo, model=model, loss="sigmoid", settings=DpoLoss().settings())
    else:
        batch["length"] = np.full((B, 2), T, np.int32)
        batch["prefer"] = np.tile(np.eye(2, k=1, dtype=np.float32), (B, 1, 1))
        batch["margin"] = np.zeros(B, np.float32)
        scorer = reward_model.build(model, 1)
        objective = functools.partial(reward.reward, scores=scorer.scores, loss="logistic", centering=0.0)
        return BenchWork(
            lambda key: scorer.grow(model.init(key), jax.random.fold_in(key, 1)),
            scorer.axes,
            objective,
            batch,
            batch["tokens"].size,
        )
    return BenchWork(model.init, model.axes, objective, batch, batch["tokens"].size)


def measure(cfg: Bench, arch: Any) -> dict:
    """One model's numbers by name."""
    import functools
    import statistics

    import jax

    from jaxtrain.models import transformer
    from jaxtrain.stages import session
    from jaxtrain.train import host, metrics, optim
    from jaxtrain.train.step import init_state, train_step

    plan, T = session.make_plan(cfg), cfg.data.seq_len
    model = transformer.build(arch, transformer.execution(cfg.model, plan.platform, plan.shards, plan.local))
    todo = bench_work(cfg.what.task, model, cfg.data.batch_size, T, arch.vocab, cfg.run.seed)
    tx = optim.optimizer(cfg.optim, 1000, todo.axes)
    taken = functools.partial(
        train_step, objective=todo.objective, tx=tx, microbatches=cfg.optim.microbatches
    )
    key = jax.random.key(cfg.run.seed)

    def start() -> Any:
        return init_state(todo.params(key), tx, key)

    numbers = {"logits": 4 * todo.tokens * arch.vocab, "jax": jax.__version__}
    if not cfg.what.rounds:
        shapes = jax.eval_shape(start), (), jax.eval_shape(lambda: todo.batch)
        program = jax.jit(taken, donate_argnums=0).lower(*shapes).compile().memory_analysis()
        return {"scratch_memory": program.temp_size_in_bytes, **numbers}
    step, state, batch = plan.step(taken), plan.init(start, todo.axes), plan.put(todo.batch)
    times, first = [], None
    for i in range(cfg.what.warmup_steps + cfg.what.rounds):
        before = host.clocks()
        state, metric = step(state, (), batch)
        jax.block_until_ready((state, metric))
        first = first or host.seconds_since_start()
        if i >= cfg.what.warmup_steps:
            times.append([b - a for a, b in zip(before, host.clocks(), strict=True)])
    wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    flops = transformer.flops_per_token(arch, T) * todo.tokens
    device = jax.devices()[0]
    peak = metrics.peak_flops(device.device_kind)
    peak = peak * jax.device_count() if peak else gemm_rate()
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use") or host.peak_memory()
    return {
        "tokens_per_s": todo.tokens / wall,
        "best_tokens_per_s": todo.tokens / min(t for t, _ in times),
        "flops_per_s": flops / wall,
        "mfu": flops / wall / peak,
        "peak_flops": peak,
        "peak_memory": memory,
        "first_step_s": first,
        "cpu_s": cpu,
        **numbers,
    }


def measure_sampling(cfg: Bench, arch: Any) -> dict:
    """Tokens/s of drawing a batch, prefill included, and what a bound on decoding leaves of them.

    A step of decoding takes at least as long as its products at the rate of one such product by itself, and as long as
    reading the weights once from memory.
    """
    import statistics

    import jax
    import numpy as np

    from jaxtrain.generate import engine, sampler
    from jaxtrain.models import transformer
    from jaxtrain.stages import session
    from jaxtrain.train import host

    plan, B, T = session.make_plan(cfg), cfg.data.batch_size, cfg.data.seq_len
    prompt, new = T // 5, T - T // 5
    model = transformer.build(arch, transformer.execution(cfg.model, plan.platform, plan.shards, plan.local))
    params = plan.init(lambda: model.init(jax.random.key(cfg.run.seed)), model.axes)
    decoder = engine.build_engine(plan, model, ends=(), max_new=new)
    ready, times, first = decoder.ready(params, ()), [], None
    ids = np.random.default_rng(cfg.run.seed).integers(0, arch.vocab, (B, prompt))
    for i in range(cfg.what.warmup_steps + max(cfg.what.rounds, 1)):
        before = host.clocks()
        completions = engine.complete(decoder, ready, sampler.prompt_batch(ids.tolist(), i, bucket=prompt))
        first = first or host.seconds_since_start()
        if i >= cfg.what.warmup_steps:
            times.append([b - a for a, b in zip(before, host.clocks(), strict=True)])
    if (completions.lengths != new).any():
        raise config.Failure("a row ended before its time")
    wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    flops = transformer.flops_per_token(arch, T) / 3 * B
    products, reading = flops / gemm_rate(B), 4 * transformer.parameters(arch) / memory_rate()
    bound = B / max(products, reading)
    return {
        "tokens_per_s": B * new / wall,
        "best_tokens_per_s": B * new / min(t for t, _ in times),
        "bound": bound,
        "share_of_bound": B * new / wall / bound,
        "products_ms": 1e3 * products,
        "reading_ms": 1e3 * reading,
        "first_step_s": first,
        "cpu_s": cpu,
        "jax": jax.__version__,
    }


def gemm_rate(rows: int = 2048) -> float:
    """FLOP/s of a `rows` x 256 x 1024 f32 product here, best of 30: the peak where none is published."""
    import jax
    import jax.numpy as jnp

    a, b = jnp.ones((rows, 256)), jnp.ones((256, 1024))
    return 2 * rows * 256 * 1024 / fastest(jax.jit(jnp.matmul), a, b)


def memory_rate() -> float:
    """Bytes/s at which a sum over 256 MiB reads them."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones(2**26)
    return x.nbytes / fastest(jax.jit(jnp.sum), x)


def fastest(f: Any, *args: Any) -> float:
    """Seconds of f(*args), best of 30."""
    import time

    best = float("inf")
    f(*args).block_until_ready()
    for _ in range(30):
        begun = time.perf_counter()
        f(*args).block_until_ready()
        best = min(best, time.perf_counter() - begun)
    return best


def _shown(name: str, value: Any) -> str:
    if name in ("peak_memory", "scratch_memory", "logits"):
        return f"{value / 2**20:,.0f} MiB"
    if name in ("flops_per_s", "peak_flops"):
        return f"{value / 1e9:,.1f} GF/s"
    if isinstance(value, float):
        return f"{value:,.3f}" if value < 100 else f"{value:,.0f}"
    return str(value)


if __name__ == "__main__":
    flags.launch(Bench, main, "./launch/run bench")
