"""Paths of this machine, pathlib's, and of the buckets gs:// and s3:// and the Hub's hf://, etils.epath's over fsspec.

`parse` makes either of a flag's text. A path of a bucket has pathlib's methods; what reads a file by its name gets the
`local_copy` of it, and what writes one by its name writes to `written`'s folder. fsspec is imported where a bucket is
named, not before. The credentials are those of the environment, as Google's and Amazon's libraries find them.
"""

import concurrent.futures
import contextlib
import fnmatch
import functools
import importlib.util
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxtrain.config import BUCKETS, CACHE_DIR, HUB, ConfigError, Failure, is_bucket_error, is_remote
from jaxtrain.files import cache

T = TypeVar("T")

FIRST_ANSWER_WITHIN = 10.0  # seconds for a bucket's first answer, the search for credentials included
CACHE = Path(CACHE_DIR)  # where what is read from buckets is copied to
COPIES = "remote"  # in it
HUB_KINDS = ("datasets", "buckets")  # whose files are data
AT_ONCE = 16  # files that are fetched at the same time
SETTINGS = {
    # gcsfs looks up every bucket's type by another API, which needs rights that an object's reader does not have.
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    # Where there are no credentials, Google's library asks for the metadata server of a cloud's machine for 9 seconds.
    "GCE_METADATA_TIMEOUT": "1",
    "GCE_METADATA_DETECT_RETRIES": "1",
}
_LOGIN = {
    "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "`aws configure`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    HUB: "`hf auth login`, or HF_TOKEN",
}


def parse(text: str, flag: str, *, reads: bool = False) -> Path:
    """The path that --`flag` names, which it only `reads`. Raises ConfigError for a bucket that cannot be used."""
    if not is_remote(text):
        return Path(text).expanduser()
    scheme, bucket = text.split("://", 1)[0], text.split("/")[2]
    if scheme == HUB and not reads:
        raise ConfigError(
            f"--{flag}={text}: hf:// names files of data, as in --data=jsonl:hf://datasets/ORG/NAME/*.parquet"
        )
    if scheme == HUB and (bucket not in HUB_KINDS or not all(text.split("/")[3:6]) or text.count("/") < 5):
        raise ConfigError(f"--{flag}={text}: write hf://{HUB_KINDS[0]}/ORG/NAME/FILES")
    if wrong := _wrong_with(scheme, bucket):
        raise ConfigError(f"--{flag}={text}: {wrong}")
    from etils import epath

    return epath.Path(text)


def absolute(path: Path) -> Path:
    """The absolute path; that of a bucket is absolute."""
    return path if is_remote(path) else path.expanduser().absolute()


def file_system(path: Path | str) -> Any:
    """fsspec's file system of a path in a bucket."""
    scheme = str(path).split("://", 1)[0]
    _prepare(scheme)
    import fsspec

    # The instance that epath has, with its arguments.
    return fsspec.filesystem("gcs", finalize_on_close=True) if scheme == "gs" else fsspec.filesystem(scheme)


@functools.cache
def _prepare(scheme: str) -> None:
    """Settings of a scheme's libraries, before their first import. What the environment has stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import fsspec.config

    settings = fsspec.config.conf.setdefault("gcs" if scheme == "gs" else scheme, {})
    # Other hosts and tensorstore write, too: a listing is true for a moment only.
    settings.setdefault("use_listings_cache", False)
    if scheme == "gs":
        settings.setdefault("token", _token())
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of what it also raises


def _token() -> str:
    """How gcsfs finds credentials: the way that works. Trying all, it takes 15 seconds where there are none."""
    import google.auth

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return "anon"
    try:
        google.auth.default()
    except google.auth.exceptions.DefaultCredentialsError:
        return "anon"
    return "google_default"


@functools.cache
def _wrong_with(scheme: str, bucket: str) -> str:
    """What is wrong with a bucket, and what to do; empty where its files can be listed."""
    package = BUCKETS[scheme]
    if importlib.util.find_spec(package) is None:
        extra = "hf" if scheme == HUB else "remote"
        return f"{scheme}:// needs the package {package}; pip install 'jaxtrain[{extra}]'"
    if scheme == HUB:  # what is not there is said where its files are listed
        return ""
    if not bucket:
        return f"no bucket is named; write {scheme}://BUCKET/PATH"
    try:
        _within(FIRST_ANSWER_WITHIN, lambda: file_system(f"{scheme}://").ls(bucket, detail=False))
    except FileNotFoundError:
        return f"there is no bucket {bucket}; create it, or correct the name"
    except TimeoutError:
        return f"no answer in {FIRST_ANSWER_WITHIN:.0f} s: check the connection and the credentials: {_LOGIN[scheme]}"
    except Exception as error:
        if not (isinstance(error, OSError | ValueError) or is_bucket_error(error)):
            raise
        return f"the bucket cannot be read ({_line(error)}): check its permissions, and credentials: {_LOGIN[scheme]}"
    return ""


def _within(seconds: float, action: Callable[[], T]) -> T:
    """What an action returns; TimeoutError after so many seconds, while its thread goes on."""
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            result.set_result(action())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result(timeout=seconds)


def _line(error: BaseException) -> str:
    """The first line of an error of a bucket, without HTML."""
    text = str(error).strip() or type(error).__name__
    return type(error).__name__ if text.startswith("<") else text.splitlines()[0][:200]


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns what a bucket's library raises into a ConfigError for what is not there, else into a Failure."""
    try:
        yield
    except FileNotFoundError as error:
        login = f"; a gated or private repository needs {_LOGIN[HUB]}" if f"{HUB}://" in what else ""
        raise ConfigError(f"{what}: there is no such file or folder{login}") from error
    except Exception as error:
        if not is_bucket_error(error):
            raise
        raise Failure(f"{what}: {_line(error)}; the same command goes on from there") from error


def matches(pattern: str, flag: str) -> list[str]:
    """The files of a bucket that match a pattern with *, ? and [], sorted; those of a file's own name."""
    path = parse(pattern, flag, reads=True)
    scheme = pattern.split("://", 1)[0]
    with explained(f"--{flag}={pattern}"):
        found = file_system(path).glob(str(path), detail=True)
    return sorted(f"{scheme}://{name}" for name, info in found.items() if info["type"] == "file")


def sizes(folder: Path) -> dict[str, int]:
    """{name: bytes} of the files of a bucket's folder and those below it."""
    with explained(str(folder)):
        found = file_system(folder).find(str(folder), detail=True)
    base = str(folder).split("://", 1)[1].rstrip("/")
    return {
        name.removeprefix(base).lstrip("/"): info["size"]
        for name, info in found.items()
        if not name.endswith("/")
    }


def local_copy(path: Path, what: str, folder: Path = CACHE, names: Sequence[str] = ()) -> Path:
    """A path of this machine with the content: itself, or the copy of a bucket's file or folder in a cache folder.

    It is fetched where it is new or has changed. `names`: patterns of the files wanted of a folder; all without them.
    Raises ConfigError, which begins with `what`, where there is none.
    """
    if not is_remote(path):
        return path
    files = file_system(path)
    with explained(what):
        found = files.find(str(path), detail=True)
    base = str(path).split("://", 1)[1].rstrip("/")
    wanted = {
        name.removeprefix(base).lstrip("/"): info
        for name, info in sorted(found.items())
        if not name.endswith("/")
    }
    wanted = {
        name: info
        for name, info in wanted.items()
        if not (names and name) or any(fnmatch.fnmatch(name, pattern) for pattern in names)
    }
    if not wanted:
        raise ConfigError(f"{what}: there is no such file or folder")
    marks = [(name, info["size"], _version(info)) for name, info in wanted.items()]

    def fill(work: Path) -> None:
        places = [work / path.name / name if name else work / path.name for name in wanted]
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
        with explained(what):
            files.get(
                [f"{base}/{name}" if name else base for name in wanted], [str(place) for place in places]
            )

    return cache.build(folder.expanduser() / COPIES / cache.digest(str(path), marks), fill) / path.name


def local_copies(files: Sequence[Path], what: str, folder: Path = CACHE) -> list[Path]:
    """`local_copy` of each file; those of buckets are fetched at once."""
    if not any(map(is_remote, files)):
        return list(files)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda file: local_copy(file, what, folder), files))


@contextlib.contextmanager
def named(copies: Sequence[Path], files: Sequence[Path]) -> Iterator[None]:
    """Lets a ConfigError name the files of a bucket in place of their local copies."""
    try:
        yield
    except ConfigError as error:
        text = str(error)
        for copy, file in zip(copies, files, strict=True):
            text = text.replace(str(copy), str(file))
        if text == str(error):
            raise
        raise ConfigError(text) from error


def versions(files: Sequence[Path]) -> list[tuple[int, str]]:
    """(bytes, version) of each file of a bucket: what tells its content without fetching it."""
    known: dict[str, dict[str, Any]] = {}
    for folder in {file.parent for file in files}:
        with explained(str(folder)):
            known |= {one["name"]: one for one in file_system(folder).ls(str(folder), detail=True)}
    names = {file: str(file).split("://", 1)[1] for file in files}
    if gone := [str(file) for file, name in names.items() if name not in known]:
        raise ConfigError(f"{gone[0]}: there is no such file any more")
    return [(known[name]["size"], _version(known[name])) for name in names.values()]


_VERSIONS = (
    "generation",
    "ETag",
    "etag",
    "blob_id",
    "mtime",
    "created",
)  # of an object, by the kind of store


def _version(info: dict[str, Any]) -> str:
    return str(next(info[key] for key in _VERSIONS if info.get(key)))


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A folder to write to: `path` itself, or one of this machine whose files are uploaded when the context ends."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / path.name
        yield folder
        upload(folder, path)


def upload(folder: Path, target: Path, names: Sequence[str] | None = None) -> None:
    """Copies the files of a folder, or those of these `names`, into a bucket. Each appears there whole."""
    if names is None:
        names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
    if names:
        with explained(str(target)):
            sources, targets = [str(folder / name) for name in names], [f"{target}/{name}" for name in names]
            file_system(target).put(sources, targets)


@contextlib.contextmanager
def uploading(path: Path, mode: str) -> Iterator[Any]:
    """A file opened for writing that a bucket has once the context ends without an error, and not before."""
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name) / "file"
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        with explained(str(path)):
            file_system(path).put_file(str(temporary), str(path))


def remove_tree(folder: Path) -> None:
    """Removes a folder with what is in it."""
    if is_remote(folder):
        file_system(folder).rm(str(folder), recursive=True)
    else:
        shutil.rmtree(folder)
