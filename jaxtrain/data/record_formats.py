"""Record formats of conversations, comparisons and prompts: which fields each has, and how it is read.

A source has one format, detected from its first records in the order of CHAT, COMPARED or PROMPT, or named by
`?format=NAME` after it. A record that does not fit its source's format is a bad record. `--columns` gives the fields of
records the names that the formats know.
"""

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.data import compared_completions, conversations, message_trees, summaries, text_prefixes
from jaxtrain.data.bad_records import Skips
from jaxtrain.data.compared_completions import CHOSEN, FIRST, LABELS, REJECTED, SECOND, VERDICTS
from jaxtrain.data.conversations import ANSWERS, CONTEXTS, PROMPTS, SYSTEMS, TURNS
from jaxtrain.data.messages import BadRecord, text_of
from jaxtrain.data.record_fields import Column, FieldUse, RecordFields, field_paths, has_path
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records

T = TypeVar("T")
Record = Mapping[str, Any]

_FIRST = 16  # records that a format is detected from


class Text(NamedTuple):
    """A text with the loss on every token."""

    text: str


class RecordFormat(NamedTuple):
    """A format: `fits` says whether a record has the fields that `shape` describes; `read` raises BadRecord.

    `read` returns a Dialog, Text, Comparison or JudgedCompletion, or a list of them.
    """

    name: str
    shape: str
    fits: Callable[[RecordFields], bool]
    read: Callable[[RecordFields], Any]
    unless: tuple[str, ...] = ()  # fields with which the format must be named
    columns: tuple[Column, ...] = ()  # of --columns, those that the source has


def _has(*slots: str | Sequence[str]) -> Callable[[RecordFields], bool]:
    """Whether a record has a field of each slot, a name or several of which one is enough."""
    names = [(slot,) if isinstance(slot, str) else tuple(slot) for slot in slots]
    return lambda record: all(any(name in record for name in slot) for slot in names)


def text_format(field: str) -> RecordFormat:
    """The format of plain text in `field`."""
    return RecordFormat("text", field, _has(field), lambda record: Text(text_of(record[field], field)))


def prefix_format(field: str, tokens: tuple[int, int]) -> RecordFormat:
    """The format of texts in `field` whose first tokens are prompts; it must be named."""
    return RecordFormat(
        text_prefixes.FORMAT,
        text_prefixes.SHAPE,
        _has(field),
        lambda record: text_prefixes.read(record, field, tokens),
        unless=(field,),
    )


_TREE_SHAPE = "rows with message_id, parent_id, text, role; or prompt with text, role and replies"


def _whole(answered: bool) -> tuple[RecordFormat, ...]:
    """The formats of whole conversations, which need an answer to train on, and none to be a prompt."""
    return (
        # A stored completion may have the messages of its prompt: they are not in the loss.
        RecordFormat(
            "messages",
            "messages",
            _has("messages"),
            lambda r: conversations.turns(r, ["messages"], answered),
            unless=("choices",),
        ),
        RecordFormat(
            "conversations",
            "conversations or conversation",
            lambda r: bool(r.first(TURNS)) or conversations.turns_of_strings(r),
            lambda r: conversations.turns(r, (*TURNS, "data"), answered),
        ),
    )


_DEMONSTRATIONS = (
    # A labelled completion may be a bad one: no demonstration unless the format is named.
    RecordFormat(
        "completion",
        "prompt, completion",
        _has("prompt", "completion"),
        conversations.demonstration,
        unless=LABELS,
    ),
    RecordFormat(
        "instruction",
        "instruction, response or output (and input or context, system, history)",
        _has("instruction", ANSWERS),
        conversations.instruction,
    ),
    # The better of two completions may be a bad one too.
    RecordFormat(
        "preferred",
        "chosen, rejected (and prompt), of which chosen is trained on",
        _has(CHOSEN, REJECTED),
        compared_completions.preferred,
        unless=(*CHOSEN, *REJECTED),
    ),
    RecordFormat("stored", "choices, and input, messages or request", _has("choices"), conversations.stored),
    RecordFormat("tree", _TREE_SHAPE, message_trees.is_tree, message_trees.conversations),
    RecordFormat("summary", summaries.SHAPE, summaries.is_summary, summaries.demonstration),
)
CHAT = (*_whole(answered=True), *_DEMONSTRATIONS)  # then text, then QUESTION
# A prompt with an `answer` is left to a reward or a judge.
QUESTION = RecordFormat(
    "question",
    "question, query, problem or input, and answer, response, output or solution; or prompt and response",
    lambda r: _has(PROMPTS[2:], ANSWERS)(r) or _has("prompt", ("response", "output", "solution"))(r),
    conversations.demonstration,
    unless=LABELS,
)
COMPARED = (
    RecordFormat(
        "chosen",
        "chosen, rejected (and prompt); or input.messages, preferred_output, non_preferred_output",
        _has(CHOSEN, REJECTED),
        compared_completions.chosen,
    ),
    RecordFormat(
        "responses",
        "prompt, response_a, response_b, preferred or p_win; or conversation_a, conversation_b, winner",
        lambda r: (
            _has(FIRST, SECOND, [*VERDICTS, "p_win"])(r) and bool(r.first(PROMPTS) or "conversation_a" in r)
        ),
        compared_completions.responses,
    ),
    RecordFormat(
        "ranked",
        "prompt, completions, ranking",
        _has(PROMPTS, "completions", "ranking"),
        compared_completions.ranked,
    ),
    RecordFormat(
        "marked",
        "prompt, and answers or completions with a rank or score each",
        compared_completions.has_marks,
        compared_completions.marked,
    ),
    RecordFormat(
        "judged",
        "prompt, completion, label; or messages, label",
        compared_completions.is_judged,
        compared_completions.judged,
    ),
    RecordFormat("tree", _TREE_SHAPE, message_trees.is_tree, message_trees.comparisons),
    RecordFormat("summaries", summaries.COMPARED_SHAPE, summaries.is_compared, summaries.compared),
)
PROMPT = (
    *_whole(answered=False),
    *_DEMONSTRATIONS,
    *COMPARED,
    RecordFormat("prompt", "prompt", _has("prompt"), conversations.prompt),
    RecordFormat("question", "question, query, problem or input", _has(PROMPTS), conversations.question),
)


# The fields that the formats read, as --columns may name them.
FIELDS = tuple(
    dict.fromkeys(
        (
            "messages",
            *TURNS,
            *PROMPTS,
            *CONTEXTS,
            *SYSTEMS,
            "history",
            *ANSWERS,
            *CHOSEN,
            *REJECTED,
            *FIRST,
            *SECOND,
            *VERDICTS,
            "p_win",
            "margin",
            "completions",
            "ranking",
            "answers",
            "responses",
            *LABELS,
            "choices",
            "request",
            "tools",
            "functions",
            "documents",
            "chat_template_kwargs",
        )
    )
)


def chat(field: str) -> tuple[RecordFormat, ...]:
    """The formats of training on conversations; `field` holds plain text."""
    return (*CHAT, text_format(field), QUESTION)


def fits_any(record: Record, known: Sequence[RecordFormat], columns: Sequence[Column] = ()) -> bool:
    """Whether a record has the fields of one of the formats."""
    fields = RecordFields(record, columns)
    return any(_detected(one, fields) for one in known)


def _detected(form: RecordFormat, fields: RecordFields) -> bool:
    return form.fits(fields) and not any(name in fields or name in fields.nulls for name in form.unless)


def detect(
    records: Records,
    source: DataSource,
    known: Sequence[RecordFormat],
    flag: str = "data",
    columns: Sequence[Column] = (),
) -> RecordFormat:
    """The first of `known` that the first record fits that fits any, or the one that ?format= names.

    The format is one that half of the first records fit, where there is such a one: the first may be a bad record. It
    has those of `columns` that the source's first records have. Raises ConfigError, with the fields and the
    formats, where there is none.
    """
    first = _first_of(records)
    there = _there(columns, first)
    shapes = "; ".join(f"{one.name} ({one.shape})" for one in known)
    if name := source.option("format"):
        if named := [one for one in known if one.name == name]:
            return named[0]._replace(columns=there)
        raise ConfigError(f"--{flag}={source.label}?format={name}: not read here; choose one of {shapes}")
    for nulls in (False, True):
        fields = [RecordFields(record, there, nulls=nulls) for record in first]
        fitting = [next((one for one in known if _detected(one, each)), None) for each in fields]
        fitting = [one for one in fitting if one is not None]
        half = (one for one in fitting if 2 * sum(map(one.fits, fields)) >= len(fields))
        if found := next(half, None) or next(iter(fitting), None):
            return found._replace(columns=there)
    names = ", ".join(sorted(set().union(*first)))
    raise ConfigError(
        f"--{flag}={source.label}: its records have the fields {names}; known formats: {shapes}. "
        "--columns=prompt:THEIRS,completion:THEIRS names fields, where they are called otherwise"
    )


def require_columns(columns: Sequence[Column], opened: Sequence[Records], cfg: Dialogs) -> None:
    """Raises ConfigError for a column of --columns that no format reads, and for one that no source has."""
    known = (*FIELDS, cfg.text_field)
    for column in columns:
        if column.name not in known:
            near = difflib.get_close_matches(column.name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(
                f"--columns={cfg.columns}: no format has a field {column.name!r}{hint}; they have {', '.join(known)}"
            )
        if not any(column in _there(columns, _first_of(records)) for records in opened):
            fields = ", ".join(field_paths(opened[0][0]))
            raise ConfigError(
                f"--columns={cfg.columns}: no field {'.'.join(column.path)!r} in {opened[0].label}, whose records have "
                f"{fields}"
            )


def _first_of(records: Records) -> list[dict[str, Any]]:
    return records.many(range(min(_FIRST, len(records))))


def _there(columns: Sequence[Column], first: Sequence[Record]) -> tuple[Column, ...]:
    """Those of the columns that one of the records has."""
    return tuple(one for one in columns if not one.path or any(has_path(r, one.path) for r in first))


def columns_line(columns: Sequence[Column], form: RecordFormat) -> Iterator[str]:
    """The line about the columns of --columns that a source has and has not, where the flag was given."""
    if columns:
        lacking = ", ".join(one.label for one in columns if one not in form.columns)
        there = ", ".join(one.label for one in form.columns) or "none"
        yield f"--columns: {there}" + (f"; not in these records: {lacking}" if lacking else "")


def each(
    records: Records,
    form: RecordFormat,
    skips: Skips,
    make: Callable[[Any], T],
    advance: Callable[[int], None],
    use: FieldUse | None = None,
) -> Iterator[tuple[int, T]]:
    """(number, result of `make`) of each record, or of each conversation of it where it has several.

    Where reading or `make` raises BadRecord, the record goes to `skips`. `use` counts the fields that were not used.
    """
    for start, block in records.blocks():
        for i, record in enumerate(block, start):
            fields = RecordFields(record, form.columns)
            attempted = functools.partial(attempt, skips=skips, where=functools.partial(records.where, i))
            items = attempted(lambda fields=fields: read(fields, form))
            if items is BAD:
                continue
            if use is not None:
                use.add(fields, nothing=items == [])
            for item in items if isinstance(items, list) else [items]:
                result = attempted(functools.partial(make, item))
                if result is not BAD:
                    yield i, result
        advance(len(block))


BAD: Any = object()


def attempt(call: Callable[[], T], skips: Skips, where: Callable[[], str]) -> T:
    """What `call` returns; BAD where it raises BadRecord, which goes to `skips`."""
    try:
        return call()
    except BadRecord as error:
        skips.bad(where(), str(error))
    except RecursionError:
        skips.bad(where(), "nested too deeply: a value of it has more levels than can be read")
    except ConfigError as error:
        raise ConfigError(f"{where()}: {error}") from error
    return BAD


def read(record: Record, form: RecordFormat) -> Any:
    """The record read by its format; raises BadRecord."""
    fields = record if isinstance(record, RecordFields) else RecordFields(record, form.columns)
    if not form.fits(fields):
        there = ", ".join(map(str, fields)) or "none"
        nulls = f", and {', '.join(fields.nulls)} without a value" if fields.nulls else ""
        raise BadRecord(
            f"other fields: the source's format is {form.name} ({form.shape}), the record has {there}{nulls}"
        )
    return form.read(fields)
