"""The fields of a record under the names that the formats know, with an account of those that nothing read."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from jaxtrain.config import ConfigError
from jaxtrain.data.messages import BadRecord, check_unicode, json_of, without_nulls

T = TypeVar("T")

# Fields that the first version of the formats did not read: where one has a part, the data's fingerprint says so.
FURTHER = (
    "system",
    "system_prompt",
    "system_message",
    "context",
    "history",
    "tools",
    "functions",
    "documents",
    "chat_template_kwargs",
)
_RESERVED = ("messages", "add_generation_prompt", "continue_final_message", "tokenize")


class Column(NamedTuple):
    """A field of the formats and the path of the record's own; an empty path means that there is none."""

    name: str
    path: tuple[str, ...]

    @property
    def label(self) -> str:
        """The column as --columns has it."""
        return f"{self.name}:{'.'.join(self.path)}"


def columns_of(text: str) -> tuple[Column, ...]:
    """The columns that --columns names, ours:theirs. Raises ConfigError."""
    columns = []
    for part in text.split(",") if text.strip() else ():
        name, colon, path = (one.strip() for one in part.partition(":"))
        if not name or not colon or (path and not all(path.split("."))):
            raise ConfigError(
                f"--columns={text}: write OURS:THEIRS, such as prompt:question,chosen:chosen_response; "
                "THEIRS may be a path, input.messages, or empty, so that the field is not read"
            )
        columns.append(Column(name, tuple(path.split(".")) if path else ()))
    if len({column.name for column in columns}) < len(columns):
        raise ConfigError(f"--columns={text}: it names a field twice")
    return tuple(columns)


class RecordFields(Mapping[str, Any]):
    """A record's fields by name, without those that are null. Reading one notes that it was used.

    With `nulls` these are there too. `further` has the fields and forms that took part and that the first version of
    the formats did not read.
    """

    def __init__(self, record: Mapping[str, Any], columns: Sequence[Column] = (), nulls: bool = False):
        self._record = record
        self.nulls = tuple(name for name, value in record.items() if value is None)
        self._values = {name: value for name, value in record.items() if nulls or value is not None}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._used: set[tuple[str, ...]] = set()
        self.further: set[str] = set()
        renamed = {column.name: (value_at(record, column.path), column.path) for column in columns}
        for column in columns:
            self._values.pop(column.path[0] if column.path else column.name, None)
        for name, (value, path) in renamed.items():
            if value is not None:
                self._values[name], self._paths[name] = value, path

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        self.use(*self._paths.get(name, (name,)))
        if name in FURTHER and not _is_empty(value):
            self.further.add(name)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def peek(self, name: str) -> Any:
        """A field's value, or None, without a note that it was used."""
        return self._values.get(name)

    def first(self, names: Sequence[str]) -> str:
        """The first of `names` that the record has, or an empty string."""
        return next((name for name in names if name in self._values), "")

    def beside(self, name: str, read: Callable[[Any, str], T]) -> T:
        """What `read` makes of a field that stands beside the main ones; its BadRecord says how to leave it out."""
        try:
            return read(self[name], name)
        except BadRecord as error:
            raise BadRecord(f"{error}; --columns={name}: leaves the field unread") from error

    def use(self, *path: str) -> None:
        """Notes that the field at a path was used."""
        self._used.add(path)

    def unused(self) -> Iterator[str]:
        """The paths of the fields that hold something and were not used."""
        yield from _unused(self._record, (), self._used)


class FieldUse:
    """The fields of a source's records that were not used, with counts, and those `further` ones that were."""

    def __init__(self) -> None:
        self.unused: Counter[str] = Counter()
        self.further: set[str] = set()
        self.nothing = 0  # records that read as an empty list

    def add(self, record: RecordFields, nothing: bool = False) -> None:
        """Counts a record that was read, as one without anything to learn where `nothing`."""
        self.nothing += nothing
        self.unused.update(record.unused())
        self.further |= record.further

    def counts(self) -> dict[str, Any]:
        """Both, as JSON has them; unused fields most frequent first."""
        return {"unused": dict(self.unused.most_common()), "further": sorted(self.further)}


def has_path(record: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether a record has a field at a path, null or not."""
    inside = value_at(record, path[:-1]) if len(path) > 1 else record
    return isinstance(inside, Mapping) and path[-1] in inside


def field_paths(record: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """The paths of a record's fields, those inside objects too."""
    for name, value in record.items():
        yield f"{at}{name}"
        if isinstance(value, Mapping):
            yield from field_paths(value, f"{at}{name}.")


def value_at(record: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at a path, or None."""
    value: Any = record if path else None
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def template_kwargs(record: RecordFields) -> dict[str, Any]:
    """The variables of the chat template besides messages that a record has; raises BadRecord.

    They are its `tools` (or `functions`, OpenAI's older form) and `documents`, lists of objects, and those of
    `chat_template_kwargs`. Each may be JSON in a string.
    """
    variables: dict[str, Any] = {}
    if given := _json_field(record, "chat_template_kwargs"):
        variables |= given
    for name in ("tools", "documents"):
        if value := _json_field(record, name):
            variables[name] = value
    if "tools" not in variables and (functions := _json_field(record, "functions")):
        variables["tools"] = [{"type": "function", "function": one} for one in functions]
    return variables


def _json_field(record: RecordFields, name: str) -> Any:
    return None if _is_empty(record.peek(name)) else record.beside(name, _CHECKS[name])


def _parsed(value: Any, name: str) -> Any:
    value = without_nulls(json_of(value, name))
    check_unicode(value, name)
    return value


def _variables(value: Any, name: str) -> Mapping[str, Any]:
    value = _parsed(value, name)
    if not isinstance(value, Mapping):
        raise BadRecord(f"no template variables: {name} is not an object")
    if reserved := [one for one in _RESERVED if one in value]:
        raise BadRecord(f"no template variables: {name} cannot set {', '.join(reserved)}")
    return value


def _objects(value: Any, name: str) -> list[Any]:
    value = _parsed(value, name)
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise BadRecord(f"no {name}: {name} is not a list of objects, nor JSON of one")
    return value


_CHECKS = {
    "chat_template_kwargs": _variables,
    "tools": _objects,
    "documents": _objects,
    "functions": _objects,
}


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | Mapping) and not value)


def _unused(values: Mapping[str, Any], at: tuple[str, ...], used: set[tuple[str, ...]]) -> Iterator[str]:
    for name, value in values.items():
        path = (*at, name)
        if path in used or _is_empty(value):
            continue
        if isinstance(value, Mapping) and any(one[: len(path)] == path for one in used):
            yield from _unused(value, path, used)
        else:
            yield ".".join(map(str, path))
