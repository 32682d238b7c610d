"""Attention kernels on the device beside `xla` in f32: values, gradients and time. A part of the GPU check."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain import config
from jaxtrain.apps.benchmark import timing, workloads
from jaxtrain.apps.benchmark.process import Report, first_lines
from jaxtrain.apps.benchmark.sizes import AttentionCase, CheckSizes
from jaxtrain.apps.benchmark.timing import Clock
from jaxtrain.models import attention as kernels_of
from jaxtrain.models import transformer
from jaxtrain.train.parallel import Plan

ROWS, CALLS = 2, 10  # rows, and calls in a row that are timed together: one is shorter than its dispatch
# Relative L2 of bfloat16 beside f32: the inputs are bfloat16 in both, so that what is left is the rounding of
# probabilities, outputs and their gradients.
MOST_OUTPUT, MOST_GRADIENT = 0.01, 0.02
# Kernels that are not measured but where `auto` takes them: written for another platform, or the reference here.
ELSEWHERE = {"blocked": ("cpu",), "splash": ("tpu",), "xla": ()}


def attention(sizes: CheckSizes, seconds: float, report: Report) -> list[str]:
    """Each case with the kernel that `auto` takes here, and with the others that this platform has."""
    clock, missing, longest = Clock(seconds), [], 0.0
    for name, case in sizes.attention.items():
        before = clock.left()
        if not clock.fits(longest):
            missing.append(name)
            continue
        report(name, compared(case, sizes.repeats))
        longest = max(longest, before - clock.left())
    return missing


def compared(case: AttentionCase, repeats: int) -> dict[str, Any]:
    """The errors and times of the kernels of a case. What `auto` takes must be right; another may refuse the case."""
    plan, arch = workloads.one_device(), case.arch()
    chosen, reason = kernels_of.choose(
        "auto", arch, jnp.bfloat16, case.length, plan.platform, plan.compute_capability, case.window
    )
    q, k, v, segments = inputs(case)
    with jax.default_matmul_precision("highest"):
        exact = _jitted(case, "xla", jnp.float32, plan)(*(x.astype(jnp.float32) for x in (q, k, v)), segments)
    kernels: dict[str, Any] = {}
    for name in kernels_of.KERNELS:
        if name != chosen and not case.others:
            continue
        if name != chosen and plan.platform not in ELSEWHERE.get(name, (plan.platform,)):
            continue
        run = _jitted(case, name, jnp.bfloat16, plan)
        try:
            result = jax.block_until_ready(run(q, k, v, segments))
        except (config.ConfigError, NotImplementedError, ValueError, RuntimeError) as error:
            kernels[name] = {"error": first_lines(error)}
            continue
        times = timing.repeat(lambda run=run: run(q, k, v, segments), warmup=1, repeats=repeats, calls=CALLS)
        errors = dict(zip(("output", "dq", "dk", "dv"), map(relative, result, exact), strict=True))
        kernels[name] = {**errors, "seconds": times.record()}
    own = kernels[chosen]
    good = "error" not in own and own["output"] < MOST_OUTPUT
    good = good and all(own[name] < MOST_GRADIENT for name in ("dq", "dk", "dv"))
    return {"case": case._asdict(), "auto": chosen, "reason": reason, "good": bool(good), "kernels": kernels}


def inputs(case: AttentionCase) -> tuple[Array, Array, Array, Array]:
    """q, k, v bf16[2, T, H or K, C] and segments i32[2, T]; the documents of the two rows have other lengths."""
    shape = (ROWS, case.length)
    q, k, v = (
        jax.random.normal(jax.random.key(i), (*shape, heads, case.width)).astype(jnp.bfloat16)
        for i, heads in enumerate((case.heads, case.kv_heads, case.kv_heads))
    )
    rng = np.random.default_rng(0)
    segments = np.ones(shape, np.int32)
    for row in segments if case.documents > 1 else ():
        cuts = np.sort(rng.choice(np.arange(1, case.length), case.documents, replace=False))
        row[:] = 1 + np.searchsorted(cuts, np.arange(case.length), side="right")
        row[cuts[-1] :] = 0  # the rest of the row is padding
    return q / jnp.asarray(case.width**0.5, jnp.bfloat16), k, v, jnp.asarray(segments)


def _jitted(case: AttentionCase, name: str, dtype: Any, plan: Plan) -> Callable[..., tuple[Array, ...]]:
    """(q, k, v, segments) -> the output where a document is, and the gradients of a scalar of it."""
    settings = config.Model(dtype=jnp.dtype(dtype).name)
    how = transformer.execution(settings, plan.platform, capability=plan.compute_capability)
    how, arch = dataclasses.replace(how, attention=name), case.arch()

    def scalar(q: Array, k: Array, v: Array, segments: Array) -> tuple[Array, Array]:
        kernel = kernels_of.kernel_for(how, arch, case.window, case.length)
        out = jnp.where((segments > 0)[..., None, None], kernel(q, k, v, segments).astype(jnp.float32), 0.0)
        weights = jnp.sin(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return (out * weights).sum(), out

    def run(q: Array, k: Array, v: Array, segments: Array) -> tuple[Array, ...]:
        grads, out = jax.grad(scalar, argnums=(0, 1, 2), has_aux=True)(q, k, v, segments)
        return (out, *grads)

    return jax.jit(run)


def relative(a: Array, b: Array) -> float:
    """‖a − b‖ / ‖b‖, in f32; NaN where either has one."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel()))
