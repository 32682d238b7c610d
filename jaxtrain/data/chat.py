"""Jinja chat templates: conversations as token ids, with their loss mask.

In the loss are an assistant's text and the token that ends its turn, nothing else. Each prompt part and each
completion is tokenised by itself, so the ids of a prompt are always the first ids of prompt and completion,
and those that sampling starts from. A special token is one only where the template writes it: the
same characters in a message are text.
"""

import datetime
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.ext
import jinja2.sandbox
import numpy as np

from jaxtrain.config import ConfigError
from jaxtrain.data.record_formats import BadRecord, Message, in_loss
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache

NAMED = ("plain", "hh", "chatml", "llama2", "llama3", "gemma", "none")
_VERSION = 1  # of the way this file encodes; part of the fingerprint
_TODAY = datetime.datetime(
    2024, 7, 26
)  # for templates that write the date: the same data give the same ids on any day
_GUARDS = tuple(map(chr, range(0xFDD0, 0xFDF0)))  # noncharacters, which no text needs
_MARKUP = re.compile(r"<\|\w+\|>|<\w+_of_turn>")  # what a template of ours writes for a special token


class EncodedDialog(NamedTuple):
    """A conversation up to the end of its last assistant turn."""

    ids: np.ndarray  # i32[n]
    loss_mask: np.ndarray  # bool[n], whether the id is in the loss, as a target
    starts: tuple[int, ...]  # where each assistant turn's text starts
    ends: tuple[int, ...]  # one past each assistant turn's end token
    added: tuple[bool, ...]  # whether each end token is an EOS that the template does not write


class _Generation(jinja2.ext.Extension):
    """The tag {% generation %} … {% endgeneration %}, which some templates put around an assistant's text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Template:
    """A chat template for one tokenizer.

    `end` is the id that ends an assistant's turn, `fingerprint` changes with anything that changes an id but
    the tokenizer, `notes` are lines for the user. Raises ConfigError where the template cannot be used.
    """

    def __init__(self, name: str, source: str, tokenizer: Tokenizer):
        self.name, self.source, self.tokenizer = name, source, tokenizer
        self.fingerprint = cache.digest("template", _VERSION, source)
        specials = tokenizer.specials
        by_id = {i: text for text, i in specials.items()}
        self._names = {f"{role}_token": by_id[getattr(tokenizer, role)] for role in ("bos", "eos", "pad")}
        self._special = _any_of(specials)
        self._heads = tuple({text[:k] for text in specials for k in range(1, len(text))})
        self._tails = tuple({text[k:] for text in specials for k in range(1, len(text))})
        try:
            self._jinja = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"--template={name}: line {error.lineno}: not a Jinja template ({error.message})"
            ) from error
        self.end = self._probe()
        lacks = sorted(set(_MARKUP.findall(source)) - set(specials)) if name in NAMED else ()
        self.notes = tuple(
            f"{name} writes {text}, which the tokenizer has no token for: it is text" for text in lacks
        )

    def encode(self, messages: Sequence[Message]) -> EncodedDialog:
        """The ids and loss mask of a conversation.

        Raises BadRecord where the template refuses it, or it has no assistant turn.
        """
        guarded, guard = self._guarded(messages)
        stretches, _ = self._stretches(guarded)
        if not stretches:
            raise BadRecord("no assistant turn: there is nothing to train on")
        encoded = self._ids([text for before, answer, _ in stretches for text in (before, answer)], guard)
        ids, loss_mask, starts, ends = [], [], [], []
        size = 0
        answers = (message for message in messages if message["role"] == "assistant")
        for message, (_, _, ended), before, answer in zip(
            answers, stretches, encoded[::2], encoded[1::2], strict=True
        ):
            if not ended:
                answer = np.append(answer, np.int32(self.tokenizer.eos))
            ids += [before, answer]
            loss_mask += [np.zeros(len(before), bool), np.full(len(answer), in_loss(message))]
            starts.append(size + len(before))
            size += len(before) + len(answer)
            ends.append(size)
        added = tuple(not ended for _, _, ended in stretches)
        return EncodedDialog(
            np.concatenate(ids), np.concatenate(loss_mask), tuple(starts), tuple(ends), added
        )

    def encode_prompt(self, messages: Sequence[Message]) -> np.ndarray:
        """The ids of a prompt, i32[n], up to where the completion starts. Raises BadRecord."""
        return self.encode_completions(messages, ())[0]

    def encode_completions(
        self, messages: Sequence[Message], completions: Sequence[str]
    ) -> tuple[np.ndarray, list[np.ndarray], int]:
        """(ids of the prompt, ids of each completion to its end token, how many needed an EOS). Raises BadRecord."""
        added = [{"role": "assistant", "content": text} for text in completions]
        guarded, guard = self._guarded([*messages, *added])
        given, replies = guarded[: len(messages)], guarded[len(messages) :]
        stretches, done = self._stretches(given)
        before = self._text(given, generation=True)
        self._stable(done, before)
        ended = [self._answer(given, reply, before) for reply in replies]
        parts = [(text, True) for turn in stretches for text in turn[:2]]
        texts = [text for text, _ in parts] + [before[len(done) :]] + [text for text, _ in ended]
        encoded = self._ids(texts, guard)
        eos = np.asarray([self.tokenizer.eos], np.int32)
        prompt: list[np.ndarray] = []
        for (_, _, closed), first, second in zip(
            stretches, encoded[: len(parts) : 2], encoded[1 : len(parts) : 2], strict=True
        ):
            prompt += [first, second] if closed else [first, second, eos]
        prompt.append(encoded[len(parts)])
        encoded_completions = [
            ids if closed else np.concatenate([ids, eos])
            for (_, closed), ids in zip(ended, encoded[len(parts) + 1 :], strict=True)
        ]
        return np.concatenate(prompt), encoded_completions, sum(not closed for _, closed in ended)

    def _stretches(self, messages: Sequence[Message]) -> tuple[list[tuple[str, str, bool]], str]:
        """([(prompt part, answer, whether the template ends it)], the text so far) of each assistant turn."""
        stretches, done = [], ""
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._text(messages[:i], generation=True)
                self._stable(done, before)
                answer, ended = self._answer(messages[:i], message, before)
                stretches.append((before[len(done) :], answer, ended))
                done = before + answer
        return stretches, done

    def _answer(self, messages: Sequence[Message], message: Message, before: str) -> tuple[str, bool]:
        """(the completion's text to its end token, whether the template writes one)."""
        after = self._text([*messages, message])
        self._stable(before, after)
        part = after[len(before) :]
        content = message["content"].strip()
        at = part.find(content)  # a template may leave text out, but writes no end token before it
        end = self._special.search(part, at + len(content) if at >= 0 else 0)
        return (part[: end.end()], True) if end else (part, False)

    def _text(self, messages: Sequence[Message], generation: bool = False) -> str:
        try:
            return self._jinja.render(
                messages=list(messages), add_generation_prompt=generation, **self._names
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise BadRecord(f"refused by the chat template: {error}") from error

    def _stable(self, start: str, whole: str) -> None:
        if whole.startswith(start):
            return
        at = next((i for i, (a, b) in enumerate(zip(start, whole, strict=False)) if a != b), len(whole))
        raise ConfigError(
            f"--template={self.name}: the template is not prefix-stable: a later turn changes the text of an "
            f"earlier one, from …{start[max(at - 20, 0) : at + 40]!r} to …{whole[max(at - 20, 0) : at + 40]!r}. "
            "A model would be trained on other ids than it generates; use a named template, or a copy of this "
            "one that writes every turn the same wherever it stands (thinking templates drop earlier thoughts)"
        )

    def _guarded(self, messages: Sequence[Message]) -> tuple[list[Message], str]:
        """The messages with a guard inside whatever could be read as a special token, and the guard."""
        texts = [text for message in messages for text in _strings(message)]
        if not any(self._guard(text, "\0") is not text for text in texts):
            return list(messages), ""
        whole = "".join(texts)
        guard = next((one for one in _GUARDS if one not in whole), None)
        if guard is None:
            raise BadRecord("no text: it has every noncharacter from U+FDD0 to U+FDEF")
        return [
            {k: v if k == "role" else self._replaced(v, guard) for k, v in message.items()}
            for message in messages
        ], guard

    def _replaced(self, value: Any, guard: str) -> Any:
        if isinstance(value, str):
            return self._guard(value, guard)
        if isinstance(value, dict):
            return {k: self._replaced(v, guard) for k, v in value.items()}
        return [self._replaced(v, guard) for v in value] if isinstance(value, list) else value

    def _guard(self, text: str, guard: str) -> str:
        """The text with guards inside special tokens, whole ones and parts at its ends; `text` itself without any."""
        while self._special.search(text):
            text = self._special.sub(lambda found: found[0][0] + guard + found[0][1:], text)
        inner = text.strip()
        if inner.endswith(self._heads):
            at = len(text.rstrip()) - 1
            text = text[:at] + guard + text[at:]
        if inner.startswith(self._tails):
            at = len(text) - len(text.lstrip()) + 1
            text = text[:at] + guard + text[at:]
        return text

    def _ids(self, texts: Sequence[str], guard: str) -> list[np.ndarray]:
        """i32[n] of each text, where special tokens are those that the template wrote."""
        pieces = [self._pieces(text) for text in texts]
        plain = [one.replace(guard, "") if guard else one for text in pieces for one in text[::2]]
        encoded = iter(self.tokenizer.encode(plain))
        specials = self.tokenizer.specials
        ids = []
        for text in pieces:
            parts = [next(encoded) if i % 2 == 0 else [specials[one]] for i, one in enumerate(text)]
            ids.append(np.concatenate(parts).astype(np.int32))
        return ids

    def _pieces(self, text: str) -> list[str]:
        """Text, special token, text, …: text first and last, empty where there is none."""
        return self._special.split(text)

    def _probe(self) -> int:
        """The id that ends a turn; raises ConfigError for what would go wrong in every conversation."""
        user, assistant = (
            {"role": "user", "content": "Question?"},
            {"role": "assistant", "content": "Answer."},
        )
        try:
            before, bare = self._text([user], generation=True), self._text([user])
            part, _ = self._answer([user], assistant, before)
            turns = self.encode([user, assistant])
        except BadRecord as error:
            raise ConfigError(f"--template={self.name}: {error}") from error
        if before == bare and part[: part.find("Answer.")].strip():
            raise ConfigError(
                f"--template={self.name}: it ignores add_generation_prompt, so nothing marks where a completion "
                f"starts; let it write {part[: part.find('Answer.')]!r} when that is set"
            )
        bos = self.tokenizer.bos
        if turns.ids[:2].tolist() == [bos, bos]:
            raise ConfigError(f"--template={self.name}: it starts with two {self._names['bos_token']}")
        return int(turns.ids[-1])


def load_template(name: str, tokenizer: Tokenizer) -> Template:
    """The template that --template names: one of NAMED, a Jinja file, or auto.

    auto is the tokenizer's own where it has one, else plain. Raises ConfigError where there is none.
    """
    if name == "auto":
        if tokenizer.chat_template:
            return Template("auto", tokenizer.chat_template, tokenizer)
        name = "plain"
    if name in NAMED:
        path = Path(__file__).parent / "templates" / f"{name}.jinja"
        return Template(name, path.read_text(encoding="utf-8"), tokenizer)
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"--template={name}: no such file; write auto, {', '.join(NAMED)} or a Jinja file")
    try:
        return Template(name, path.read_text(encoding="utf-8"), tokenizer)
    except UnicodeDecodeError as error:
        raise ConfigError(f"--template={name}: not a Jinja template ({error})") from error


def _environment() -> jinja2.Environment:
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    env.globals |= {"raise_exception": _raise, "strftime_now": _TODAY.strftime}
    env.filters["tojson"] = _to_json
    return env


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, **options: Any) -> str:
    """JSON as templates expect it; Jinja's own escapes what HTML would read."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("(" + "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) + ")")


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
