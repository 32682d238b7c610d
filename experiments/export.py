"""Export a run as a Hugging Face directory that transformers loads; adapters are merged."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from jaxtrain import config, flags


@dataclasses.dataclass(frozen=True)
class ExportTarget(config.Group):
    # fmt: off
    init_from: str = config.arg("", "The run to export, WORKDIR or WORKDIR@STEP")
    to: str = config.arg("", "Where to, hf:DIR")
    dtype: str = config.arg("float32", "Type of the weights", choices=("float32", "bfloat16", "float16"))
    shard_gb: float = config.arg(5.0, "Most gigabytes of a file of weights", low=0.001)
    # fmt: on

    def check(self):
        if self.to and not self.to.startswith("hf:"):
            raise config.ConfigError(f"--to={self.to}: write hf:DIR")


@dataclasses.dataclass(frozen=True)
class Export:
    target: ExportTarget = config.group(ExportTarget)


def main(cfg: Export) -> None:
    """Reads the run's parameters, merges its adapters, and writes the directory."""
    from jaxtrain.stages import init_from

    if not cfg.target.init_from or not cfg.target.to:
        raise config.ConfigError("--init_from and --to: name the run, and hf:DIR to write")
    start = init_from.load_run(cfg.target.init_from)

    from jaxtrain.models import hf
    from jaxtrain.stages.load_model import load_model
    from jaxtrain.train import parallel

    folder = Path(cfg.target.to.removeprefix("hf:")).expanduser()
    plan = parallel.make(config.Run(parallel="mesh", mesh="fsdp:-1"))
    params = load_model(start, plan).params
    ids = {name: getattr(start.tokenizer, name) for name in ("bos", "eos", "pad")}
    hf.write(
        folder, params, start.arch, dtype=cfg.target.dtype, shard_bytes=cfg.target.shard_gb * 1e9, ids=ids,
        extra=tokenizer_files(start.tokenizer),
    )  # fmt: skip
    print(f"exported {cfg.target.init_from} to {folder}")


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """The tokenizer's files by name, as transformers reads them; a tokenizer of bytes has no such form."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    if "tokenizer.json" in files:
        texts = {number: text for text, number in tokenizer.specials.items()}
        names = {f"{role}_token": texts[getattr(tokenizer, role)] for role in ("bos", "eos", "pad")}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **names,
        }
        files["tokenizer_config.json"] = config.dumps(settings).encode()
    return files


if __name__ == "__main__":
    flags.launch(Export, main, "./launch/run export")
