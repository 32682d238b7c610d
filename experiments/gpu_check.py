"""The check of a GPU: is it right, and how fast is it, beside plain torch, in 8 minutes."""

import dataclasses

from jaxtrain import config, flags
from jaxtrain.apps.benchmark.config import GpuCheck


@dataclasses.dataclass(frozen=True)
class GpuCheckCommand:
    check: GpuCheck = config.group(GpuCheck)


def main(cfg: GpuCheckCommand) -> None:
    """Measures the parts, each in a process of its own, writes results and page, and prints a summary."""
    import signal
    from pathlib import Path

    from jaxtrain.apps.benchmark import check, results, tables

    what = cfg.check
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a time limit's end stops the parts, as Ctrl-C does
    for flag, path in (("out", what.out), ("page", what.page)):
        if path and not Path(path).absolute().parent.is_dir():
            raise config.ConfigError(f"--{flag}={path}: there is no folder {Path(path).absolute().parent}")
    if what.page:
        tables.require_marks(Path(what.page))

    def say(line: str) -> None:
        print(line, flush=True)

    found = check.run(what, say) if what.seconds else results.read(Path(what.out))
    if what.page:
        tables.write_page(Path(what.page), found)
    say("")
    for line in tables.summary(found):
        say(line)
    say(f"results: {what.out}{f', page: {what.page}' if what.page else ''}")
    if tables.wrong(found):
        raise config.Failure("a part failed, or its result is wrong: see above")


if __name__ == "__main__":
    flags.launch(GpuCheckCommand, main, "launch/gpu_check")
