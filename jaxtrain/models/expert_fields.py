"""The fields of an Arch about experts: what fits together. Plain data."""

from typing import Any

from jaxtrain.config import ConfigError


def require_experts(arch: Any) -> None:
    """Raises ConfigError where the fields about experts do not fit together."""
    numbers = (
        "experts",
        "experts_per_token",
        "expert_ff",
        "shared_experts",
        "balance_weight",
        "router_z_weight",
    )
    for name in numbers:
        value = getattr(arch, name)
        if not value >= 0:
            raise ConfigError(f"--model: {name}={value} must be at least 0")
    for name in (*numbers[1:], "norm_topk", "router_bias"):
        value = getattr(arch, name)
        if value != type(arch).__dataclass_fields__[name].default and not arch.experts:
            raise ConfigError(f"--model: {name}={value} needs experts, the number that a router chooses of")
    if arch.experts and not 1 <= arch.experts_per_token <= arch.experts:
        raise ConfigError(
            f"--model: experts_per_token={arch.experts_per_token} must be from 1 to experts={arch.experts}"
        )
