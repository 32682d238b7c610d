"""Print the script that completes stages, flags and their values in bash, zsh or fish."""

import dataclasses
import importlib
import re
from pathlib import Path

from jaxtrain import config, flags, shell_completion

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class CompletionShell(config.Group):
    shell: str = config.arg("bash", "The shell", choices=tuple(shell_completion.SHELLS))


@dataclasses.dataclass(frozen=True)
class ShellCompletion:
    which: CompletionShell = config.group(CompletionShell)


def main(cfg: ShellCompletion) -> None:
    """Prints the script."""
    program = str(HERE.parent / "launch" / "run")
    print(shell_completion.SHELLS[cfg.which.shell](commands(), program), end="")


def commands() -> list[shell_completion.CommandCompletion]:
    """Every module of experiments/ that can be run, with its flags."""
    found = []
    for file in sorted(HERE.rglob("*.py")):
        launched = re.search(r"^ +flags\.launch\((\w+), main", file.read_text(encoding="utf-8"), re.M)
        if launched is None:
            continue
        name = ".".join(file.relative_to(HERE).with_suffix("").parts)
        module = importlib.import_module(f"experiments.{name}")
        about = (module.__doc__ or "").partition("\n")[0]
        cls = flags.class_of(getattr(module, launched[1]), [])
        found.append(shell_completion.of_class(name, about, cls))
    return found


if __name__ == "__main__":
    flags.launch(ShellCompletion, main, "./launch/run completion")
