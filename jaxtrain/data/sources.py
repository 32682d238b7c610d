"""Data sources of every kind as random-access records, with a held-out side."""

import functools
import io
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.config import ConfigError, Data
from jaxtrain.data import fetch_errors, source_spec, tfds_errors
from jaxtrain.data.source_spec import DataSource
from jaxtrain.files import cache
from jaxtrain.files import paths as bucket_paths

HELD_OUT = ("validation", "valid", "val", "dev", "test")  # in this order
Fields = Mapping[str, type] | None  # what a record must have; None: whatever it has, whole
TEXT: Fields = {"text": str}
OPTIONAL = ("logp",)  # fields that are read where a data set has them
_BLOCK = 512  # records read at once


@dataclass(frozen=True)
class Records:
    """Records by number. `fingerprint` changes with their content; `label` names them in messages."""

    label: str
    fingerprint: str
    read: Callable[[Sequence[int]], list[dict[str, Any]]]
    size: int
    index: np.ndarray | None = None  # the numbers, where these are only some of the `size` records
    skipped: int = 0  # broken records that are not among them
    listed: str = ""  # the file that lists those
    notes: tuple[str, ...] = ()  # lines on what else was left out
    place: Callable[[int], str] | None = None  # file and line of a record of `read`

    def __len__(self) -> int:
        return self.size if self.index is None else len(self.index)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.many([i])[0]

    def many(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The records of these numbers, in one read."""
        return self.read([int(self.source_number(i)) for i in numbers])

    def source_number(self, i: int) -> int:
        """Where record i is in the whole split, for messages."""
        return i if self.index is None else self.index[i]

    def where(self, i: int) -> str:
        """Record i as messages call it: its file with the line or row, or the source with its number."""
        number = int(self.source_number(i))
        return (self.place and self.place(number)) or f"{self.label} record {number}"

    def blocks(self, seed: int | None = None) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """(number of the first, records) of blocks that cover all, in order or shuffled by `seed`."""
        starts = np.arange(0, len(self), _BLOCK)
        if seed is not None:
            starts = np.random.Generator(np.random.Philox(seed)).permutation(starts)
        for start in starts.tolist():
            yield start, self.many(range(start, min(start + _BLOCK, len(self))))


@dataclass(frozen=True)
class _Opened:
    splits: tuple[str, ...]
    get: Callable[[str], Records]


def train_and_held_out(
    source: DataSource,
    data: Data,
    fields: Fields = TEXT,
    view: Callable[[Records], Records] = lambda all: all,
) -> tuple[Records, Records | None]:
    """The records to train on, and those held out: the data set's own validation or test split, if it has one.

    Without one, `eval_share` of the documents by the hash of their number, at least one on each side. None
    is held out where --eval_data names other data. `fields` are what a record must have, and its type; the
    name text means --text_field. A record of TFDS has these and OPTIONAL, one of another kind all its
    fields; with `fields` None every record is whole. `view` puts rows together before some are held out. Raises
    ConfigError for anything wrong with the data.
    """
    opened = _open(source, data, fields)
    train = view(opened.get(main_split(opened.splits, source)))
    if data.eval_data:
        return train, None
    own = held_out_split(opened.splits, source)
    return (train, view(opened.get(own))) if own else hold_out(train, data.eval_share)


def whole(source: DataSource, data: Data, fields: Fields = TEXT) -> Records:
    """All records of the split that a source names, else of its split train or only one; none is held out."""
    opened = _open(source, data, fields)
    return opened.get(main_split(opened.splits, source))


def all_of(source: DataSource, data: Data, fields: Fields = TEXT) -> Records:
    """The records of an --eval_data source: the split it names, else its validation or test split, else all."""
    opened = _open(source, data, fields, "eval_data")
    return opened.get(eval_split(opened.splits, source))


def main_split(splits: Sequence[str], source: DataSource) -> str:
    """The split that a source names, else train, else the only one."""
    if source.split or "train" in splits:
        return source.split or "train"
    if len(splits) == 1:
        return splits[0]
    raise ConfigError(
        f"--data={source.label}: it has no split train but {', '.join(splits)}; name one, {source.label}:SPLIT"
    )


def held_out_split(splits: Sequence[str], source: DataSource) -> str:
    """The validation or test split beside the one that is trained on; empty where there is none."""
    used = {part.partition("[")[0] for part in main_split(splits, source).split("+")}
    return next((name for name in HELD_OUT if name in splits and name not in used), "")


def eval_split(splits: Sequence[str], source: DataSource) -> str:
    """The split of an --eval_data source: the one it names, else its validation or test split, else all."""
    own = next((name for name in HELD_OUT if name in splits), "")
    return source.split or own or main_split(splits, source)


def hold_out(records: Records, share: float) -> tuple[Records, Records]:
    """(the records to train on, those held out): a share of them by the hash of their number."""
    if not 0 < share < 1:
        raise ConfigError(
            f"--eval_share={share}: {records.label} has no held-out split; give a share between 0 and 1, or --eval_data"
        )
    if len(records) < 2:
        raise ConfigError(
            f"--data={records.label}: it has {len(records)} document, and one must be held out; cut it into several "
            "documents, or name other held-out data with --eval_data"
        )
    order = hash_of(np.arange(len(records)))
    is_held_out = order < share * 2.0**64
    is_held_out[np.argmin(order)], is_held_out[np.argmax(order)] = True, False
    sides = []
    for name, chosen in (("train", ~is_held_out), ("held out", is_held_out)):
        fingerprint = cache.digest(records.fingerprint, share, name)
        sides.append(replace(records, index=np.flatnonzero(chosen), fingerprint=fingerprint))
    return sides[0], sides[1]


def hash_of(numbers: np.ndarray) -> np.ndarray:
    """u64 of each number, evenly spread (the finaliser of SplitMix64)."""
    x = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def text_field(source: DataSource, data: Data) -> str:
    """The field of a source's records that holds the text."""
    return source.option("field", data.text_field)


def cache_dir(data: Data) -> Path:
    """The folder of --cache_dir."""
    return Path(data.cache_dir).expanduser()


def _open(source: DataSource, data: Data, fields: Fields, flag: str = "data") -> _Opened:
    field = text_field(source, data)
    wanted = fields and {field if name == "text" else name: kind for name, kind in fields.items()}
    return _OPEN[source.kind](source, data, wanted, flag)


def _need(wanted: Fields, there: Sequence[str], label: str) -> None:
    for name in wanted or ():
        if name not in there:
            raise ConfigError(
                f"--data={label}: its records have no field {name!r} but {', '.join(sorted(there))}; "
                "name the right one with --text_field, or ?field=NAME after the source"
            )


def _plain(value: Any) -> Any:
    """A feature as TFDS returns it, in plain lists and values, with bytes as text where they are UTF-8."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def _reader(data_source: Any, wanted: Fields) -> Callable[[Sequence[int]], list[dict[str, Any]]]:
    """A function that reads the wanted fields of a TFDS data source, texts without the slow decoder of TFDS."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    features = data_source.dataset_info.features.items()
    there = {k: f for k, f in features if wanted is None or k in (*wanted, *OPTIONAL)}
    direct = [k for k, feature in there.items() if isinstance(feature, tfds.features.Text)]
    eight = [k for k, feature in there.items() if _is_packed_float(feature)]
    others = {k: feature for k, feature in there.items() if k not in (*direct, *eight)}
    slow = tfds.features.FeaturesDict(others) if others else None

    def one(example: bytes) -> dict[str, Any]:
        feature = tf_example_pb2.Example.FromString(example).features.feature
        record = {k: _plain(feature[k].bytes_list.value[0]) for k in direct}
        record |= {k: struct.unpack("<d", feature[k].bytes_list.value[0])[0] for k in eight}
        return record | (
            {k: _plain(v) for k, v in slow.deserialize_example_np(example).items()} if slow else {}
        )

    def read(numbers: Sequence[int]) -> list[dict[str, Any]]:
        folder, records = data_source.dataset_info.data_dir, list[dict[str, Any]]()
        with tfds_errors.explained(folder):
            examples = data_source.data_source.__getitems__(list(numbers))
        with tfds_errors.explained(folder, lambda: f" record {numbers[len(records)]}"):
            for example in examples:
                records.append(one(example))
        return records

    return read


def _is_packed_float(feature: Any) -> bool:
    """Whether it is one f64 stored as its eight bytes, as Tinytown stores a log-probability."""
    coding = getattr(feature.to_json_content(), "encoding", "")
    return coding == "bytes" and feature.np_dtype == np.float64 and feature.shape == ()


def _open_tinytown(source: DataSource, data: Data, wanted: Fields, flag: str) -> _Opened:
    from jaxtrain.worlds.tinytown import configs, dataset

    options = {key: value for key, value in source.options if key not in source_spec.OURS}
    _need(wanted, list(configs.COLUMNS[source.name]), source.label)

    def get(split: str) -> Records:
        with _quiet(), cache.full_disk(cache_dir(data)):
            try:
                data_source = dataset.load(source.name, split, data_dir=cache_dir(data), **options)
            except ValueError as error:  # such as more prompts than the world has
                raise ConfigError(f"--{flag}={source.label}: {error}") from error
        chosen = configs.resolve(source.name, options)
        mark = cache.digest(configs.VERSION, configs.full_name(source.name, chosen), repr(chosen), split)
        return Records(
            f"tinytown:{source.name}:{split}", mark, _reader(data_source, wanted), len(data_source)
        )

    return _Opened(tuple(configs.SPLITS[source.name]), get)


def _open_jsonl(source: DataSource, data: Data, wanted: Fields, flag: str) -> _Opened:
    return _open_files(source_spec.files(source, flag), (), source, data, wanted, flag)


def _open_database(source: DataSource, data: Data, wanted: Fields, flag: str) -> _Opened:
    from jaxtrain.data import completions_db, preferences_db

    stored = source.kind == "store"
    database = completions_db if stored else preferences_db
    paths = source_spec.files(source, flag)
    lines = [database.as_lines(path, cache_dir(data)) for path in paths]
    opened = _open_files(lines, (), source, data, None, flag)

    def get(split: str) -> Records:
        records = opened.get(split)
        if lines != paths:  # the lines of a database are in a file that nobody knows
            records = replace(records, place=None)
        return completions_db.selected_choices(records, source, flag) if stored else records

    return _Opened(opened.splits, get)


def _open_filtered(source: DataSource, data: Data, wanted: Fields, flag: str) -> _Opened:
    from jaxtrain.data import filtered

    paths, mark = filtered.files_of(source.name, flag, cache_dir(data) / "digests")
    return _open_files(paths, (mark,), source, data, wanted, flag)


def of_files(paths: list[Path], split: str, source: DataSource, data: Data, flag: str) -> Records:
    """All records of the files of a source's split that have a text."""
    records = _open_files(paths, (), source, data, {text_field(source, data): str}, flag).get("train")
    return replace(records, label=f"{source.path_label}:{split}")


def _open_files(
    paths: list[Path], marks: tuple[str, ...], source: DataSource, data: Data, wanted: Fields, flag: str
) -> _Opened:
    import tensorflow_datasets as tfds

    from jaxtrain.data import bad_records, jsonl
    from jaxtrain.data.read_limits import ReadLimits

    copies = bucket_paths.local_copies(paths, f"--{flag}={source.label}", cache_dir(data))
    with bucket_paths.named(copies, paths):
        folder = jsonl.prepare(copies, wanted or {}, data.on_bad_record, cache_dir(data), ReadLimits.of(data))

    def get(split: str) -> Records:
        data_source = _slice(tfds.builder_from_directory(str(folder)), split, source, flag)
        mark = cache.digest(*marks, folder.parent.name, split)
        texts, places = (_reader(data_source, {name: str}) for name in jsonl.COLUMNS)

        def read(numbers: Sequence[int]) -> list[dict[str, Any]]:
            return [json.loads(record["json"]) for record in texts(numbers)]

        def place(number: int) -> str:
            file, _, rest = places([number])[0]["place"].partition(" ")
            return f"{paths[int(file)]}{rest}"

        return Records(
            label=source.path_label,
            fingerprint=mark,
            read=read,
            size=len(data_source),
            skipped=bad_records.skipped(folder),
            listed=str(folder / "skipped.jsonl"),
            notes=jsonl.notes_of(folder),
            place=place,
        )

    return _Opened(("train",), get)


def _slice(builder: Any, split: str, source: DataSource, flag: str) -> Any:
    try:
        data_source = builder.as_data_source(split=split)
    except (ValueError, KeyError, AssertionError) as error:
        raise ConfigError(
            f"--{flag}={source.label}: no split {split!r}; it has {', '.join(builder.info.splits)} ({error})"
        ) from error
    except RuntimeError as error:
        with tfds_errors.explained(builder.data_dir):
            raise error
    with tfds_errors.explained(builder.data_dir):
        size = len(data_source)
    if size == 0:
        raise ConfigError(f"--{flag}={source.label}: the split {split!r} is empty")
    return data_source


def _open_tfds(source: DataSource, data: Data, wanted: Fields, flag: str) -> _Opened:
    builder = _tfds_builder(source, data, flag)
    _need(wanted, list(builder.info.features), source.label)

    def get(split: str) -> Records:
        data_source = _slice(builder, split, source, flag)
        used = (one for name, one in builder.info.splits.items() if name in re.split(r"[^\w.-]+", split))
        tfds_errors.check_lengths(builder.data_dir, used)
        records = Records(f"tfds:{source.name}:{split}", "", _reader(data_source, wanted), len(data_source))
        size = sum(one.num_bytes for one in builder.info.splits.values())
        return replace(
            records, fingerprint=_tfds_fingerprint(f"{builder.info.full_name}:{split}", size, records)
        )

    return _Opened(tuple(builder.info.splits), get)


def _tfds_builder(source: DataSource, data: Data, flag: str) -> Any:
    import tensorflow_datasets as tfds

    if source_spec.is_folder(source):
        folder = bucket_paths.parse(source.name, flag)
        copy = bucket_paths.local_copy(folder, f"--{flag}={source.label}", cache_dir(data))
        with tfds_errors.explained(copy):
            builder = tfds.builder_from_directory(str(copy))
    else:
        builder = _named_builder(source, data, flag)
    kind = builder.info.file_format.value if builder.info.file_format else "unknown"
    if kind != "array_record":
        raise ConfigError(
            f"--{flag}={source.label}: prepared as {kind} in {builder.data_dir}, which cannot be read by number; "
            "prepare it again with file_format='array_record', or convert it with tensorflow_datasets' convert_format"
        )
    return builder


def _named_builder(source: DataSource, data: Data, flag: str) -> Any:
    import tensorflow_datasets as tfds

    for folder in (source.option("data_dir"), None, str(cache_dir(data) / "tfds")):
        if folder == "":
            continue
        try:
            builder = tfds.builder(source.name, data_dir=folder)
        except tfds.core.registered.DatasetNotFoundError as error:
            missing = error
            continue
        if builder.info.splits:
            return builder
        missing = None
    if missing:
        raise ConfigError(f"--{flag}={source.label}: {missing}") from missing
    builder = tfds.builder(
        source.name,
        data_dir=source.option("data_dir") or str(cache_dir(data) / "tfds"),
        file_format="array_record",
    )
    fetched = fetch_errors.tfds_fetch(f"--{flag}={source.label}", source.name.partition(":")[0])
    with fetched, _quiet(), cache.full_disk(cache_dir(data)):
        builder.download_and_prepare()
    return builder


def _tfds_fingerprint(name: str, size: int, records: Records) -> str:
    """The fingerprint of a prepared split on any machine: of its name, version, size, and 64 of its records."""
    some = np.unique(np.linspace(0, len(records) - 1, 64).astype(int)).tolist()
    return cache.digest(name, len(records), size, [sorted(r.items()) for r in records.many(some)])


def _quiet() -> Any:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    return redirect_stdout(io.StringIO())


def hf_builder(source: DataSource, data: Data, flag: str) -> Any:
    """The builder of an hf source, of the datasets library: it knows the files, and has fetched none."""
    load = _hf_loader("load_dataset_builder", source, data, flag)
    with fetch_errors.hf_fetch(f"--{flag}={source.label}", source.name):
        return load()


def _hf_loader(function: str, source: DataSource, data: Data, flag: str) -> Callable[..., Any]:
    """A function of the datasets library, with its arguments for a source."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"--{flag}={source.label}: hf: needs the package datasets; {source_spec.HF_EXTRA}"
        ) from error
    return functools.partial(
        getattr(datasets, function),
        source.name,
        source.option("config") or None,
        cache_dir=str(cache_dir(data) / "hf"),
    )


def _open_hf(source: DataSource, data: Data, wanted: Fields, flag: str) -> _Opened:
    load = _hf_loader("load_dataset", source, data, flag)
    with fetch_errors.hf_fetch(f"--{flag}={source.label}", source.name):
        splits = tuple(load())

    def get(split: str) -> Records:
        try:
            dataset = load(split=split)
        except ValueError as error:
            raise ConfigError(f"--{flag}={source.label}: {error}; it has {', '.join(splits)}") from error
        _need(wanted, dataset.column_names, source.label)
        if len(dataset) == 0:
            raise ConfigError(f"--{flag}={source.label}: the split {split!r} is empty")
        # The only public trace of the content is its cache files; the library's own fingerprint names it exactly.
        mark = cache.digest(source.name, dataset._fingerprint, split)
        return Records(f"hf:{source.name}:{split}", mark, functools.partial(_read_hf, dataset), len(dataset))

    return _Opened(splits, get)


def _read_hf(dataset: Any, numbers: Sequence[int]) -> list[dict[str, Any]]:
    columns = dataset[list(numbers)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


_OPEN = {
    "tinytown": _open_tinytown,
    "jsonl": _open_jsonl,
    "store": _open_database,
    "preferences": _open_database,
    "filtered": _open_filtered,
    "tfds": _open_tfds,
    "hf": _open_hf,
}
