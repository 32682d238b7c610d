"""Compiles attention layers for an H100 that is not there, in a process of its own; prints what each program has.

Arguments: the programs' names. Prints JSON, name -> {temp: GiB, forward, backward: cuDNN kernels, square: whether an
array is as large as T x T}.
"""

import json
import re
import sys

import jax
import jax.numpy as jnp

from jaxtrain.apps.plan import topologies
from jaxtrain.models import attention, cudnn_attention

# name -> (kernel, T, H, K, C, window, soft cap): a layer of llama3.2-1b and of gemma2-2b, one row.
LAYERS = {
    "packed": ("cudnn", 16384, 32, 8, 64, 0, 0.0),
    "packed, odd": ("cudnn", 16383, 32, 8, 64, 0, 0.0),
    "packed, window": ("cudnn", 16384, 32, 8, 64, 1024, 0.0),
    "soft cap": ("flash", 8192, 8, 4, 256, 0, 50.0),
    "soft cap, window": ("flash", 8192, 8, 4, 256, 4096, 50.0),
    "square": ("xla", 8192, 8, 4, 256, 0, 50.0),
}


def compiled(name: str, device: jax.Device) -> dict[str, float]:
    """What the program of a layer's gradients has."""
    kernel, T, H, K, C, window, softcap = LAYERS[name]
    own = {"packed": cudnn_attention.takes_documents(device.compute_capability)} if kernel == "cudnn" else {}

    def scalar(q, k, v, segments):
        run = attention.KERNELS[kernel]
        out = run(q, k, v, segments, causal=True, window=window, softcap=softcap, **own)
        return out.astype(jnp.float32).sum()

    place = jax.sharding.SingleDeviceSharding(device)
    shapes = [jax.ShapeDtypeStruct((1, T, heads, C), jnp.bfloat16, sharding=place) for heads in (H, K, K)]
    shapes.append(jax.ShapeDtypeStruct((1, T), jnp.int32, sharding=place))
    program = jax.jit(jax.grad(scalar, argnums=(0, 1, 2))).lower(*shapes).compile()
    text = program.as_text()
    return {
        "temp": program.memory_analysis().temp_size_in_bytes / 2**30,
        "forward": len(re.findall(r'"__cudnn\$fmha\w*Softmax"', text)),
        "backward": len(re.findall(r'"__cudnn\$fmha\w*SoftmaxBackward"', text)),
        "square": any(int(a) * int(b) >= T * T for a, b in re.findall(r"\[(?:\d+,)*(\d+),(\d+)\]", text)),
    }


if __name__ == "__main__":
    device = topologies.describe(topologies.parse("h100:1"))[0]
    print(json.dumps({name: compiled(name, device) for name in sys.argv[1:]}))
