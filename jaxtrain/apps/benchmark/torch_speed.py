"""The same work in plain torch: pretraining steps and decode. Each function is a part of the GPU check."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxtrain.apps.benchmark import timing
from jaxtrain.apps.benchmark.process import LeftOut, Report, first_lines
from jaxtrain.apps.benchmark.sizes import CheckSizes, TrainingSize
from jaxtrain.apps.benchmark.timing import Clock
from jaxtrain.models import transformer, zoo

SEED = 0
LR, BETAS, DECAY, CLIP = 3e-4, (0.9, 0.95), 0.1, 1.0  # as in `speed`


def _torch_device(tiny: bool) -> Any:
    """torch's device. Raises LeftOut where torch is missing, or is the CPU's and the sizes are a GPU's."""
    try:
        import torch
    except ImportError as error:
        raise LeftOut(f"torch is not there ({error}): pip install torch") from error
    torch.manual_seed(SEED)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not tiny:
        raise LeftOut(f"torch {torch.__version__} sees no GPU: install a build with CUDA")
    return torch.device("cpu")


def _waiter(device: Any) -> Callable[[Any], None]:
    import torch

    return lambda _: torch.cuda.synchronize() if device.type == "cuda" else None


def _peak_memory(device: Any) -> int | None:
    import torch

    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None


def pretrain(sizes: CheckSizes, seconds: float, report: Report) -> list[str]:
    """Pretraining steps, eager and compiled: f32 weights, bfloat16 autocast, SDPA, fused AdamW, clipping."""
    clock, device, missing, longest = Clock(seconds), _torch_device(sizes.tiny), [], 0.0
    for name, what, backend in sizes.torch_pretrain:
        label = f"{name} {f'torch.compile ({what})' if what else 'eager'}"
        if not clock.fits(longest):
            missing.append(label)
            continue
        begun = time.monotonic()
        for rows in (sizes.pretrain[name].rows, sizes.pretrain[name].rows // 2):
            size = sizes.pretrain[name]._replace(rows=rows)
            about = {
                "model": size.model,
                "rows": rows,
                "length": size.length,
                "compile": what,
                "backend": backend,
            }
            try:
                record = _steps(sizes, size, what, backend, device, clock)
            except RuntimeError as error:  # out of memory, and a backend that cannot compile here
                record = {"error": first_lines(error)}
            if "out of memory" not in record.get("error", ""):
                break
        report(label, {**about, **record})
        longest = max(longest, time.monotonic() - begun)
    return missing


def _steps(
    sizes: CheckSizes, size: TrainingSize, what: str, backend: str, device: Any, clock: Clock
) -> dict[str, Any]:
    import torch

    from jaxtrain.apps.benchmark.torch_gpt import Gpt

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    arch, begun = zoo.resolve(size.model), time.monotonic()
    model = Gpt(arch).to(device)
    forward = _compiled(model, what, backend)
    decayed = [p for p in model.blocks.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if not any(p is each for each in decayed)]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)
    ids = np.random.default_rng(SEED).integers(0, arch.vocab, (size.rows, size.length + 1))
    tokens, targets = (torch.as_tensor(x, device=device) for x in (ids[:, :-1], ids[:, 1:]))

    def step() -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            loss = forward(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    wait = _waiter(device)
    loss = step()
    wait(loss)
    first = time.monotonic() - begun
    times = timing.repeat(step, warmup=2, repeats=sizes.repeats, calls=sizes.calls, wait=wait, clock=clock)
    flops = transformer.flops_per_token(arch, size.length)
    return {
        "torch": torch.__version__,
        "device": device.type,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": tokens.numel(),
        "seconds": times.record(),
        "tokens_per_s": tokens.numel() / times.median,
        "flops_per_token": flops,
        "flops_per_s": flops * tokens.numel() / times.median,
        "peak_memory": _peak_memory(device),
        "first_step_s": first,
        "first_loss": float(loss),
    }


def _compiled(model: Any, what: str, backend: str) -> Callable[..., Any]:
    """The model's loss, compiled whole or a block at a time: equal blocks share one program, which compiles faster."""
    import torch

    if what == "model":
        return torch.compile(model, backend=backend)
    if what == "block":
        for block in model.blocks:
            block.compile(backend=backend)
        model.loss = torch.compile(model.loss, backend=backend)
    return model


def decode(sizes: CheckSizes, seconds: float, report: Report) -> list[str]:
    """Decode with bfloat16 weights, a static KV cache and SDPA; on a GPU a step is replayed as one CUDA graph."""
    clock, device, missing, longest = Clock(seconds), _torch_device(sizes.tiny), [], 0.0
    import torch

    from jaxtrain.apps.benchmark.torch_gpt import Gpt

    size = sizes.decode
    arch = zoo.resolve(size.model)
    model = Gpt(arch).to(device, torch.bfloat16).requires_grad_(False)
    for B in size.batches:
        if not clock.fits(longest):
            missing.append(f"batch {B}")
            continue
        begun = time.monotonic()
        about = {"model": size.model, "rows": B, "prompt": size.prompt, "new": size.new}
        try:
            record = _decoding(sizes, model, arch, B, device, clock)
        except RuntimeError as error:
            record = {"error": first_lines(error)}
        report(f"batch {B}", {**about, "torch": torch.__version__, "device": device.type, **record})
        longest = max(longest, time.monotonic() - begun)
    return missing


def _decoding(sizes: CheckSizes, model: Any, arch: Any, B: int, device: Any, clock: Clock) -> dict[str, Any]:
    import torch

    size, wait, begun = sizes.decode, _waiter(device), time.monotonic()
    slots, steps = size.prompt + size.new, size.new - 1
    caches = torch.zeros((arch.layers, 2, B, arch.heads, slots, arch.C), dtype=torch.bfloat16, device=device)
    ids = np.random.default_rng(SEED).integers(0, arch.vocab, (B, size.prompt))
    prompt, places = torch.as_tensor(ids, device=device), torch.arange(size.prompt, device=device)
    token, place = model.decode(prompt, places, caches), places[-1:] + 1

    def one() -> None:
        token.copy_(model.decode(token, place, caches))
        place.add_(1)

    step = one
    if device.type == "cuda":
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            one()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            one()
        step = graph.replay

    def completion() -> None:
        place.fill_(size.prompt)
        for _ in range(steps):
            step()

    times = timing.repeat(completion, warmup=1, repeats=sizes.repeats, wait=wait, clock=clock)
    prefill = timing.repeat(
        lambda: model.decode(prompt, places, caches), warmup=0, repeats=sizes.repeats, wait=wait, clock=clock
    )
    per_step = timing.Timing(tuple(x / steps for x in times.wall), tuple(x / steps for x in times.cpu))
    return {
        "prefill_seconds": prefill.record(),
        "step_seconds": per_step.record(),
        "tokens_per_s": B / per_step.median,
        "first_call_s": time.monotonic() - begun,
    }
