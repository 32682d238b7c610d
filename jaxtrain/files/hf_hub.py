"""hf:NAME as a folder: one of this machine, or a repository of the Hugging Face Hub in the library's cache.

HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and HF_TOKEN mean what huggingface_hub makes of them.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from jaxtrain.config import ConfigError, Failure, is_remote
from jaxtrain.files import checksums, paths

PREFIX = "hf:"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
ROLES = "special_tokens.json"  # what data/tokenizer.py writes beside a tokenizer
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "*.model", "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
    ROLES, "byte.json",
)  # fmt: skip
CARD = "README.md"  # which people write on
_SMALL = (checksums.FILE, "config.json", "generation_config.json", INDEX, ADAPTER_CONFIG, *_TOKENIZER)
_STALE = ("*.safetensors", INDEX, "pytorch_model*.bin", "pytorch_model.bin.index.json", ADAPTER_CONFIG)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?")


class HfFolder(NamedTuple):
    """A folder in Hugging Face's layout, and the repository and commit or bucket's folder that it is a copy of."""

    path: Path
    hub: str = ""  # NAME@COMMIT, or gs://BUCKET/PATH; empty: a folder of this machine alone

    @property
    def origin(self) -> str:
        """hf:NAME, as a flag takes it: the folder as it stands, or the commit."""
        return f"{PREFIX}{self.hub or self.path.absolute()}"


def locate(text: str, flag: str) -> HfFolder:
    """The folder that --`flag`=hf:DIR, hf:ORG/NAME or hf:ORG/NAME@REVISION names, of a copy without the weights.

    A folder of this machine comes first, and a line says so where the Hub may have one of that name. Raises ConfigError
    where there is none, or it cannot be read.
    """
    name = text.removeprefix(PREFIX)
    path = paths.parse(name, flag)
    if is_remote(path):
        folder = paths.local_copy(path, f"--{flag}={text}", names=_SMALL)
        checksums.require(folder, f"--{flag}={text}", partial=True)
        return HfFolder(folder, name)
    is_repository = _REPOSITORY.fullmatch(name) is not None
    if path.exists() or not is_repository:
        if is_repository and "/" in name:
            logging.warning("%s%s: the folder of this machine, not the repository of the Hub", PREFIX, name)
        checksums.require(path, f"--{flag}={text}")
        return HfFolder(path)
    repository, _, revision = name.partition("@")
    folder = _download(repository, revision, _SMALL, f"--{flag}={PREFIX}{name}")
    return HfFolder(folder, f"{repository}@{folder.name}")


def tokenizer_path(text: str) -> Path:
    """The file or folder of --tokenizer on this machine; of a bucket's a copy, with the files beside it that count."""
    path, what = paths.parse(text, "tokenizer"), f"--tokenizer={text}"
    if not is_remote(path) or not path.suffix:
        return paths.local_copy(path, what)
    return paths.local_copy(path.parent, what, names=(path.name, *_TOKENIZER)) / path.name


def with_weights(folder: HfFolder) -> Path:
    """The folder with its safetensors: those of the index, else the one file. Raises ConfigError."""
    if not folder.hub:
        return folder.path
    if is_remote(folder.hub):
        return paths.local_copy(paths.parse(folder.hub, "init_from"), folder.origin)
    repository, _, commit = folder.hub.partition("@")
    index = folder.path / INDEX
    wanted: Sequence[str] = (SINGLE, ADAPTER)
    if index.is_file():
        try:
            wanted = sorted({str(file) for file in json.loads(index.read_bytes())["weight_map"].values()})
        except (ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"{PREFIX}{repository}: {INDEX} has no weight_map of files") from error
    path = _download(repository, commit, wanted, folder.origin)
    if not any((path / name).is_file() for name in wanted):
        raise ConfigError(
            f"{PREFIX}{repository}: the repository has no {' and no '.join(wanted[:2])}: only safetensors "
            "are read. Load it with transformers, save it with save_pretrained, and name that folder"
        )
    return path


def push(folder: Path, repository: str, *, private: bool, message: str) -> str:
    """The address of the commit that has the folder's files in place of the repository's weights.

    A repository that is not there is made; a README.md of its own stays. Raises ConfigError, and Failure where an
    upload breaks off.
    """
    what = f"--push={repository}"
    hub = _library(what)
    with _explained(what, repository):
        api = hub.HfApi(library_name="jaxtrain")
        repository = api.create_repo(repository, private=private or None, exist_ok=True).repo_id
        has_card = api.file_exists(repository, CARD)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, delete_patterns=list(_STALE),
            ignore_patterns=[checksums.FILE, *([CARD] if has_card else [])],
        )  # fmt: skip
    return str(commit.commit_url)


def _download(repository: str, revision: str, patterns: Sequence[str], what: str) -> Path:
    hub = _library(what)
    with _explained(what, repository):
        return Path(
            hub.snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=list(patterns),
                library_name="jaxtrain",
            )
        )


def _library(what: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(
            f"{what}: the Hub needs the package huggingface_hub; pip install 'jaxtrain[hf]'"
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def _explained(what: str, repository: str) -> Iterator[None]:
    """What the Hub answers, as a ConfigError with what to do about it; a transfer that breaks off is a Failure."""
    from huggingface_hub import constants, errors

    login = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as error:
        text = f"the repository is gated: accept its terms at {constants.ENDPOINT}/{repository}, and {login}"
        raise ConfigError(f"{what}: {text}") from error
    except errors.RepositoryNotFoundError as error:
        text = f"no folder of this machine, and no repository of {constants.ENDPOINT} that may be read"
        raise ConfigError(f"{what}: {text}: correct the name, or {login}") from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"{what}: the repository has no such branch, tag or commit") from error
    except errors.HFValidationError as error:
        raise ConfigError(
            f"{what}: neither a folder of this machine nor a repository's name ({error})"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(what) from error
    except errors.LocalTokenNotFoundError as error:
        raise ConfigError(f"{what}: no token; {login}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = f"; {login} with a token that may write there" if status in (401, 403) else ""
        raise ConfigError(f"{what}: {constants.ENDPOINT} answered {_line(error)}{hint}") from error
    except (errors.HTTPError, errors.OfflineModeIsEnabled) as error:
        raise ConfigError(f"{what}: {constants.ENDPOINT} cannot be reached ({_line(error)})") from error
    except (
        RuntimeError,
        getattr(errors, "XetDownloadError", RuntimeError),
    ) as error:  # a transfer that broke off
        if "client has been closed" in str(
            error
        ):  # by another thread of the library, which had no connection
            raise _unreachable(what) from error
        cause = f" ({_line(error.__cause__)})" if error.__cause__ else ""
        raise Failure(f"{what}: {_line(error)}{cause}; the same command goes on from there") from error


def _unreachable(what: str) -> ConfigError:
    from huggingface_hub import constants

    offline = "HF_HUB_OFFLINE is set; unset it" if constants.HF_HUB_OFFLINE else "check the connection"
    return ConfigError(
        f"{what}: no folder of this machine, not (or not wholly) in the cache {constants.HF_HUB_CACHE}, and "
        f"{constants.ENDPOINT} cannot be reached: {offline}, or name a folder"
    )


def _line(error: BaseException) -> str:
    """An error of the library in one line."""
    return " ".join(str(error).split()) or type(error).__name__
