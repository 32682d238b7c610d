"""A constitution from a data file: principles with their requests, few-shot examples, and the format of the prompts.

Ours is a JSON object with `name`, `principles`, and `format` where that is not the paper's; the files published with
Constitutional AI (arXiv:2212.08073, github.com/anthropics/ConstitutionalHarmlessnessPaper) load too.
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
from jaxtrain.data.messages import Message

CRITIQUES, CRITIQUE_SHOTS = "CritiqueRevisionInstructions.json", "CritiqueRevisionFewShotPrompts.json"
COMPARISONS, COMPARISON_SHOTS = "RLMadisonInstructions.json", "RLMadisonFewShotPrompts.json"
REASONING_SHOTS = "RLMadisonPrecogFewShotPrompts.json"
_OPENED = "[\n ]*(?:CritiqueRequest|RevisionRequest): *"  # what the published requests begin with
_CLOSED = "[\n ]*(?:Critique|Revision): *"  # and end with


@dataclasses.dataclass(frozen=True)
class ConstitutionPrinciple:
    """The requests for a critique, a revision and a comparison; empty where the principle has none."""

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
    """The format of the prompts, called pages: what precedes a turn, and each page. The default is the paper's."""

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
        """The turns as a page has them, followed by the response, where there is one."""
        marks = {"user": self.user, "assistant": self.assistant}
        turns = [marks.get(one["role"], "") + one["content"] for one in messages]
        return "".join([*turns, *([self.assistant + response] if response else [])])


_FIELDS = {  # that each page of a format may name
    "critique": {"conversation", "critique_request"},
    "revision": {"conversation", "critique_request", "critique", "revision_request"},
    "direct": {"conversation", "critique_request", "revision_request"},
    "comparison": {"conversation", "question", "first", "second"},
    "reasoning": {"conversation", "question", "first", "second"},
    "verdict": {"conversation", "question", "first", "second", "reasoning"},
}
_EXAMPLE_FIELDS = ("prompt", "response", "critique_request", "critique", "revision_request", "revision")
_COMPARISON_FIELDS = ("prompt", "better", "worse")


@dataclasses.dataclass(frozen=True)
class Constitution:
    """`shots` precede a critique or revision, `reasoning_shots` ({} is the question) a chain of thought."""

    name: str
    principles: tuple[ConstitutionPrinciple, ...]
    format: PageFormat = PageFormat()
    shots: tuple[str, ...] = ()
    comparison_shots: tuple[tuple[str, str, str], ...] = ()  # (conversation, the better answer, the worse)
    reasoning_shots: tuple[str, ...] = ()
    fingerprint: str = ""

    def revising(self) -> tuple[ConstitutionPrinciple, ...]:
        """The principles for critiques and revisions. Raises ConfigError where there are none."""
        return self._with("critique_request", CRITIQUES)

    def comparing(self) -> tuple[ConstitutionPrinciple, ...]:
        """The principles for comparisons. Raises ConfigError where there are none."""
        return self._with("comparison", COMPARISONS)

    def _with(self, field: str, published: str) -> tuple[ConstitutionPrinciple, ...]:
        principles = tuple(one for one in self.principles if getattr(one, field))
        if not principles:
            raise ConfigError(
                f"--constitution={self.name}: no principle has {field}; add it, or {published} beside the file"
            )
        return principles


def load(path: Path) -> Constitution:
    """The constitution of a file in our format, or of a file or the folder of the published ones.

    Raises ConfigError naming file, principle and field where one is missing or no text.
    """
    if path.is_dir():
        return _published(path)
    data = _read(path)
    if isinstance(data, list) or (isinstance(data, dict) and "principles" not in data):
        return _published(path.parent, path, data)
    return _ours(path, data)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"--constitution={path}: no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"--constitution={path}: not a JSON file: {error}") from error


def _text(data: Any, field: str, where: str, *, empty: bool = False) -> str:
    """data[field], a text. `empty`: it may be an empty one."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: not an object with {field!r} but {type(data).__name__}")
    if field not in data:
        there = ", ".join(map(str, data)) or "none"
        raise ConfigError(f"{where}: no field {field!r} (fields: {there}): add it")
    value = data[field]
    if not isinstance(value, str) or not (empty or value.strip()):
        raise ConfigError(f"{where}: field {field!r} is not a text, or empty: {value!r}")
    return value


def _list(data: Mapping[str, Any], field: str, path: Path) -> list[Any]:
    if not isinstance(data.get(field, []), list):
        raise ConfigError(f"{path}: field {field!r} is not a list")
    return data.get(field, [])


def _ours(path: Path, data: Mapping[str, Any]) -> Constitution:
    form, principles, shots = _format(path, data.get("format", {})), [], []
    for i, one in enumerate(_list(data, "principles", path)):
        where = f"{path}: principle {i}"
        name = _text(one, "id", where)
        where = f"{path}: principle {name!r}"
        texts = [_text(one, field, where) for field in ("critique_request", "revision_request", "comparison")]
        principles.append(ConstitutionPrinciple(name, *texts))
    for i, one in enumerate(_list(data, "examples", path)):
        texts = {field: _text(one, field, f"{path}: example {i}") for field in _EXAMPLE_FIELDS}
        conversation = form.conversation([{"role": "user", "content": texts["prompt"]}], texts["response"])
        shots.append(form.revision.format(conversation=conversation, **texts) + f" {texts['revision']}")
    compared = [
        tuple(_text(one, field, f"{path}: comparison example {i}") for field in _COMPARISON_FIELDS)
        for i, one in enumerate(_list(data, "comparison_examples", path))
    ]
    comparisons = [(form.conversation([{"role": "user", "content": q}]), a, b) for q, a, b in compared]
    name = _text(data, "name", str(path))
    constitution = Constitution(
        name=name, principles=tuple(principles), format=form, shots=tuple(shots), comparison_shots=tuple(comparisons)
    )  # fmt: skip
    return _checked(path, constitution)


def _format(path: Path, data: Any) -> PageFormat:
    where, fields = f"{path}: format", {field.name: field for field in dataclasses.fields(PageFormat)}
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: not an object but {type(data).__name__}")
    if unknown := [name for name in data if name not in fields]:
        raise ConfigError(f"{where}: no field {unknown[0]!r}; it has {', '.join(fields)}")
    texts = {name: _text(data, name, where, empty=True) for name in data if name != "stop"}
    for name, text in texts.items():
        _check_page(where, name, text)
    if "stop" in data:
        stop = data["stop"]
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
    known = _FIELDS.get(name)
    if known is not None and not {"conversation"} <= names <= known:
        raise ConfigError(
            f"{where}: field {name!r} names {sorted(names)}; it needs conversation, may name {sorted(known)}"
        )


def _checked(path: Path, constitution: Constitution) -> Constitution:
    """The constitution with its fingerprint. Raises ConfigError where it has no principles or two of one id."""
    if not constitution.principles:
        raise ConfigError(f"{path}: field 'principles' has none")
    names = [one.id for one in constitution.principles]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{path}: two principles have the id {twice!r}")
    text = json.dumps(dataclasses.asdict(constitution), sort_keys=True).encode()
    return dataclasses.replace(constitution, fingerprint=hashlib.blake2b(text, digest_size=10).hexdigest())


def _published(folder: Path, path: Path | None = None, data: Any = None) -> Constitution:
    """The published constitution of a folder. `path` is the file that was named; the others are optional."""
    files = {name: folder / name for name in (CRITIQUES, COMPARISONS, CRITIQUE_SHOTS, COMPARISON_SHOTS)}
    files[REASONING_SHOTS] = folder / REASONING_SHOTS
    if path is not None:
        files[CRITIQUES if isinstance(data, dict) else COMPARISONS] = path
    contents = {name: _read(file) for name, file in files.items() if file.is_file()}
    if CRITIQUES not in contents and COMPARISONS not in contents:
        raise ConfigError(f"--constitution={folder}: it has neither {CRITIQUES} nor {COMPARISONS}")
    principles = [
        _of_requests(files[CRITIQUES], name, one) for name, one in contents.get(CRITIQUES, {}).items()
    ]
    for i, one in enumerate(_texts(files[COMPARISONS], contents.get(COMPARISONS, []))):
        principles.append(ConstitutionPrinciple(f"comparison{i}", comparison=one.strip()))
    compared = [
        _of_pair(files[COMPARISON_SHOTS], i, one) for i, one in enumerate(contents.get(COMPARISON_SHOTS, []))
    ]
    reasoning = [
        _text(one, "prompt", f"{files[REASONING_SHOTS]}: example {i}")
        for i, one in enumerate(contents.get(REASONING_SHOTS, []))
    ]
    shots = [
        one.removesuffix("\n\nHuman:")
        for one in _texts(files[CRITIQUE_SHOTS], contents.get(CRITIQUE_SHOTS, []))
    ]
    named = path or folder
    constitution = Constitution(
        name=named.name, principles=tuple(principles), shots=tuple(shots), comparison_shots=tuple(compared),
        reasoning_shots=tuple(reasoning),
    )  # fmt: skip
    return _checked(named, constitution)


def _texts(path: Path, data: Any) -> list[str]:
    if not isinstance(data, list):
        raise ConfigError(f"{path}: not a list of texts")
    return [_text({"text": one}, "text", f"{path}: item {i}") for i, one in enumerate(data)]


def _of_requests(path: Path, name: str, data: Any) -> ConstitutionPrinciple:
    """A published principle: `prompt`, a text or a list with one, and `edit_request`."""
    where = f"{path}: principle {name!r}"
    if isinstance(data, Mapping) and isinstance(data.get("prompt"), list) and len(data["prompt"]) == 1:
        data = {**data, "prompt": data["prompt"][0]}
    texts = [_text(data, field, where) for field in ("prompt", "edit_request")]
    return ConstitutionPrinciple(
        name, *(re.sub(f"^{_OPENED}|{_CLOSED}$", "", text).strip() for text in texts)
    )


def _of_pair(path: Path, i: int, data: Any) -> tuple[str, str, str]:
    where = f"{path}: example {i}"
    sides = []
    for field in ("corrects", "incorrects"):
        if not isinstance(data, Mapping) or not isinstance(data.get(field), list) or not data[field]:
            raise ConfigError(f"{where}: no field {field!r} with a list of answers: add it")
        sides.append(_text({field: data[field][0]}, field, where))
    return _text(data, "prompt", where).removesuffix("\n\nAssistant:"), sides[0], sides[1]
