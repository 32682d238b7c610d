"""Compiling for a GPU that is not there. jax has no public way to: the patches of its private code stand here alone.

They are for a process that compiles and ends. cuDNN is not asked, so a graph that it refuses is not found, and the
memory of its kernels is not counted: figures for a GPU are lower bounds.
"""

# What XLA reads of a GPU, as the text of its GpuTargetConfigProto (H100 SXM, 80 GB).
TARGETS = {
    "h100": """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84929347584
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
""",
}
_CUDNN = 91000  # the version that programs are lowered for
_CAPABILITY = "9.0"


def prepare() -> None:
    """Lets this process lower programs for a GPU that it does not have; call it once, before anything is lowered."""
    from jax._src import xla_bridge
    from jax._src.cudnn import fused_attention_stablehlo as attention

    # A described device's platform is "cuda", and lowering asks for that of "gpu", which without a GPU is an error
    # (https://github.com/jax-ml/jax/issues/23971).
    xla_bridge.canonicalize_platform = lambda platform: "cuda" if platform == "gpu" else platform
    # cuDNN's version and the GPU's capability are asked of the library and of the first GPU.
    attention.check_cudnn_version = lambda: _CUDNN
    attention.check_compute_capability = lambda least: _version(least) <= _version(_CAPABILITY)
    attention.is_cuda_compute_capability_equal = lambda capability: capability == _CAPABILITY


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
