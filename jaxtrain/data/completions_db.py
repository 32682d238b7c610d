"""The database of stored completions, which our server writes, as training reads it.

A stored completion is OpenAI's `chat.completion` object with the prompt under `input` (a list of messages), and, of our
server, the ids of the tokens. An export has one such object a line.
"""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jaxtrain.config import ConfigError
from jaxtrain.data import source_spec
from jaxtrain.files import cache, sqlite

APPLICATION = 0x6A747363  # SQLite's application_id of our files
SCHEMA = 1  # user_version

_LEFT_OUT = "left out "  # before the reason, in counts
_CUT_OFF = f"{_LEFT_OUT}cut off (finish_reason length)"
FINISHED = (None, "stop", "tool_calls", "function_call")  # finish_reasons of completions that are whole

_HEAD = b"SQLite format 3\0"


def is_database(path: Path) -> bool:
    """Whether a file is SQLite's, by its content."""
    with path.open("rb") as file:
        return file.read(len(_HEAD)) == _HEAD


def connect(
    path: Path, kind: tuple[int, int] = (APPLICATION, SCHEMA), maker: str = "./launch/run serve"
) -> sqlite3.Connection:
    """A read-only connection to a file of `kind`, (application, schema). Raises ConfigError for any other file."""
    connection = None
    try:
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=30)
        (application,), (version,) = (
            connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
    except sqlite3.Error as error:
        if connection:
            connection.close()
        raise ConfigError(
            f"{path}: cannot be read as a SQLite file ({error}); {sqlite.remedy(path)}"
        ) from error
    if (application, version) != kind:
        connection.close()
        raise ConfigError(
            f"{path}: not a store of {maker}, of this version ({application:#x}, {version}, "
            f"not {kind[0]:#x}, {kind[1]}); name the file that its --store wrote, or an export"
        )
    if wrong := sqlite.damage(connection):
        connection.close()
        raise ConfigError(f"{path}: the file is damaged ({wrong}); {sqlite.remedy(path)}")
    return connection


def bodies(connection: sqlite3.Connection) -> Iterator[str]:
    """The stored completions as JSON, oldest first."""
    for (body,) in connection.execute("SELECT body FROM completions ORDER BY created, seq"):
        yield body


def as_lines(path: Path, cache_dir: Path) -> Path:
    """The path of a JSON-lines file with a database's completions of now; `path` itself where it is no database."""
    if not is_database(path):
        return path
    with sqlite.reading(path), closing(connect(path)) as connection:
        connection.execute("BEGIN")  # one state of it, while a server writes
        state = hashlib.blake2b(digest_size=10)
        for body in bodies(connection):
            state.update(body.encode() + b"\n")

        def fill(work: Path) -> None:
            with (work / "completions.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(body + "\n" for body in bodies(connection))

        return cache.build(cache_dir / "stores" / state.hexdigest(), fill) / "completions.jsonl"


def selected_choices(records: Any, source: source_spec.DataSource, flag: str) -> Any:
    """The choices of stored completions that a source's options select, as records."""
    options = filters(dict(source.options))
    pairs, counts = choices(records.blocks(), options)
    if not pairs:
        raise ConfigError(f"--{flag}={source.label}: {why_empty(options, counts)}")
    # Those that are cut off were left out by the first version too.
    more = sorted(
        (name, count) for name, count in counts.items() if name.startswith(_LEFT_OUT) and name != _CUT_OFF
    )
    mark = cache.digest(records.fingerprint, sorted(options.items()), *more)
    read = reader(records.many, pairs)
    place = records.place and (lambda i: records.place(pairs[i][0]))
    left_out = (*records.notes, *notes(options, counts))
    return replace(records, fingerprint=mark, read=read, size=len(pairs), notes=left_out, place=place)


def choices(
    blocks: Iterator[tuple[int, list[dict[str, Any]]]], options: Mapping[str, str]
) -> tuple[list[tuple[int, int, int]], Counter[str]]:
    """((record, completion, choice) of all that training reads, counts of what is left out).

    A record is one completion, or a page of several as the API lists them. Left out are completions of another `model`,
    those whose metadata differ from an option `metadata.KEY`, refusals, and choices whose finish_reason says that they
    are not whole. A completion without choices counts as one: its format refuses it.
    """
    found, counts = [], Counter()
    for start, block in blocks:
        for number, record in enumerate(block, start):
            for k, one in enumerate(_completions(record)):
                counts[f"model {one.get('model')}"] += 1
                if not _wanted(one, options):
                    counts["other"] += 1
                    continue
                several = one.get("choices")
                for i, choice in enumerate(several if isinstance(several, list) and several else [None]):
                    if reason := unfinished(choice):
                        counts[f"{_LEFT_OUT}{reason}"] += 1
                    else:
                        found.append((number, k, i))
    return found, counts


def unfinished(choice: Any) -> str:
    """Why a choice is no whole answer, or an empty string."""
    if not isinstance(choice, dict):
        return ""
    reason, message = choice.get("finish_reason"), choice.get("message")
    if reason == "length":
        return _CUT_OFF.removeprefix(_LEFT_OUT)
    if reason not in FINISHED:
        return f"not whole (finish_reason {str(reason)[:40]})"
    if isinstance(message, dict) and message.get("refusal") and not message.get("content"):
        return "refused (refusal without content)"
    return ""


def _completions(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The completions of a record: itself, or those of a page."""
    several = record.get("data")
    is_page = record.get("object") == "list" and isinstance(several, list)
    return [one for one in several if isinstance(one, dict)] if is_page else [record]


def reader(
    many: Callable[[Sequence[int]], list[dict[str, Any]]], wanted: Sequence[tuple[int, int, int]]
) -> Callable[[Sequence[int]], list[dict[str, Any]]]:
    """A function that reads completions with one choice each, by their numbers among `wanted`."""

    def read(numbers: Sequence[int]) -> list[dict[str, Any]]:
        places = [wanted[i] for i in numbers]
        records = many([number for number, _, _ in places])
        return [
            _with_choice(_completions(record)[k], i)
            for record, (_, k, i) in zip(records, places, strict=True)
        ]

    return read


def notes(options: Mapping[str, str], counts: Mapping[str, int]) -> tuple[str, ...]:
    """Lines on what was left out."""
    wanted = ", ".join(f"{key}={value}" for key, value in options.items())
    return (
        *([f"{counts['other']:,} completions without {wanted} left out"] if counts.get("other") else []),
        *(
            f"{count:,} choices that were {name.removeprefix(_LEFT_OUT)} left out"
            for name, count in counts.items()
            if name.startswith(_LEFT_OUT)
        ),
    )


def why_empty(options: Mapping[str, str], counts: Mapping[str, int]) -> str:
    """The reason why no completion is left."""
    models = [
        f"{name.removeprefix('model ')} ({n})" for name, n in counts.items() if name.startswith("model ")
    ]
    return "; ".join(["no completion left", *notes(options, counts), f"its models are {', '.join(models)}"])


def filters(options: Mapping[str, str]) -> dict[str, str]:
    """Those of a source's options that select completions."""
    return {
        key: value for key, value in options.items() if key == "model" or key.startswith(source_spec.METADATA)
    }


def question(record: Mapping[str, Any]) -> Any:
    """The prompt of a stored completion as the request had it, or None."""
    asked = record.get("input") or record.get("messages")
    if asked:
        return asked
    request = record.get("request")
    return request.get("messages") if isinstance(request, dict) else None


def prompt_and_answer(record: Mapping[str, Any]) -> tuple[Any, dict[str, Any], str]:
    """(the prompt as the request had it; the message that answers it; what is wrong, or an empty string)."""
    choices, prompt = record["choices"], question(record)
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return (
            prompt,
            {},
            "not one choice: read stored completions as store:PATH, which takes their choices apart",
        )
    if reason := unfinished(choices[0]):
        return prompt, {}, f"no whole answer: {reason}; read as store:PATH such choices are left out"
    if prompt is None:
        return (
            prompt,
            {},
            "no messages: it has no input, messages or request.messages, so its prompt is unknown",
        )
    answer = choices[0].get("message")
    if not isinstance(answer, dict) or answer.get("role") != "assistant":
        return prompt, {}, "no assistant turn: the choice has no message of an assistant"
    return prompt, {k: v for k, v in answer.items() if v is not None}, ""


def _wanted(record: Mapping[str, Any], options: Mapping[str, str]) -> bool:
    metadata = record.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return all(
        record.get("model") == value
        if key == "model"
        else metadata.get(key.removeprefix(source_spec.METADATA)) == value
        for key, value in options.items()
    )


def _with_choice(record: dict[str, Any], i: int) -> dict[str, Any]:
    several = record.get("choices")
    return {**record, "choices": several[i : i + 1]} if isinstance(several, list) else record


def dumps(completion: Mapping[str, Any]) -> str:
    """A stored completion as one line of JSON."""
    return json.dumps(completion, ensure_ascii=False, separators=(",", ":"))
