"""A constitution: principles with their requests, examples, and the page that a model reads them on, from a data file.

Ours is a JSON object with `name`, `principles`, and where the page is not the paper's `format`; the files of
the authors of Constitutional AI (arXiv:2212.08073, github.com/anthropics/ConstitutionalHarmlessnessPaper) load too.
"""

import dataclasses
import hashlib
import json
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.data.record_formats import Message

CRITIQUES, CRITIQUE_SHOTS = "CritiqueRevisionInstructions.json", "CritiqueRevisionFewShotPrompts.json"
COMPARISONS, COMPARISON_SHOTS = "RLMadisonInstructions.json", "RLMadisonFewShotPrompts.json"
REASONING_SHOTS = "RLMadisonPrecogFewShotPrompts.json"
_OPENED = "[\n ]*(?:CritiqueRequest|RevisionRequest): *"  # what the published requests begin with
_CLOSED = "[\n ]*(?:Critique|Revision): *"  # and end with


@dataclasses.dataclass(frozen=True)
class ConstitutionPrinciple:
    """What a critique, a revision and a comparison are asked with; empty where it is not for that."""

    id: str
    critique_request: str = ""
    revision_request: str = ""
    comparison: str = ""


_QUESTION = (
    "\n\nHuman: Consider the following conversation between a human and an assistant:{conversation}\n\n"
)
_QUESTION += "{question}\n(A) {first}\n(B) {second}\n\nAssistant:"


@dataclasses.dataclass(frozen=True)
class PageFormat:
    """The page: what stands before a turn, and how what is asked for begins. The default is the paper's."""

    user: str = "\n\nHuman: "
    assistant: str = "\n\nAssistant: "
    critique: str = "{conversation}\n\nCritiqueRequest: {critique_request}\n\nCritique:"
    revision: str = (
        "{conversation}\n\nCritiqueRequest: {critique_request}\n\nCritique: {critique}\n\n"
        "RevisionRequest: {revision_request}\n\nRevision:"
    )
    direct: str = "{conversation}\n\nRevisionRequest: {revision_request}\n\nRevision:"  # without a critique
    comparison: str = _QUESTION + " The answer is: ("
    reasoning: str = _QUESTION + " Let's think step by step:"
    verdict: str = _QUESTION + " Let's think step by step: {reasoning}\n\nHuman:\nSo the answer is: ("
    stop: tuple[str, ...] = ("\n\nHuman:", "\n\nCritiqueRequest:", "\n\nRevisionRequest:", "\n\nRevision:")
    critique_pattern: str = ""  # regular expressions that a whole critique, or revision, must match
    revision_pattern: str = ""

    def conversation(self, messages: Sequence[Message], response: str = "") -> str:
        """Turns as the page has them, then an answer, where there is one."""
        marks = {"user": self.user, "assistant": self.assistant}
        said = [marks.get(one["role"], "") + one["content"] for one in messages]
        return "".join([*said, *([self.assistant + response] if response else [])])


_FILLED = {  # what each page of a format may name
    "critique": {"conversation", "critique_request"},
    "revision": {"conversation", "critique_request", "critique", "revision_request"},
    "direct": {"conversation", "critique_request", "revision_request"},
    "comparison": {"conversation", "question", "first", "second"},
    "reasoning": {"conversation", "question", "first", "second"},
    "verdict": {"conversation", "question", "first", "second", "reasoning"},
}
_EXAMPLE = ("prompt", "response", "critique_request", "critique", "revision_request", "revision")
_COMPARED = ("prompt", "better", "worse")


@dataclasses.dataclass(frozen=True)
class Constitution:
    """`shots` are shown before a critique or revision, `reasoning_shots` ({} is the question) before thinking."""

    name: str
    principles: tuple[ConstitutionPrinciple, ...]
    format: PageFormat = PageFormat()
    shots: tuple[str, ...] = ()
    comparison_shots: tuple[tuple[str, str, str], ...] = ()  # (conversation, the better answer, the worse)
    reasoning_shots: tuple[str, ...] = ()
    fingerprint: str = ""

    def revising(self) -> tuple[ConstitutionPrinciple, ...]:
        """Those that a critique or revision is asked with. Raises ConfigError where there are none."""
        return self._those("critique_request", CRITIQUES)

    def comparing(self) -> tuple[ConstitutionPrinciple, ...]:
        """Those that two answers are compared with. Raises ConfigError where there are none."""
        return self._those("comparison", COMPARISONS)

    def _those(self, field: str, published: str) -> tuple[ConstitutionPrinciple, ...]:
        found = tuple(one for one in self.principles if getattr(one, field))
        if not found:
            raise ConfigError(
                f"--constitution={self.name}: no principle has {field}; add it, or {published} beside the file"
            )
        return found


def load(path: Path) -> Constitution:
    """The constitution in a file of ours, or in a file or the folder of the published ones.

    Raises ConfigError naming file, principle and field for what is missing or no text.
    """
    if path.is_dir():
        return _published(path)
    held = _read(path)
    if isinstance(held, list) or (isinstance(held, dict) and "principles" not in held):
        return _published(path.parent, path, held)
    return _ours(path, held)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"--constitution={path}: no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"--constitution={path}: not a JSON file: {error}") from error


def _text(held: Any, field: str, where: str, *, empty: bool = False) -> str:
    """held[field], a text. `empty`: it may be an empty one."""
    if not isinstance(held, Mapping):
        raise ConfigError(f"{where}: not an object with {field!r} but {type(held).__name__}")
    if field not in held:
        there = ", ".join(map(str, held)) or "none"
        raise ConfigError(f"{where}: no field {field!r} (fields: {there}): add it")
    value = held[field]
    if not isinstance(value, str) or not (empty or value.strip()):
        raise ConfigError(f"{where}: field {field!r} is not a text that says something: {value!r}")
    return value


def _list(held: Mapping[str, Any], field: str, path: Path) -> list[Any]:
    if not isinstance(held.get(field, []), list):
        raise ConfigError(f"{path}: field {field!r} is not a list")
    return held.get(field, [])


def _ours(path: Path, held: Mapping[str, Any]) -> Constitution:
    form, principles, shots = _format(path, held.get("format", {})), [], []
    for i, one in enumerate(_list(held, "principles", path)):
        where = f"{path}: principle {i}"
        name = _text(one, "id", where)
        where = f"{path}: principle {name!r}"
        texts = [_text(one, field, where) for field in ("critique_request", "revision_request", "comparison")]
        principles.append(ConstitutionPrinciple(name, *texts))
    for i, one in enumerate(_list(held, "examples", path)):
        texts = {field: _text(one, field, f"{path}: example {i}") for field in _EXAMPLE}
        told = form.conversation([{"role": "user", "content": texts["prompt"]}], texts["response"])
        shots.append(form.revision.format(conversation=told, **texts) + f" {texts['revision']}")
    compared = [
        tuple(_text(one, field, f"{path}: comparison example {i}") for field in _COMPARED)
        for i, one in enumerate(_list(held, "comparison_examples", path))
    ]
    opened = [(form.conversation([{"role": "user", "content": q}]), a, b) for q, a, b in compared]
    name = _text(held, "name", str(path))
    return _checked(path, Constitution(name, tuple(principles), form, tuple(shots), tuple(opened)))


def _format(path: Path, held: Any) -> PageFormat:
    where, fields = f"{path}: format", {field.name: field for field in dataclasses.fields(PageFormat)}
    if not isinstance(held, Mapping):
        raise ConfigError(f"{where}: not an object but {type(held).__name__}")
    if unknown := [name for name in held if name not in fields]:
        raise ConfigError(f"{where}: no field {unknown[0]!r}; it has {', '.join(fields)}")
    texts = {name: _text(held, name, where, empty=True) for name in held if name != "stop"}
    for name, text in texts.items():
        _check_page(where, name, text)
    if "stop" in held:
        stop = held["stop"]
        if not isinstance(stop, list) or not stop or not all(isinstance(one, str) and one for one in stop):
            raise ConfigError(f"{where}: field 'stop' is not a list of texts: {stop!r}")
        texts["stop"] = tuple(stop)
    return PageFormat(**texts)


def _check_page(where: str, name: str, text: str) -> None:
    try:
        if name.endswith("_pattern"):
            re.compile(text)
        names = {one for _, one, _, _ in string.Formatter().parse(text) if one is not None}
    except (re.error, ValueError) as error:
        raise ConfigError(f"{where}: field {name!r}: {error}") from error
    known = _FILLED.get(name)
    if known is not None and not {"conversation"} <= names <= known:
        raise ConfigError(
            f"{where}: field {name!r} names {sorted(names)}; it needs conversation, may name {sorted(known)}"
        )


def _checked(path: Path, made: Constitution) -> Constitution:
    if not made.principles:
        raise ConfigError(f"{path}: field 'principles' has none")
    names = [one.id for one in made.principles]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{path}: two principles have the id {twice!r}")
    told = json.dumps(dataclasses.asdict(made), sort_keys=True).encode()
    return dataclasses.replace(made, fingerprint=hashlib.blake2b(told, digest_size=10).hexdigest())


def _published(folder: Path, path: Path | None = None, held: Any = None) -> Constitution:
    """`path` is the file that was named; the others of the folder are taken where they are there."""
    files = {name: folder / name for name in (CRITIQUES, COMPARISONS, CRITIQUE_SHOTS, COMPARISON_SHOTS)}
    files[REASONING_SHOTS] = folder / REASONING_SHOTS
    if path is not None:
        files[CRITIQUES if isinstance(held, dict) else COMPARISONS] = path
    found = {name: _read(file) for name, file in files.items() if file.is_file()}
    if CRITIQUES not in found and COMPARISONS not in found:
        raise ConfigError(f"--constitution={folder}: it has neither {CRITIQUES} nor {COMPARISONS}")
    principles = [_of_requests(files[CRITIQUES], name, one) for name, one in found.get(CRITIQUES, {}).items()]
    for i, one in enumerate(_texts(files[COMPARISONS], found.get(COMPARISONS, []))):
        principles.append(ConstitutionPrinciple(f"comparison{i}", comparison=one.strip()))
    compared = [
        _of_pair(files[COMPARISON_SHOTS], i, one) for i, one in enumerate(found.get(COMPARISON_SHOTS, []))
    ]
    thought = [
        _text(one, "prompt", f"{files[REASONING_SHOTS]}: example {i}")
        for i, one in enumerate(found.get(REASONING_SHOTS, []))
    ]
    shots = [
        one.removesuffix("\n\nHuman:") for one in _texts(files[CRITIQUE_SHOTS], found.get(CRITIQUE_SHOTS, []))
    ]
    named = path or folder
    return _checked(
        named, Constitution(named.name, tuple(principles), PageFormat(), tuple(shots), tuple(compared), tuple(thought))
    )  # fmt: skip


def _texts(path: Path, held: Any) -> list[str]:
    if not isinstance(held, list):
        raise ConfigError(f"{path}: not a list of texts")
    return [_text({"text": one}, "text", f"{path}: item {i}") for i, one in enumerate(held)]


def _of_requests(path: Path, name: str, held: Any) -> ConstitutionPrinciple:
    """A published principle: `prompt`, a text or a list with one, and `edit_request`."""
    where = f"{path}: principle {name!r}"
    if isinstance(held, Mapping) and isinstance(held.get("prompt"), list) and len(held["prompt"]) == 1:
        held = {**held, "prompt": held["prompt"][0]}
    texts = [_text(held, field, where) for field in ("prompt", "edit_request")]
    return ConstitutionPrinciple(
        name, *(re.sub(f"^{_OPENED}|{_CLOSED}$", "", text).strip() for text in texts)
    )


def _of_pair(path: Path, i: int, held: Any) -> tuple[str, str, str]:
    where = f"{path}: example {i}"
    sides = []
    for field in ("corrects", "incorrects"):
        if not isinstance(held, Mapping) or not isinstance(held.get(field), list) or not held[field]:
            raise ConfigError(f"{where}: no field {field!r} with a list of answers: add it")
        sides.append(_text({field: held[field][0]}, field, where))
    return _text(held, "prompt", where).removesuffix("\n\nAssistant:"), sides[0], sides[1]
