"""Errors of data sets that are not here and cannot be fetched: the message has the command that fetches them."""

import contextlib
from collections.abc import Iterator

from jaxtrain.config import ConfigError


@contextlib.contextmanager
def hf_fetch(what: str, name: str) -> Iterator[None]:
    """Turns what loading a data set of the Hub raises into a ConfigError; `what` is the flag and the source."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:  # a configuration or split that there is not
        raise ConfigError(f"{what}: {error}") from error
    except OSError as error:
        raise ConfigError(
            f"{what}: {_line(error)}. Where the Hub can be reached, `hf download --repo-type=dataset {name} "
            "--local-dir=DIR` fetches it; here name its files then, 'jsonl:DIR/**/*.parquet'"
        ) from error


@contextlib.contextmanager
def tfds_fetch(what: str, name: str) -> Iterator[None]:
    """Turns what downloading and preparing a TFDS data set raises into a ConfigError."""
    try:
        yield
    except ConfigError:  # such as that of a full disk
        raise
    except (OSError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"{what}: it is not prepared on this machine, and cannot be fetched ({_line(error)}). Where its source can "
            f"be reached, `tfds build {name} --file_format=array_record --data_dir=DIR` prepares it; here name the "
            "folder of its version then, tfds:DIR/NAME/VERSION"
        ) from error


def _line(error: BaseException) -> str:
    """An error in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
