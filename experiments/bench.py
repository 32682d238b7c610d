"""Benchmark: tokens/s, FLOP/s, MFU and peak memory of the training step, and the time to the first one."""

import dataclasses

from jaxtrain import config, flags


@dataclasses.dataclass(frozen=True)
class What(config.Group):
    sizes: str = config.arg("bench-s+bench-s-gpt2", "Models to measure, of models/zoo.py, joined by +")
    rounds: int = config.arg(12, "Steps measured; the median and the best are shown", low=1)
    warmup_steps: int = config.arg(2, "Steps before them", low=1)
    json: str = config.arg("", "Also append one JSON object a model to this file")


@dataclasses.dataclass(frozen=True)
class Bench:
    what: What = config.group(What)
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

    import json

    from jaxtrain.train import parallel

    parallel.initialize()
    for size, arch in archs.items():
        found = measure(cfg, size, arch)
        print("  ".join(f"{name} {_shown(name, value)}" for name, value in found.items()), flush=True)
        if cfg.what.json:
            with open(cfg.what.json, "a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")


def measure(cfg: Bench, size: str, arch) -> dict:
    """One model's numbers by name."""
    import functools
    import statistics

    import jax
    import numpy as np

    from experiments import common
    from jaxtrain.models import transformer
    from jaxtrain.objectives.next_token import next_token
    from jaxtrain.train import host, metrics, optim
    from jaxtrain.train.step import init_state, train_step

    B, T = cfg.data.batch_size, cfg.data.seq_len
    plan = common.plan_of(cfg)
    model = transformer.build(arch, transformer.execution(cfg.model, plan.shards, plan.local))
    tx = optim.optimizer(cfg.optim, 1000, model.axes)
    step = plan.step(
        functools.partial(
            train_step,
            objective=functools.partial(next_token, model=model),
            tx=tx,
            microbatches=cfg.optim.microbatches,
        )
    )
    key = jax.random.key(cfg.run.seed)
    state = plan.init(lambda: init_state(model.init(key), tx, key), model.axes)
    ids = np.random.default_rng(cfg.run.seed).integers(0, arch.vocab, (B, T + 1)).astype(np.int32)
    ones = np.ones((B, T), np.int32)
    batch = plan.put(
        {
            "tokens": ids[:, :-1],
            "targets": ids[:, 1:],
            "mask": ones.astype(np.float32),
            "segments": ones,
            "positions": np.arange(T, dtype=np.int32) * ones,
            "row": np.arange(B, dtype=np.int32),
            "bytes": np.full(B, T, np.float32),
        }
    )
    times, first = [], None
    for i in range(cfg.what.warmup_steps + cfg.what.rounds):
        before = host.clocks()
        state, found = step(state, (), batch)
        jax.block_until_ready((state, found))
        first = first or host.seconds_since_start()
        if i >= cfg.what.warmup_steps:
            times.append([b - a for a, b in zip(before, host.clocks(), strict=True)])
    wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    flops = transformer.flops_per_token(arch, T) * B * T
    device = jax.devices()[0]
    peak = metrics.peak_flops(device.device_kind)
    peak = peak * jax.device_count() if peak else gemm_rate()
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use") or host.peak_memory()
    return {
        "model": size,
        "tokens_per_s": B * T / wall,
        "best_tokens_per_s": B * T / min(t for t, _ in times),
        "flops_per_s": flops / wall,
        "mfu": flops / wall / peak,
        "peak_flops": peak,
        "peak_memory": memory,
        "first_step_s": first,
        "cpu_s": cpu,
        "jax": jax.__version__,
    }


def gemm_rate() -> float:
    """FLOP/s of a 2048 x 256 x 1024 f32 product here, best of 30: the peak where none is published."""
    import time

    import jax
    import jax.numpy as jnp

    a, b = jnp.ones((2048, 256)), jnp.ones((256, 1024))
    f, best = jax.jit(jnp.matmul), float("inf")
    f(a, b).block_until_ready()
    for _ in range(30):
        begun = time.perf_counter()
        f(a, b).block_until_ready()
        best = min(best, time.perf_counter() - begun)
    return 2 * 2048 * 256 * 1024 / best


def _shown(name: str, value) -> str:
    if name == "peak_memory":
        return f"{value / 2**20:,.0f} MiB"
    if name in ("flops_per_s", "peak_flops"):
        return f"{value / 1e9:,.1f} GF/s"
    if isinstance(value, float):
        return f"{value:,.3f}" if value < 100 else f"{value:,.0f}"
    return str(value)


if __name__ == "__main__":
    flags.launch(Bench, main, "./launch/run bench")
