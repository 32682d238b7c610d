"""Modules with people's reward functions, imported by name or from a file."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError


def module_of(text: str, name: str) -> Any:
    """The module, imported. Whatever it raises is the user's: a ConfigError with the cause."""
    file = Path(name).expanduser() if name.endswith(".py") else None
    if file and not file.is_file():
        raise ConfigError(f"{text}: no such file: {file}")
    with _visible(file.absolute().parent if file else Path.cwd()):
        try:
            return _of_file(file) if file else importlib.import_module(name)
        except ModuleNotFoundError as error:
            if file or not (name == error.name or name.startswith(f"{error.name}.")):
                raise ConfigError(f"{text}: {name} needs a module {error.name}") from error
            raise ConfigError(
                f"{text}: no module {error.name}, neither in {Path.cwd()} nor installed"
            ) from error
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{text}: {name} cannot be imported: {cause}") from error


def _of_file(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"reward_file_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a module up by its name
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _visible(folder: Path) -> Iterator[None]:
    """The folder comes first on sys.path for the while, and last from then on, so that it hides nothing of ours."""
    path, known = str(folder), str(folder) in sys.path
    sys.path.insert(0, path)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(path)
        if not known:
            sys.path.append(path)
