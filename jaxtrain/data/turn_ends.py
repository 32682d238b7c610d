"""EOS tokens behind the earlier answers of a prompt, for chat templates that write none, in three renderings.

Rendering the conversation up to each answer takes a time that grows with the square of its length.
"""

from collections.abc import Callable, Sequence

from jaxtrain.data.messages import Message
from jaxtrain.data.special_text import unused_guard

Render = Callable[[Sequence[Message], bool], str]  # (messages, whether a completion follows) -> text


def with_ends(messages: Sequence[Message], text: str, render: Render, eos: str) -> str | None:
    """A prompt's text with `eos` behind each answer; None where it is not certain where they end.

    An answer ends behind what the template writes after its content, the same after each. `render` may raise BadRecord.
    """
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if any(messages[i].get("tool_calls") or not messages[i]["content"].strip() for i in answers):
        return None
    mark = unused_guard([list(messages), text])
    pieces = render([_marked(message, mark) for message in messages], True).split(mark)
    if len(pieces) != len(answers) + 1 or "".join(pieces) != text:
        return None
    first = _tail(messages[: answers[0] + 1], text, len(pieces[0]), render)
    last = _tail(messages[: answers[-1] + 1], text, len(text) - len(pieces[-1]), render)
    space = [_space(messages[i]["content"]) for i in answers]
    for written in (space, [""] * len(space)):  # the template may trim a content
        if not first.startswith(written[0]):
            continue
        tail = first[len(written[0]) :]
        tails = [own + tail for own in written]
        if last == tails[-1] and all(
            piece.startswith(own) for piece, own in zip(pieces[1:], tails, strict=True)
        ):
            behind = [own + eos + piece[len(own) :] for piece, own in zip(pieces[1:], tails, strict=True)]
            return pieces[0] + "".join(behind)
    return None


def _space(content: str) -> str:
    """The white space at the end of a content."""
    return content[len(content.rstrip()) :]


def _marked(message: Message, mark: str) -> Message:
    """An answer with a mark behind its last visible character; other messages as they are."""
    if message["role"] != "assistant":
        return message
    content = message["content"]
    return message | {"content": content.rstrip() + mark + _space(content)}


def _tail(messages: Sequence[Message], text: str, end: int, render: Render) -> str:
    """What stands behind the visible content of the last message; "\\0" where `text` does not begin with all of it."""
    own = render(messages, False)
    return own[end:] if text.startswith(own) else "\0"
