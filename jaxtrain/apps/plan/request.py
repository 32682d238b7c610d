"""What is compiled: a stage with its flags, on a chip. jax is not imported, so that a mistake is answered at once."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtrain import config
from jaxtrain.apps.plan import topologies
from jaxtrain.config import ConfigError
from jaxtrain.models import zoo
from jaxtrain.models.zoo import Arch
from jaxtrain.rl.config import iteration_size


class PlanRequest(NamedTuple):
    """A stage to compile. `cfg` is the config of the stage's command."""

    stage: str
    cfg: Any
    chip: str
    exact: bool = False
    only: tuple[str, ...] = ()  # names of programs; empty: all


def stage_arch(cfg: Any) -> Arch:
    """The model that --model or --init_from names, with a vocabulary. Raises ConfigError where it has none."""
    if cfg.model.init_from:
        from jaxtrain.stages import init_from  # reads files, and without them is not needed

        arch = init_from.load_run(cfg.model.init_from).arch
    else:
        arch = _with_vocabulary(zoo.resolve(cfg.model.model), cfg, f"--model={cfg.model.model}")
    return dataclasses.replace(arch, causal=getattr(cfg.data, "objective", "") != "masked")


def teacher_arch(cfg: Any, default: Arch) -> Arch:
    """The model that --teacher names: a size of models/zoo.py, a run or hf:DIR; without one it is that of --model."""
    return _other_model(cfg.loss.teacher, "teacher", cfg, (default, 1), _teacher)[0]


def reward_model_arch(cfg: Any, default: Arch) -> tuple[Arch, int]:
    """(the model that --reward_model names, a size or a run; its members); without one it is that of --model."""
    return _other_model(cfg.scores.reward_model, "reward_model", cfg, (default, 1), _reward_model)


def _other_model(
    text: str, flag: str, cfg: Any, default: tuple[Arch, int], read: Callable[[str], tuple[Arch, int]]
) -> tuple[Arch, int]:
    """(architecture, members) of a model beside the trained one. Raises ConfigError for a context below --seq_len."""
    if not text:
        return default
    named = f"--{flag}={text}"
    if text.split(",")[0] in zoo.ZOO:
        arch, members = _with_vocabulary(zoo.resolve(text), cfg, named), 1
    else:
        try:
            arch, members = read(text)
        except ConfigError as error:
            raise ConfigError(f"{error} (plan takes a size, too, such as --{flag}=llama3.2-1b)") from error
    if arch.max_len and cfg.data.seq_len > arch.max_len:
        raise ConfigError(f"--seq_len={cfg.data.seq_len}: the context of {named} is {arch.max_len}")
    return arch, members


def _teacher(text: str) -> tuple[Arch, int]:
    from jaxtrain.stages import init_from

    return init_from.load_run(text, "teacher", causal=True).arch, 1


def _reward_model(text: str) -> tuple[Arch, int]:
    from jaxtrain.train import workdir

    record = workdir.read_run(workdir.split_step(text, "reward_model")[0], "--reward_model")
    if record["stage"] != "reward" or "arch" not in record:
        raise ConfigError(
            f"--reward_model={text}: a run of {record['stage']}; name one of ./launch/run reward"
        )
    return zoo.from_dict(record["arch"]), record["config"]["loss"]["members"]


def _with_vocabulary(arch: Arch, cfg: Any, what: str) -> Arch:
    """The architecture with its vocabulary, or that of --tokenizer where its size is in its name."""
    if arch.vocab:
        return arch
    kind, _, size = cfg.data.tokenizer.partition(":")
    if kind != "bpe" or not size.isdigit():
        raise ConfigError(f"{what}: it has no vocabulary of its own; write {what.split('=')[1]},vocab=32000")
    return dataclasses.replace(arch, vocab=-(-int(size) // 64) * 64)


def check(request: PlanRequest) -> None:
    """Raises ConfigError for a chip, a model, a length or a batch that cannot be; nothing is compiled."""
    cfg, T = request.cfg, request.cfg.data.seq_len
    topology = topologies.parse(request.chip)
    arch = stage_arch(cfg)
    if arch.max_len and arch.max_len < T:
        raise ConfigError(f"--seq_len={T}: the context of --model={cfg.model.model} is {arch.max_len}")
    loss = getattr(cfg, "loss", None)
    if request.stage == "distill" and not loss.teacher_topk:
        teacher_arch(cfg, arch)
    rollouts = request.stage in ("ppo", "grpo")
    if (rollouts or request.stage == "sample") and cfg.samples.max_new >= T:
        raise ConfigError(
            f"--max_new={cfg.samples.max_new}: --seq_len={T} leaves no room for a prompt; lower it, or raise --seq_len"
        )
    if rollouts:
        _check_rollouts(cfg, arch)
    _check_mesh(request, topologies.devices(topology))
    topologies.require(topology)


def _check_rollouts(cfg: Any, arch: Arch) -> None:
    size, group = iteration_size(cfg), cfg.samples.group
    if size % group:
        raise ConfigError(
            f"--group={group} completions of a prompt do not divide an iteration's {size} (--batch_size times "
            "--minibatches): use a divisor"
        )
    if not cfg.scores.reward:
        reward_model_arch(cfg, arch)


def _check_mesh(request: PlanRequest, count: int) -> None:
    """What follows from the numbers of devices and rows alone; train/device_grid.py and Plan say the rest."""
    run, data = request.cfg.run, request.cfg.data
    if run.parallel == "pmap":
        raise ConfigError("--parallel=pmap: plan compiles for a mesh, whose memory is the same; leave it out")
    sizes = config.parse_mesh(run.mesh) or {"data": -1}
    known = math.prod(size for size in sizes.values() if size != -1)
    if count % known or (-1 not in sizes.values() and known != count):
        raise ConfigError(
            f"--mesh={run.mesh} takes {'a multiple of ' * (-1 in sizes.values())}{known} devices, "
            f"--chip={request.chip} has {count}: change a size, or write -1 for the axis that takes the rest"
        )
    shards = math.prod(
        count // known if sizes.get(axis, 1) == -1 else sizes.get(axis, 1) for axis in config.ROW_AXES
    )
    parts = shards * request.cfg.optim.microbatches
    if data.batch_size % parts:
        raise ConfigError(
            f"--batch_size={data.batch_size} does not split over {shards} devices x "
            f"--microbatches={request.cfg.optim.microbatches}: use a multiple of {parts}"
        )
