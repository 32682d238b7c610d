"""The grammar and checks of --data and --tokenizer, without a heavy import.

    SOURCES = SOURCE[,SOURCE ...]        SOURCE = KIND:NAME[:SPLIT][?key=value[&key=value ...]][*WEIGHT[@STEP]]

KIND is tinytown, tfds, hf, jsonl, store, preferences (a database of ./launch/run collect_preferences, or an export), or
filtered, whose NAME is a folder of ./launch/run filter_data. A comma ends a source only where a KIND: follows, so a
path may hold commas. In a path of jsonl, store, preferences or filtered `*`, `?` and `[]` are a glob's; there `*0.5` at
the end is a weight only if a number follows the star, `?` starts options only if `key=` follows it, and `:` starts a
split only as `:train` or `:train[...]`. A slice such as `train[:90%]` is TFDS's, and works for every kind. A tfds NAME
may be a folder, or end in a version, `NAME:1.0.0`.

A source that is named several times with a STEP has each WEIGHT from that step on (mixture.py), 0 before the first.

A NAME or a value between double quotes stands for itself, whatever is in it: `jsonl:"what? a=b, c.jsonl"?field=body*2`
names one file. Between the quotes `\\"` is a quote and `\\\\` a backslash.
"""

import difflib
import glob
import importlib.util
import math
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from jaxtrain.config import ConfigError, Data, Dialogs, is_remote
from jaxtrain.data import file_records, mixture
from jaxtrain.data.file_kinds import HF_EXTRA
from jaxtrain.data.record_fields import columns_of
from jaxtrain.files import globs, hf_hub, paths
from jaxtrain.worlds.tinytown import configs as tinytown

KINDS = ("tinytown", "tfds", "hf", "jsonl", "store", "preferences", "filtered")
FILES = ("jsonl", "store", "preferences", "filtered")  # kinds whose names are paths
FORMATS = (
    "messages",
    "conversations",
    "completion",
    "instruction",
    "preferred",
    "stored",
    "chosen",
    "responses",
    "ranked",
    "marked",
    "judged",
    "prompt",
    "question",
    "tree",
    "summary",
    "summaries",
    "prefix",
    "text",
)  # record_formats.py reads them
OURS = ("field", "format", "tokens")  # options of every kind; the others are the data set's own
OPTIONS = {
    "tfds": ("data_dir", *OURS), "hf": ("config", *OURS), "jsonl": OURS, "filtered": OURS, "preferences": OURS,
    "store": ("model", *OURS),
}  # fmt: skip
METADATA = "metadata."  # an option of store for each key
LEAST_BPE = 300  # 256 bytes, the special tokens, and some merges

_SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv", ".gz", ".zst", ".xz", ".bz2", ".zip")
_LITERAL = "a path with such characters stands for itself between double quotes"
_QUOTED = re.compile(r'((?:^|,)\s*\w+:|[?&]\w[\w.-]*=)"((?:[^"\\]|\\.)*)"')
_FIRST_MASK = (
    0xF0000  # of the characters that stand for quoted texts while a source is taken apart: private ones
)
_NEXT = re.compile(r",(?=\w+:)")
_NUMBER = re.compile(r"\*([+-]?(?:\d[\d.]*(?:e[+-]?\d+)?|\.\d+|nan|inf))(@[\w.+-]*)?$", re.IGNORECASE)
_SPLIT = re.compile(r"\w[\w.-]*(\[-?\d*%?:-?\d*%?\])?(\+\w[\w.-]*(\[-?\d*%?:-?\d*%?\])?)*")


@dataclass(frozen=True)
class DataSource:
    """One source of records. `split` is empty where none was named; `weight` is its share of the mix; the name of a
    `quoted` one is a path, and no pattern.
    """

    kind: str
    name: str
    split: str = ""
    options: tuple[tuple[str, str], ...] = ()
    weight: float = 1.0
    quoted: bool = False
    schedule: tuple[tuple[int, float], ...] = field(default=(), repr=False)  # (step, weight from it on)

    @property
    def path_label(self) -> str:
        """The source without its split, as --data may name it."""
        return f"{self.kind}:{quote(self.name) if self.quoted else self.name}"

    @property
    def label(self) -> str:
        """The source as messages call it."""
        return self.path_label + (f":{self.split}" if self.split else "")

    def option(self, key: str, default: str = "") -> str:
        """The value of an option, or `default`."""
        return dict(self.options).get(key, default)


def parse(text: str, flag: str = "data") -> tuple[DataSource, ...]:
    """The sources that `text` names. Raises ConfigError, naming `flag`, where it breaks the grammar above."""
    if not text.strip():
        raise ConfigError(
            f"--{flag} is empty: name a source, such as tinytown:pretrain or jsonl:corpus/*.jsonl"
        )
    masked, quoted = _masked(text)
    return mixture.merge([_parse_one(part.strip(), flag, quoted) for part in _NEXT.split(masked)], flag, text)


def quote(path: str) -> str:
    """A path between quotes, so that it stands for itself."""
    return '"' + re.sub(r'(["\\])', r"\\\1", path) + '"'


def of_path(kind: str, path: Path | str) -> str:
    """The source of one file or folder, `KIND:PATH`; between quotes where the path has characters with a meaning."""
    plain = re.fullmatch(r"(?! )[\w./~+@% -]*(?<! )", str(path))
    return f"{kind}:{path if plain else quote(str(path))}"


def _masked(text: str) -> tuple[str, list[str]]:
    """(the text with one private character for each quoted stretch, what stood between the quotes)."""
    quoted: list[str] = []

    def mask(match: re.Match[str]) -> str:
        quoted.append(re.sub(r"\\(.)", r"\1", match.group(2)))
        return match.group(1) + chr(_FIRST_MASK + len(quoted) - 1)

    return _QUOTED.sub(mask, text), quoted


def _unmasked(text: str, quoted: list[str], mark: str = "") -> str:
    """The text with its quoted stretches back, between `mark`s."""
    for i, one in enumerate(quoted):
        text = text.replace(chr(_FIRST_MASK + i), quote(one) if mark else one)
    return text


def _file_hint(text: str) -> str:
    """How a file of one's own is named, where the text is one's path."""
    file = Path(text).expanduser()
    if not file.is_file():
        return ""
    if file.suffix in (".txt", ".md"):
        return (
            '. For the file: write its texts as lines of JSON, {"text": "…"}, and name that file, jsonl:FILE'
        )
    return f". For the file: jsonl:{text}"


def _parse_one(masked: str, flag: str, quoted: list[str]) -> DataSource:
    kind, colon, rest = masked.partition(":")
    text = _unmasked(masked, quoted, '"')
    if kind not in KINDS or not rest:
        near = difflib.get_close_matches(kind, KINDS, n=1) if colon else []
        hint = f" (did you mean {near[0]}:?)" if near and near[0] != kind else _file_hint(text)
        raise ConfigError(f"--{flag}={text}: write KIND:NAME with KIND one of {', '.join(KINDS)}{hint}")
    rest, weight, schedule = _cut_weight(kind, rest, text, flag)
    rest, options = _cut_options(kind, rest, text, flag)
    name, split = _cut_split(kind, rest)
    if not name:
        raise ConfigError(f"--{flag}={text}: no name after {kind}:")
    if split and not _SPLIT.fullmatch(split):
        raise ConfigError(
            f"--{flag}={text}: {split!r} is not a split: write train, train[:90%] or train+test"
        )
    if kind in FILES and name.startswith('"'):
        raise ConfigError(f"--{flag}={text}: the quote after {kind}: has no end")
    plain = _unmasked(name, quoted)
    if plain != name and len(name) > 1:
        raise ConfigError(
            f"--{flag}={text}: after the closing quote only :SPLIT, ?key=value and *WEIGHT may follow"
        )
    options = tuple((key, _unmasked(value, quoted)) for key, value in options)
    return DataSource(kind, plain, split, options, weight, quoted=plain != name, schedule=schedule)


def _cut_weight(
    kind: str, rest: str, text: str, flag: str
) -> tuple[str, float, tuple[tuple[int, float], ...]]:
    match = _NUMBER.search(rest)
    if match is None and (kind in FILES or "*" not in rest):
        return rest, 1.0, ()
    body, _, number = rest.rpartition("*")
    number, at, step = number.partition("@")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf and not (at and weight == 0):
        raise ConfigError(f"--{flag}={text}: the weight *{number} must be a number above 0, such as *0.5")
    if at and not re.fullmatch(r"\d{1,12}", step):
        raise ConfigError(f"--{flag}={text}: @{step} must be the number of a step, such as *0.5@10000")
    return body, weight, ((int(step), weight),) if at else ()


def _cut_options(kind: str, rest: str, text: str, flag: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    body, mark, tail = rest, "", ""
    if kind not in FILES:
        body, mark, tail = rest.partition("?")
    elif match := re.search(r"\?(?=\w[\w.-]*=)", rest):
        body, mark, tail = rest[: match.start()], "?", rest[match.end() :]
    if not mark:
        return rest, ()
    pairs = [part.partition("=") for part in tail.split("&")]
    keys = [key for key, _, _ in pairs]
    if any(not (key and equals and value) for key, equals, value in pairs) or len(set(keys)) < len(keys):
        raise ConfigError(f"--{flag}={text}: write options as ?key=value&key=value, each key once")
    if kind in OPTIONS and (unknown := set(keys) - set(OPTIONS[kind])):
        more = f", {METADATA}KEY" if kind == "store" else ""
        unknown = {key for key in unknown if not (more and key.startswith(METADATA))}
        if unknown:
            raise ConfigError(
                f"--{flag}={text}: {kind} has no option {min(unknown)!r}; it has {', '.join(OPTIONS[kind])}{more}"
                + (f"; {_LITERAL}, such as {kind}:{quote(text.partition(':')[2])}" if kind in FILES else "")
            )
    return body, tuple((key, value) for key, _, value in pairs)


def _cut_split(kind: str, rest: str) -> tuple[str, str]:
    if kind in FILES:
        match = re.search(r":(train(?:\[[^\[\]]*\])?)$", rest)
        return (rest[: match.start()], match.group(1)) if match else (rest, "")
    scheme, mark, rest = rest.rpartition("://") if is_remote(rest) else ("", "", rest)
    name, _, split = rest.partition(":")
    name = f"{scheme}{mark}{name}"
    version = re.match(r"(\d+\.\d+\.\d+)(?::|$)", split)
    if kind == "tfds" and version:
        return f"{name}:{version.group(1)}", split[version.end() :]
    return name, split


def files(source: DataSource, flag: str = "data") -> list[Path]:
    """The files of a source whose name is a path, sorted. Raises ConfigError where there are none, or one is none."""
    if is_remote(source.name):
        return _bucket_files(source, flag)
    name = os.path.expanduser(source.name)
    there = os.path.lexists(name)
    try:
        found = [name] if there or source.quoted else globs.matches(name)
    except ConfigError as error:
        raise ConfigError(f"--{flag}: {error}") from error
    if "://" in name and not found:
        raise ConfigError(f"--{flag}: {name} is an address, not a file: fetch it, and name the file")
    if not found or (not there and source.quoted):
        hint = "" if source.quoted or not set(source.name) & set("?*[,:=\"") else (
            f"; {_LITERAL}: {source.kind}:{quote(source.name)}"
        )  # fmt: skip
        raise ConfigError(
            f"--{flag}: no file matches {source.name!r} (looked in {os.getcwd()}); check the path{hint}"
        )
    for path in found:
        _check_file(path, source.kind, flag)
    return [Path(path) for path in found]


def _bucket_files(source: DataSource, flag: str) -> list[Path]:
    if source.kind in ("store", "preferences"):
        raise ConfigError(
            f"--{flag}={source.label}: a database is read on this machine's own disk: copy it here, or name its "
            "--export with jsonl:"
        )
    name = glob.escape(source.name) if source.quoted else source.name
    found = paths.matches(name, flag)
    if not found:
        raise ConfigError(
            f"--{flag}: no file matches {source.name!r}; check the path, and name files, not a folder"
        )
    return [paths.parse(one, flag, reads=True) for one in found]


def _check_file(path: str, kind: str, flag: str) -> None:
    if os.path.isdir(path):
        raise ConfigError(f"--{flag}: {path} is a folder: name its files, {kind}:{_pattern(path)}")
    if not os.path.exists(path):
        raise ConfigError(f"--{flag}: {path} is a link to a file that is not there")
    if not os.path.isfile(path):
        raise ConfigError(
            f"--{flag}: {path} is a pipe or a device, and data are read several times: write them to a file first"
        )
    if not os.access(path, os.R_OK):
        raise ConfigError(f"--{flag}: {path} cannot be read: check its permissions")


def _pattern(folder: str) -> str:
    """A pattern for the files of a folder, by the most frequent suffix among them."""
    names = os.listdir(folder) if os.access(folder, os.R_OK) else []
    suffixes = Counter(Path(name).suffix for name in names if os.path.isfile(os.path.join(folder, name)))
    known = [suffix for suffix, _ in suffixes.most_common() if suffix in _SUFFIXES]
    return f"{folder.rstrip('/')}/*{known[0] if known else '.jsonl'}"


def check(data: Data) -> None:
    """Raises ConfigError for a data set, split, option, weight, file or tokenizer that cannot be; takes
    milliseconds.

    Only a tfds: source imports anything heavy (tensorflow_datasets, about a second).
    """
    check_sources(data.data, data, "data")
    if data.eval_data:
        check_sources(data.eval_data, data, "eval_data")
    if isinstance(data, Dialogs):
        columns_of(data.columns)
    check_tokenizer(data.tokenizer)


def check_sources(text: str, data: Data, flag: str) -> None:
    """Raises ConfigError, naming `flag`, for sources that cannot be; only those of --data have weights."""
    for source in parse(text, flag):
        if flag != "data" and (source.weight != 1 or source.schedule):
            raise ConfigError(f"--{flag}={text}: every document is read once: leave out the weight")
        _check_format(source, data, flag)
        _CHECKS[source.kind](source, flag)


def _check_format(source: DataSource, data: Data, flag: str) -> None:
    name = source.option("format")
    if (tokens := source.option("tokens")) and name != "prefix":
        raise ConfigError(f"--{flag}={source.label}?tokens={tokens}: acts only with format=prefix")
    if not name:
        return
    if not isinstance(data, Dialogs):
        raise ConfigError(f"--{flag}={source.label}?format={name}: acts only where conversations are read")
    if name not in FORMATS:
        raise ConfigError(
            f"--{flag}={source.label}?format={name}: no such format; choose one of {', '.join(FORMATS)}"
        )


def _check_tinytown(source: DataSource, flag: str) -> None:
    try:
        tinytown.resolve(source.name, {k: v for k, v in source.options if k not in OURS})
        if source.split:
            tinytown.check_split(source.name, source.split)
    except ValueError as error:
        raise ConfigError(f"--{flag}={source.label}: {error}") from error


def _check_files(source: DataSource, flag: str) -> None:
    for path in files(source, flag):
        if source.kind != "jsonl" or is_remote(path):  # one of a bucket is looked into once it is here
            continue
        try:
            file_records.kind_of(path)
        except ConfigError as error:
            raise ConfigError(f"--{flag}: {error}") from error


def _check_filtered(source: DataSource, flag: str) -> None:
    if not (paths.parse(source.name, flag) / "report.json").is_file():
        raise ConfigError(
            f"--{flag}={source.label}: {source.name} holds no report.json; name the folder of a finished "
            "./launch/run filter_data --out=DIR"
        )


def _check_hf(source: DataSource, flag: str) -> None:
    if is_remote(source.label.removeprefix("hf:")):
        raise ConfigError(
            f"--{flag}={source.label}: hf: names a data set of the Hub; write jsonl: and its files"
        )
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError(f"--{flag}={source.label}: hf: needs the package datasets; {HF_EXTRA}")


def _check_tfds(source: DataSource, flag: str) -> None:
    if is_folder(source):
        if not (paths.parse(source.name, flag) / "dataset_info.json").is_file():
            raise ConfigError(
                f"--{flag}={source.label}: {source.name} holds no dataset_info.json; name the folder of a prepared "
                "data set, such as ~/tensorflow_datasets/NAME/1.0.0"
            )
        return
    if is_remote(source.option("data_dir")):
        raise ConfigError(
            f"--{flag}={source.label}: of a bucket name the folder of the prepared data set, tfds:gs://BUCKET/NAME/1.0.0"
        )
    import tensorflow_datasets as tfds  # a second; only for tfds:

    name = source.name.partition(":")[0].partition("/")[0]
    known = tfds.list_builders(with_community_datasets=False)
    prepared = [source.option("data_dir"), os.environ.get("TFDS_DATA_DIR", ""), "~/tensorflow_datasets"]
    if name not in known and not any((Path(d).expanduser() / name).is_dir() for d in prepared if d):
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "tfds.list_builders() lists them"
        raise ConfigError(f"--{flag}={source.label}: TFDS has no data set {name!r}; {hint}")


_CHECKS = {
    "tinytown": _check_tinytown,
    "jsonl": _check_files,
    "store": _check_files,
    "preferences": _check_files,
    "filtered": _check_filtered,
    "hf": _check_hf,
    "tfds": _check_tfds,
}


def is_folder(source: DataSource) -> bool:
    """Whether a tfds source names the folder of a prepared data set."""
    return source.name.startswith(("/", "~", ".")) or is_remote(source.name)


def check_tokenizer(text: str) -> None:
    """Raises ConfigError unless `text` is byte, bpe:SIZE, hf:NAME, a SentencePiece *.model, a tokenizer.json or
    its folder; what hf: names is looked up later.
    """
    kind, _, size = text.partition(":")
    if text == "byte" or kind == "hf":
        return
    if kind == "bpe":
        if not size.isdigit() or int(size) < LEAST_BPE:
            raise ConfigError(
                f"--tokenizer={text}: write bpe:SIZE with a SIZE of {LEAST_BPE} or more, such as bpe:4096"
            )
        return
    path = hf_hub.tokenizer_path(text)
    if not text or not path.exists():
        raise ConfigError(
            f"--tokenizer={text}: no such file; write byte, bpe:SIZE, hf:NAME, or a tokenizer.json or *.model file"
        )
    if path.is_dir() and not (path / "tokenizer.json").is_file() and not any(path.glob("*.model")):
        raise ConfigError(f"--tokenizer={text}: the folder holds no tokenizer.json and no *.model")
    if path.is_file() and path.suffix not in (".json", ".model"):
        raise ConfigError(f"--tokenizer={text}: neither a tokenizer.json nor a SentencePiece *.model")
    if path.suffix == ".model" and importlib.util.find_spec("sentencepiece") is None:
        raise ConfigError(f"--tokenizer={text}: a *.model needs the package sentencepiece; {HF_EXTRA}")
