"""Benchmark: tokens/s, FLOP/s, MFU and memory of a stage's training step, and the time to the first one."""

import dataclasses
from typing import Any

from jaxtrain import config, flags
from jaxtrain.files import atomic


@dataclasses.dataclass(frozen=True)
class BenchTask(config.Group):
    # fmt: off
    task: str = config.arg("pretrain",
        "Whose step: of rows, or of pairs of --seq_len tokens (reward, dpo). sample: a fifth of --seq_len is prompt, "
        "the rest is drawn. rollout: completions of very different lengths, --batch_size at a time, by continuous "
        "batching and in fixed batches. tokenise: text to token ids on one core and on all, of --data by --tokenizer, "
        "beside datasets.map and a plain loop", choices=("pretrain", "sft", "reward", "dpo", "sample", "rollout",
        "tokenise"))
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


TOKENISE = "tokenise"
OF_TEXT = {
    "data",
    "tokenizer",
    "text_field",
    "on_bad_record",
    "data_workers",
}  # flags of data that act in it alone
SAMPLING = ("sample", "rollout")  # tasks without a training step
# The flags of training that a benchmark has, too: of its step, not of data, runs or initial parameters.
ACTING = {
    "model": {"dtype", "attention", "scan_layers", "remat", "logits_limit_mb"},
    "data": {"seq_len", "batch_size"},
    "run": {"seed", "parallel", "mesh"},
}


def require_acting(cfg: Bench) -> None:
    """Raises ConfigError for flags of training that act in no benchmark."""
    if cfg.what.task == TOKENISE:
        return require_text_flags(cfg)
    for part, acting in ACTING.items():
        group, usual = getattr(cfg, part), getattr(Bench(), part)
        names = [field.name for field in dataclasses.fields(group) if field.name not in acting]
        config.require_default(
            group, "bench measures a step on random tokens, and trains no run", names, usual
        )
    if cfg.what.task in SAMPLING:
        config.require_default(cfg.optim, f"--task={cfg.what.task} trains nothing", usual=Bench().optim)


def require_text_flags(cfg: Bench) -> None:
    """The same for --task=tokenise, which has no model."""
    usual, why = Bench(), f"--task={TOKENISE} measures text to token ids alone"
    names = [field.name for field in dataclasses.fields(cfg.data) if field.name not in OF_TEXT]
    config.require_default(cfg.data, why, names, usual.data)
    config.require_default(cfg.what, why, ("sizes", "warmup_steps"), usual.what)
    for part in ("model", "optim", "run"):
        config.require_default(getattr(cfg, part), why, usual=getattr(usual, part))


def measure_tokenising(cfg: Bench) -> None:
    """Prints documents/s and tokens/s of each way from text to token ids, of --rounds measurements the fastest."""
    from jaxtrain.apps.benchmark import speed_table, token_speed

    shown = False
    for way, cores, found in token_speed.measure(cfg.data, max(1, min(cfg.what.rounds, 3))):
        if not found:
            print(f"{way}: its package is not there; pip install 'jaxtrain[hf]'")
            continue
        numbers = {"task": TOKENISE, "model": way, "cores": cores, **found}
        if not shown:
            print(*speed_table.head(numbers), sep="\n")
        shown = True
        print(*speed_table.row(numbers), sep="\n", flush=True)
        if cfg.what.json:
            with open(cfg.what.json, "a", encoding="utf-8") as file:
                file.write(atomic.json_line(numbers))


def main(cfg: Bench) -> None:
    """Measures each size with random tokens, on the same step, plan and optimizer as training."""
    from jaxtrain.models import zoo
    from jaxtrain.train import host

    require_acting(cfg)
    if cfg.what.task == TOKENISE:
        measure_tokenising(cfg)
        return
    host.keep_freed_memory()
    try:
        archs = {size: zoo.resolve(size) for size in cfg.what.sizes.split("+")}
    except config.ConfigError as error:
        raise config.ConfigError(str(error).replace("--model=", "--sizes=", 1)) from error
    for size, arch in archs.items():
        if not arch.vocab:
            raise config.ConfigError(
                f"--sizes={size}: it has no vocabulary of its own; write {size},vocab=512"
            )

    from jaxtrain.apps.benchmark import speed_table
    from jaxtrain.train import processes

    processes.initialize()
    for place, (size, arch) in enumerate(archs.items()):
        one = {"sample": measure_sampling, "rollout": measure_rollouts}.get(cfg.what.task, measure)
        numbers = {"task": cfg.what.task, "model": size, **one(cfg, arch)}
        if not place:
            print(f"task {cfg.what.task}, jax {numbers['jax']}", *speed_table.head(numbers), sep="\n")
        print(*speed_table.row(numbers), sep="\n", flush=True)
        if cfg.what.json:
            with open(cfg.what.json, "a", encoding="utf-8") as file:
                file.write(atomic.json_line(numbers))


def measure(cfg: Bench, arch: Any) -> dict:
    """One model's numbers by name."""
    import statistics

    import jax

    from jaxtrain.apps.benchmark import timing, workloads
    from jaxtrain.models import transformer
    from jaxtrain.stages import session
    from jaxtrain.train import host

    plan, T = session.make_plan(cfg), cfg.data.seq_len
    step = workloads.training_step(
        plan, arch, cfg.model, cfg.optim, cfg.what.task, cfg.data.batch_size, T, seed=cfg.run.seed
    )
    tokens = step.work.tokens
    numbers = {"logits": 4 * tokens * arch.vocab, "jax": jax.__version__}
    if not cfg.what.rounds:
        return {"scratch_memory": step.scratch_memory(), **numbers}
    run = step.runner()
    jax.block_until_ready(run())
    first = host.seconds_since_start()
    times = timing.repeat(run, warmup=cfg.what.warmup_steps - 1, repeats=cfg.what.rounds)
    flops = transformer.flops_per_token(arch, T) * tokens
    peak = workloads.nominal_peak(plan) or _product_rate()
    return {
        "tokens_per_s": tokens / times.median,
        "best_tokens_per_s": tokens / times.best,
        "flops_per_s": flops / times.median,
        "mfu": flops / times.median / peak,
        "peak_flops": peak,
        "peak_memory": workloads.peak_memory(plan) or host.peak_memory(),
        "first_step_s": first,
        "cpu_s": statistics.median(times.cpu),
        **numbers,
    }


def measure_sampling(cfg: Bench, arch: Any) -> dict:
    """Tokens/s of drawing a batch, prefill included, and what a bound on decoding leaves of them.

    A step of decoding takes at least as long as its products at the rate of one such product by itself, and as long as
    reading the weights once from memory.
    """
    import statistics

    import jax

    from jaxtrain.apps.benchmark import timing, workloads
    from jaxtrain.generate import engine
    from jaxtrain.models import transformer
    from jaxtrain.stages import session
    from jaxtrain.stages.load_model import build_model
    from jaxtrain.train import host

    plan, B, T = session.make_plan(cfg), cfg.data.batch_size, cfg.data.seq_len
    prompt, new = T // 5, T - T // 5
    model = build_model(plan, arch, cfg.model)
    params = plan.init(lambda: model.init(jax.random.key(cfg.run.seed)), model.axes)
    decoder = workloads.sampler_engine(plan, arch, cfg.model, new)
    work = workloads.sampling(decoder, decoder.ready(params, ()), arch.vocab, B, prompt, cfg.run.seed)

    def run() -> Any:
        return engine.complete(work.engine, work.params, work.batch)

    if (run().lengths != new).any():
        raise config.Failure("a row ended before it had all its tokens, so that the times are of less work")
    first = host.seconds_since_start()
    times = timing.repeat(run, warmup=cfg.what.warmup_steps - 1, repeats=max(cfg.what.rounds, 1))
    flops, size = transformer.flops_per_token(arch, T) / 3 * B, 2**28
    products = flops / _product_rate(B)
    reading = 4 * transformer.parameters(arch) * timing.read_timing(size).best / size
    bound = B / max(products, reading)
    return {
        "tokens_per_s": B * new / times.median,
        "best_tokens_per_s": B * new / times.best,
        "bound": bound,
        "share_of_bound": B * new / times.median / bound,
        "products_ms": 1e3 * products,
        "reading_ms": 1e3 * reading,
        "first_step_s": first,
        "cpu_s": statistics.median(times.cpu),
        "jax": jax.__version__,
    }


def measure_rollouts(cfg: Bench, arch: Any) -> dict:
    """Tokens/s of rollouts with lengths of a heavy tail, by continuous batching and in fixed batches."""
    import jax

    from jaxtrain.apps.benchmark import rollout_speed
    from jaxtrain.stages import session

    times = rollout_speed.measure(
        session.make_plan(cfg), arch, cfg.model, rows=cfg.data.batch_size, length=cfg.data.seq_len, seed=cfg.run.seed,
        repeats=max(cfg.what.rounds, 1),
    )  # fmt: skip
    return {**rollout_speed.numbers(times), "jax": jax.__version__}


def _product_rate(rows: int = 2048) -> float:
    """FLOP/s of a `rows` x 256 x 1024 f32 product here, best of 30: the peak where none is published."""
    from jaxtrain.apps.benchmark import timing

    return 2 * rows * 256 * 1024 / timing.matmul_timing(rows, 256, 1024).best


if __name__ == "__main__":
    flags.launch(Bench, main, "./launch/run bench")
