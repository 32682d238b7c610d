"""Export a run, or a merge of runs, as a Hugging Face directory, adapters merged or alone; push it to the Hub."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtrain import config, flags
from jaxtrain.config import ConfigError

if TYPE_CHECKING:
    from jaxtrain.stages.init_from import InitFrom
    from jaxtrain.stages.merge_spec import Merge
    from jaxtrain.train.parallel import Plan
    from jaxtrain.types import Params


@dataclasses.dataclass(frozen=True)
class ExportTarget(config.Group):
    # fmt: off
    init_from: str = config.arg("", "The run to export, WORKDIR or WORKDIR@STEP; or hf:NAME", remote=True)
    merge: str = config.arg("", "Runs to merge into one model, with weights: runs/a*0.5,runs/b*0.5",
        only=("init_from", ("",)), remote=True)
    merge_method: str = config.arg("linear",
        "linear: weighted mean; slerp: on the arc between two; task: sum of differences from --merge_base; ties: those "
        "without small ones and without conflicts of sign", choices=("linear", "slerp", "task", "ties"))
    merge_base: str = config.arg("", "The model that the merged ones were trained from", remote=True)
    merge_density: float = config.arg(0.2, "Share of each tensor's differences that remain", low=1e-6, high=1,
        only=("merge_method", ("ties",)))
    merge_scale: float = config.arg(1.0, "Factor of the merged difference from --merge_base",
        only=("merge_method", ("task", "ties")))
    to: str = config.arg("", "Where to, hf:DIR", remote=True)
    push: str = config.arg("", "The repository of the Hugging Face Hub to write to, ORG/NAME; a new one is made")
    private: bool = config.arg(False, "Make that repository private")
    dtype: str = config.arg("float32", "Type of the weights", choices=("float32", "bfloat16", "float16"))
    shard_gb: float = config.arg(5.0, "Most gigabytes of a file of weights", low=0.001)
    adapter: bool = config.arg(False, "Write the adapters of a run with --lora_rank alone, as PEFT reads them")
    base: str = config.arg("",
        "The base model that --adapter names, hf:DIR or hf:ORG/NAME; empty: the one that the run started from",
        remote=True)
    # fmt: on

    def check(self):
        if self.to and not self.to.startswith("hf:"):
            raise ConfigError(f"--to={self.to}: write hf:DIR")
        if self.private and not self.push:
            raise ConfigError("--private: acts only with --push")
        if self.base and not self.adapter:
            raise ConfigError("--base: acts only with --adapter")
        if not self.merge and (self.merge_method != ExportTarget.merge_method or self.merge_base):
            raise ConfigError("--merge_method, --merge_base: act only with --merge")
        if self.adapter and self.merge:
            raise ConfigError("--adapter and --merge: adapters of several runs are merged into their models")
        if self.adapter and self.dtype != "float32":
            raise ConfigError(f"--dtype={self.dtype}: adapters are written as float32")


@dataclasses.dataclass(frozen=True)
class Export:
    target: ExportTarget = config.group(ExportTarget)


def main(cfg: Export) -> None:
    """Reads the run's parameters, merges its adapters, and writes the directory."""
    target = cfg.target
    if not (target.init_from or target.merge) or not (target.to or target.push):
        raise ConfigError(
            "--init_from and --to: name the run, and hf:DIR to write or --push=ORG/NAME; --merge takes several runs"
        )
    start, merge = _source(target)
    base = _base(target, start) if target.adapter else ("", "")
    name = target.init_from or f"the merge, {start.lineage['origin']},"

    from jaxtrain.files import checksums, hf_hub
    from jaxtrain.stages import export, export_files, load_model

    with _folder(target) as folder:
        plan = load_model.inference_plan(config.Run(parallel="mesh", mesh="fsdp:-1"))
        if target.push and plan.process[1] > 1:
            raise ConfigError(
                "--push: one process pushes, and the others would wait for it; write with --to=hf:DIR, then push that: "
                f"./launch/run export --init_from=hf:DIR --push={target.push}"
            )
        title = (target.push or folder.name).rpartition("/")[2]
        card = {hf_hub.CARD: export_files.model_card(start, title, base[0])}
        if target.adapter:
            export.write_adapter(folder, start, plan, base, card)
        else:
            export.write_model(
                folder, start, plan, card, dtype=target.dtype, shard_bytes=target.shard_gb * 1e9,
                params=_merged(merge, plan),
            )  # fmt: skip
        if plan.primary and target.to:
            checksums.write(folder, skip=[hf_hub.CARD])
        if plan.primary and target.push:
            address = hf_hub.push(
                folder, target.push, private=target.private, message=f"jaxtrain export of {title}"
            )
            print(f"pushed {name} to {address}")
    if plan.primary and target.to:
        print(f"exported {name} to {target.to.removeprefix('hf:')}")


def _source(target: ExportTarget) -> "tuple[InitFrom, Merge | None]":
    """(what is exported, how it is merged)."""
    from jaxtrain.stages import init_from, merge_spec

    if not target.merge:
        return init_from.load_run(target.init_from), None
    merge = merge_spec.resolve(
        target.merge, target.merge_method, target.merge_base, target.merge_density, target.merge_scale
    )
    return merge.start, merge


def _merged(merge: "Merge | None", plan: "Plan") -> "Params | None":
    """The parameters of a merge; None where none is asked for."""
    if merge is None:
        return None
    from jaxtrain.stages import merging

    if plan.primary:
        for note in merge.notes:
            print(note)
    return merging.merged_params(merge, plan)


@contextlib.contextmanager
def _folder(target: ExportTarget) -> Iterator[Path]:
    """The folder of --to; without it one that is removed after --push."""
    from jaxtrain.files import paths
    from jaxtrain.models import hf

    if target.to:
        to = paths.parse(target.to.removeprefix("hf:"), "to")
        hf.check_target(to)
        with paths.written(to) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "export"


def _base(target: ExportTarget, start: "InitFrom") -> tuple[str, str]:
    """(name, revision) of the base model of a run's adapters. Raises ConfigError where there are none, or no base."""
    from jaxtrain.files import hf_hub
    from jaxtrain.models import hf_config
    from jaxtrain.stages import export_files

    what = f"--adapter: --init_from={target.init_from}"
    if not start.origins[-1].lora:
        raise ConfigError(f"{what} trained no adapters (--lora_rank); leave --adapter out")
    if not target.base:
        if [origin.hf for origin in start.origins[:-1]] == [True]:
            return export_files.base_model(start)
        raise ConfigError(
            f"{what} started from a run, or from adapters: export what it started from, and name that with --base"
        )
    folder = hf_hub.locate(target.base, "base")
    if not target.base.startswith(hf_hub.PREFIX):
        raise ConfigError(f"--base={target.base}: write hf:DIR or hf:ORG/NAME")
    arch = hf_config.read(folder.path)
    for name in ("layers", "width", "heads", "ff", "vocab"):
        one, other = getattr(arch, name), getattr(start.arch, name)
        if one != other:
            raise ConfigError(f"--base={target.base}: {name}={one}, in the run {other}: another model")
    name, _, revision = folder.hub.partition("@")
    return (name, revision) if name else (str(folder.path.absolute()), "")


if __name__ == "__main__":
    flags.launch(Export, main, "./launch/run export")
