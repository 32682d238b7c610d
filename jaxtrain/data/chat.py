"""Jinja chat templates: conversations as token ids, with their loss mask.

In the loss is all that the template writes for an assistant's turn, from where a completion starts to its last end
token: thought, calls and answer. The ids are the tokenizer's own of the whole rendered text; a special token is one
only where the template writes it: the same characters in a message are text.

A template may write an earlier turn otherwise than the last one (it drops thoughts, say). Such a conversation becomes
several rows, each the beginning of the conversation as the model will see it, with its last turn in the loss.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from jaxtrain.config import ConfigError
from jaxtrain.data import special_text, turn_ends
from jaxtrain.data.chat_jinja import ChatJinja, TemplateFailure, with_arguments
from jaxtrain.data.messages import THOUGHTS, BadRecord, Message, in_loss, thought_of
from jaxtrain.data.response import MARKS, split_thought
from jaxtrain.data.special_text import SpecialText
from jaxtrain.data.tokenizer import ByteTokenizer, Tokenizer
from jaxtrain.data.unwritten import require_answer, thought_lost, unwritten
from jaxtrain.files import cache, paths

NAMED = ("plain", "hh", "chatml", "llama2", "llama3", "gemma", "zephyr", "none")
_MARKUP = re.compile(r"<\|\w+\|>|<\w+_of_turn>")  # what a template of ours writes for a special token
_USER = {"role": "user", "content": "Question?"}
_ANSWER = {"role": "assistant", "content": "Answer."}
_CALL = {"type": "function", "id": "call00000", "function": {"name": "lookup", "arguments": {"key": "value"}}}


class EncodedDialog(NamedTuple):
    """A conversation, or its beginning, up to the end of an assistant turn."""

    ids: np.ndarray  # i32[n]
    loss_mask: np.ndarray  # bool[n], whether the id is in the loss, as a target
    starts: tuple[int, ...]  # where each assistant turn starts
    ends: tuple[int, ...]  # one past each assistant turn's end token
    added: tuple[bool, ...]  # whether each end token is an EOS that the template does not write
    unwritten: tuple[str, ...] = ()  # what of the record the template does not write, a kind each
    omitted: int = 0  # assistant turns after it that were not encoded: it has more ids than the limit


@dataclass
class _Turn:
    """An assistant's turn in a row's text."""

    start: int  # the character where a completion starts
    end: int  # one past its end token
    learn: bool
    added: bool  # whether its end token is an EOS that the template does not write


@dataclass
class _Row:
    """The rendered text of a row to the end of its last turn, and its turns.

    `written` is the text without the EOS tokens that the template does not write.
    """

    written: str = ""
    text: str = ""
    turns: list[_Turn] = field(default_factory=list)

    def extend(self, before: str) -> None:
        """Adds what stands before the next turn; `before` starts with what is written."""
        self.text += before[len(self.written) :]
        self.written = before


class _Chat(NamedTuple):
    """A conversation as the template gets it."""

    messages: list[Message]
    template_kwargs: Mapping[str, Any]
    guard: str  # stands inside special tokens of messages; empty where there are none


class Template:
    """A chat template for one tokenizer.

    `ends` are the ids that end an assistant's turn, `end` that of an answer; `lead` is the white space that it
    writes before an answer, which is not the answer's; `fingerprint` changes with anything that
    changes an id but the tokenizer; `notes` are lines for the user. Raises ConfigError where the template cannot be
    used.
    """

    def __init__(self, name: str, source: str, tokenizer: Tokenizer):
        self.name, self.source, self.tokenizer = name, source, tokenizer
        self.fingerprint = cache.digest("template", _version(source, tokenizer), source)
        specials = tokenizer.specials
        by_id = {i: text for text, i in specials.items()}
        none = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "")
        self._names, self._eos = none | dict(tokenizer.token_names), by_id[tokenizer.eos]
        self._special_ids = np.array(sorted(specials.values()))
        self._special = special_text.pattern(specials)
        # A thought may stand in the content of an assistant's message: its marks are the template's to read.
        marks = {mark for one in MARKS for mark in one if mark}
        self._in_others, self._in_answers = SpecialText(specials), SpecialText(set(specials) - marks)
        self._thoughts = tuple(one for one in THOUGHTS if re.search(rf"[.'\"]{one}\b", source))
        self._inline = next((one for one in MARKS if one.end in source), None)
        # What the template writes before an answer; whether content is null beside a call, a list of parts.
        self.lead, self._none_for_empty, self._in_parts = "", False, False
        try:
            self._jinja = ChatJinja(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"--template={name}: line {error.lineno}: not a Jinja template ({error.message})"
            ) from error
        self.end = self._probe()
        self.ends = tuple(dict.fromkeys([self.end, *self._call_end()]))
        lacks = sorted(set(_MARKUP.findall(source)) - set(specials)) if name in NAMED else ()
        self.notes = tuple(
            f"{name} writes {text}, which the tokenizer has no token for: it is text" for text in lacks
        )

    def encode(
        self, messages: Sequence[Message], template_kwargs: Mapping[str, Any] = {}, limit: int = 0
    ) -> list[EncodedDialog]:
        """The ids and loss mask of a conversation: one row, or several where later turns rewrite earlier ones.

        After the row that has more than `limit` ids, where that is not 0, turns are left out and counted. Raises
        BadRecord where the template refuses the conversation, does not write an answer, or there is none.
        """
        places = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not places:
            raise BadRecord("no assistant turn: there is nothing to train on")
        most = max(limit, places[0] + 1) if limit else len(messages)  # a message has an id at least
        chat = self._chat(messages[:most], template_kwargs)
        lost: dict[str, None] = {}
        rows, omitted = self._rows(chat, limit, lost)
        encoded = [
            self._encoded(row, chat.guard) for row in rows if any(turn.learn for turn in row.turns)
        ] or [self._encoded(rows[-1], chat.guard)]
        encoded[0] = encoded[0]._replace(unwritten=tuple(lost))
        omitted += sum(place >= most for place in places)
        return [*encoded[:-1], encoded[-1]._replace(omitted=omitted)]

    def encode_prompt(
        self, messages: Sequence[Message], template_kwargs: Mapping[str, Any] = {}
    ) -> np.ndarray:
        """The ids of a prompt, i32[n], up to where the completion starts. Raises BadRecord."""
        return self.encode_completions(messages, (), template_kwargs)[0]

    def encode_completions(
        self,
        messages: Sequence[Message],
        completions: Sequence[str | Message],
        template_kwargs: Mapping[str, Any] = {},
    ) -> tuple[np.ndarray, list[np.ndarray], int]:
        """(ids of the prompt, ids of each completion to its end token, how many needed an EOS). Raises BadRecord."""
        replies = [
            {"role": "assistant", "content": one} if isinstance(one, str) else one for one in completions
        ]
        chat = self._chat([*messages, *replies], template_kwargs)
        given, replies = (
            chat._replace(messages=chat.messages[: len(messages)]),
            chat.messages[len(messages) :],
        )
        before = self._text(given, generation=True)
        prompt = self._with_ends(given, before)
        ids, _ = self._ids(prompt, chat.guard)
        if not len(ids):
            raise BadRecord("no prompt: the template writes nothing before the completion, not even a BOS")
        encoded, added = [], 0
        for reply in replies:
            answer, ended = self._answer(given, reply, before)
            require_answer(answer, reply)
            added += not ended
            whole, spans = self._ids(
                prompt + answer + ("" if ended else self._eos), chat.guard, [len(prompt)]
            )
            encoded.append(whole[spans[:, 0] >= len(prompt)])
        return ids, encoded, added

    def prompt_text(self, messages: Sequence[Message], template_kwargs: Mapping[str, Any] = {}) -> str:
        """The text of a prompt, special tokens as they are written. Raises BadRecord."""
        chat = self._chat(messages, template_kwargs)
        return self._without(self._text(chat, generation=True), chat.guard)

    def completion_text(
        self, messages: Sequence[Message], completion: Message, template_kwargs: Mapping[str, Any] = {}
    ) -> str:
        """What the template writes for a completion of the messages, to its end token. Raises BadRecord."""
        chat = self._chat([*messages, completion], template_kwargs)
        given = chat._replace(messages=chat.messages[:-1])
        answer, _ = self._answer(given, chat.messages[-1], self._text(given, generation=True))
        return self._without(answer, chat.guard)

    def unwritten(
        self, messages: Sequence[Message], template_kwargs: Mapping[str, Any] = {}
    ) -> tuple[str, ...]:
        """The kinds of what the template does not write of a prompt. Raises BadRecord."""
        text = self.prompt_text(messages, template_kwargs)
        return tuple(dict.fromkeys(unwritten(text, messages, template_kwargs)))

    def _chat(self, messages: Sequence[Message], template_kwargs: Mapping[str, Any]) -> _Chat:
        both = [(self._in_answers if m["role"] == "assistant" else self._in_others, m) for m in messages]
        guard = ""
        if self._in_others.occurs(template_kwargs) or any(
            special.occurs(value) for special, m in both for key, value in m.items() if key != "role"
        ):
            guard = special_text.unused_guard([list(messages), template_kwargs])
            both = [
                (one, {k: v if k == "role" else one.guarded(v, guard) for k, v in m.items()})
                for one, m in both
            ]
            template_kwargs = self._in_others.guarded(template_kwargs, guard)
        return _Chat([self._prepared(message) for _, message in both], template_kwargs, guard)

    def _prepared(self, message: Message) -> Message:
        """The message with the fields that this template reads."""
        if message["role"] == "developer" and "developer" not in self.source:
            return {**message, "role": "system"}
        if message["role"] != "assistant":
            return message
        message = dict(message)
        if isinstance(calls := message.get("tool_calls"), list | tuple):
            message["tool_calls"] = [with_arguments(call) for call in calls]
        if thought := thought_of(message):
            message |= {name: thought for name in self._thoughts if not message.get(name)}
            called = self._none_for_empty and message.get("tool_calls") and not message["content"]
            if not (self._thoughts or called) and self._inline and self._inline.end not in message["content"]:
                start, end, *_ = self._inline
                message["content"] = f"{start}\n{thought}\n{end}\n\n{message['content']}"
        return message

    def _rows(self, chat: _Chat, limit: int, lost: dict[str, None]) -> tuple[list[_Row], int]:
        """(rows of the conversation, assistant turns left out after the limit); adds to `lost` what is not written."""
        rows, most = [_Row()], 2 * limit
        places = [i for i, message in enumerate(chat.messages) if message["role"] == "assistant"]
        for number, i in enumerate(places):
            message, given = chat.messages[i], chat._replace(messages=chat.messages[:i])
            before = self._text(given, generation=True)
            answer, ended = self._answer(given, message, before)
            learn = in_loss(message)
            if learn:
                require_answer(answer, message)
                if thought_lost(answer, thought_of(message)):
                    lost["thoughts"] = None
            if not before.startswith(rows[-1].written):
                rows.append(_Row())
            row = rows[-1]
            row.extend(before)
            start = len(row.text)
            row.written += answer
            row.text += answer if ended else answer + self._eos
            row.turns.append(_Turn(start, len(row.text), learn, not ended))
            left = len(places) - 1 - number
            if limit and left and len(row.text) > most:
                if len(self._ids(row.text, chat.guard)[0]) > limit:
                    break
                most = 2 * len(row.text)
        lost |= dict.fromkeys(unwritten(before, given.messages, chat.template_kwargs))
        return rows, left

    def _encoded(self, row: _Row, guard: str) -> EncodedDialog:
        ids, spans = self._ids(row.text, guard, [turn.start for turn in row.turns])
        first = spans[:, 0]
        starts = [int((first < turn.start).sum()) for turn in row.turns]
        ends = [int((first < turn.end).sum()) for turn in row.turns]
        loss_mask = np.zeros(len(ids), bool)
        for turn, start, end in zip(row.turns, starts, ends, strict=True):
            loss_mask[start:end] = turn.learn
        return EncodedDialog(
            ids, loss_mask, tuple(starts), tuple(ends), tuple(turn.added for turn in row.turns)
        )

    def _answer(self, given: _Chat, message: Message, before: str) -> tuple[str, bool]:
        """(the completion's text to its last end token, whether the template writes one)."""
        after = self._text(given._replace(messages=[*given.messages, message]))
        if after.startswith(before):
            return self._to_end(given, message, after, len(before))
        if start := self._behind_rewritten(given, before, after):
            return self._to_end(given, message, after, start)
        for start, end, *_ in MARKS:  # the prompt opens a thought, the finished turn has none
            at = before.rfind(start)
            if at >= 0 and after.startswith(before[:at]):
                answer, ended = self._to_end(given, message, after, at)
                if end in before[at:]:
                    return answer, ended
                if answer.startswith(start):
                    return answer.removeprefix(start).lstrip("\n"), ended
                thought = thought_of(message) or split_thought(message["content"])[0]
                return "{}\n{}\n\n{}".format(thought, end, answer.lstrip("\n")), ended
        raise ConfigError(
            f"--template={self.name}: the text before an answer changes once the answer is there, from "
            f"{_difference(before, after)}. A model would be trained on other ids than it generates; use a named "
            "template, or a copy of this one in which add_generation_prompt writes the beginning of the turn"
        )

    def _behind_rewritten(self, given: _Chat, before: str, after: str) -> int:
        """Where an answer starts whose presence changes the turns before it; 0 where that is not to be seen."""
        bare = self._text(given)
        opening = before[len(bare) :] if before.startswith(bare) else ""
        other = self._text(given._replace(messages=[*given.messages, _ANSWER]))
        at = after.rfind(opening, 0, _shared(after, other)) if opening else -1
        if at < 0 or any(unwritten(after[:at], given.messages[-1:], {})):
            return 0
        return at + len(opening)

    def _to_end(self, given: _Chat, message: Message, after: str, start: int) -> tuple[str, bool]:
        """(the text from `start` to the last end token of the turn, whether there is one)."""
        ends, stop = [], len(after.rstrip())
        for match in reversed([*self._special.finditer(after, start)]):
            if match.end() != stop:
                break
            ends.append(stop)
            stop = len(after[: match.start()].rstrip())
        if not ends:
            return after[start:], False
        if (
            len(ends) > 1
        ):  # the last ones may end the conversation, not the turn: what follows the turn shows it
            try:
                further = self._text(given._replace(messages=[*given.messages, message, _USER]))
            except BadRecord:
                further = after
            shared = _shared(after, further)
            ends = [end for end in ends if end <= shared] or ends
        return after[start : ends[0]], True

    def _with_ends(self, given: _Chat, before: str) -> str:
        """A prompt with the EOS tokens that the template does not write behind earlier answers."""
        if self._writes_end or not any(message["role"] == "assistant" for message in given.messages):
            return before

        def render(messages: Sequence[Message], generation: bool) -> str:
            return self._text(given._replace(messages=list(messages)), generation)

        if (text := turn_ends.with_ends(given.messages, before, render, self._eos)) is not None:
            return text
        row = self._rows(given, 0, {})[0][-1]
        if not before.startswith(row.written):
            return before
        row.extend(before)
        return row.text

    def _text(self, chat: _Chat, generation: bool = False) -> str:
        variables = {**self._names, "add_generation_prompt": generation, **chat.template_kwargs}
        try:
            return self._jinja.render([self._with_content(message) for message in chat.messages], variables)
        except TemplateFailure as error:
            raise BadRecord(f"refused by the chat template: {error}") from error

    def _with_content(self, message: Message) -> Message:
        """The message with its content in the form that the template reads."""
        if self._none_for_empty and not message["content"] and message.get("tool_calls"):
            return message | {"content": None}
        return (
            message | {"content": [{"type": "text", "text": message["content"]}]}
            if self._in_parts
            else message
        )

    def _ids(self, text: str, guard: str, cuts: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """(ids, spans in the text) of a rendered text; no token but a special one crosses one of the cuts.

        Where a token would, what stands before the cut is encoded by itself, as it is at inference.
        """
        ids, spans = self._unguarded(text, guard)
        special = np.isin(ids, self._special_ids)
        crossed = [cut for cut in cuts if (_crossing(spans, cut) & ~special).any()]
        if not crossed:
            return ids, spans
        barrier, parts, done = guard or special_text.unused_guard(text), [], 0
        for count, stop in enumerate([*crossed, len(text)]):
            pieces = [text[a:b] for a, b in zip([0, *crossed[:count]], [*crossed[:count], stop], strict=True)]
            ids, spans = self._unguarded(barrier.join(pieces), barrier)
            if count and _crossing(spans, done + count - 1).any():  # it has no token for the barrier
                ids, spans = self._unguarded(text[done:stop], guard)
                parts.append((ids, spans + done))
            else:
                here = spans[:, 0] >= done + count
                parts.append((ids[here], spans[here] - count))
            done = stop
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([spans for _, spans in parts])

    def _unguarded(self, text: str, guard: str) -> tuple[np.ndarray, np.ndarray]:
        ids, spans = special_text.without_guard(text, guard, *self.tokenizer.encode_marked([text])[0])
        for start, end in spans[np.isin(ids, self._special_ids)]:
            if not self._special.search(text, start, end):
                raise ConfigError(
                    f"--tokenizer: it encodes plain text as special tokens ({text[start:end]!r}); use another one"
                )
        return ids, spans

    def _without(self, text: str, guard: str) -> str:
        return text.replace(guard, "") if guard else text

    def _probe(self) -> int:
        """The id that ends a turn; raises ConfigError for what would go wrong in every conversation."""
        chat = _Chat([_USER], {}, "")
        try:
            self._in_parts = not self._writes_user(chat)
            if self._in_parts and not self._writes_user(chat):
                raise ConfigError(f"--template={self.name}: it does not write the text of a user's message")
            before, bare = self._text(chat, generation=True), self._text(chat)
            part, self._writes_end = self._answer(chat, _ANSWER, before)
            lead = part[: part.find(_ANSWER["content"])]
            self.lead = lead if lead and not lead.strip() else ""
            (turns,) = self.encode([_USER, _ANSWER])
        except BadRecord as error:
            raise ConfigError(f"--template={self.name}: {error}") from error
        if before == bare and lead.strip():
            raise ConfigError(
                f"--template={self.name}: it ignores add_generation_prompt, so nothing marks where a completion "
                f"starts; let it write {lead!r} when that is set"
            )
        bos = self.tokenizer.bos
        if turns.ids[:2].tolist() == [bos, bos]:
            raise ConfigError(f"--template={self.name}: it starts with two {self._names['bos_token']}")
        return int(turns.ids[-1])

    def _writes_user(self, chat: _Chat) -> bool:
        return _USER["content"] in self._text(chat, generation=True)

    def _call_end(self) -> Iterator[int]:
        """The id that ends a turn with a tool call, where the template knows them.

        Some know a call by its content, which must be null.
        """
        for self._none_for_empty in (False, True):
            try:
                (turns,) = self.encode([_USER, {"role": "assistant", "content": "", "tool_calls": [_CALL]}])
            except (BadRecord, ConfigError):
                continue
            yield int(turns.ids[-1])
            return
        self._none_for_empty = False


def load_template(name: str, tokenizer: Tokenizer, otherwise: str = "plain") -> Template:
    """The template that --template names: one of NAMED, a Jinja file, hf:NAME, or auto.

    auto is the tokenizer's own where it has one, else `otherwise`; hf:NAME is one that the tokenizer has under a
    name. Raises ConfigError where there is none.
    """
    if name == "auto":
        if tokenizer.chat_template:
            return Template("auto", tokenizer.chat_template, tokenizer)
        if tokenizer.named_templates:
            raise ConfigError(
                f"--template=auto: the tokenizer has {', '.join(tokenizer.named_templates)} but no default template; "
                "choose " + " or ".join(f"--template=hf:{one}" for one in tokenizer.named_templates)
            )
        name = otherwise
    if name.startswith("hf:"):
        own = {"default": tokenizer.chat_template, **tokenizer.named_templates}
        if source := own.get(name.removeprefix("hf:")):
            return Template(name, source, tokenizer)
        there = ", ".join(one for one, source in own.items() if source) or "none"
        raise ConfigError(f"--template={name}: the tokenizer has no template of that name; it has {there}")
    if name in NAMED:
        return Template(name, _named(name), tokenizer)
    path = paths.local_copy(paths.parse(name, "template"), f"--template={name}")
    if not path.is_file():
        raise ConfigError(
            f"--template={name}: no such file; write auto, hf:NAME, {', '.join(NAMED)} or a Jinja file"
        )
    try:
        return Template(name, path.read_text(encoding="utf-8"), tokenizer)
    except UnicodeDecodeError as error:
        raise ConfigError(f"--template={name}: not a Jinja template ({error})") from error


def _named(name: str) -> str:
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def _version(source: str, tokenizer: Tokenizer) -> int:
    """The version of the way this file encodes; the second one changed no id of bytes under a template of ours."""
    ours = isinstance(tokenizer, ByteTokenizer) and source in map(_named, NAMED)
    return 1 if ours else 2


def _crossing(spans: np.ndarray, cut: int) -> np.ndarray:
    """bool[n], whether a token stands on both sides of a character's beginning."""
    return (spans[:, 0] < cut) & (cut < spans[:, 1])


def _shared(a: str, b: str) -> int:
    """The length of the beginning that two texts share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _difference(start: str, whole: str) -> str:
    at = _shared(start, whole)
    return f"…{start[max(at - 20, 0) : at + 40]!r} to …{whole[max(at - 20, 0) : at + 40]!r}"
