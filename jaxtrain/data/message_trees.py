"""Trees of messages, as OpenAssistant has them: several replies to one message, ranked by people.

A tree is one record, {"prompt": {"text", "role", "replies": [...]}}, or one row a message with `message_id` and
`parent_id`; rows are put together into trees before anything is held out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jaxtrain.data.compared_completions import Comparison
from jaxtrain.data.conversations import Dialog
from jaxtrain.data.messages import BadRecord, Message, is_number, messages_of, text_of
from jaxtrain.data.record_fields import RecordFields
from jaxtrain.data.sources import Records
from jaxtrain.files import cache

_FIRST = 16  # rows that say whether records are rows of trees
_ROW = ("message_id", "parent_id", "text", "role")
_ROOT = "prompt"


class _Node(NamedTuple):
    """A message of a tree with its replies, those left out that people removed or rejected."""

    message: Message
    rank: float | None
    replies: tuple["_Node", ...]


def is_tree(record: RecordFields) -> bool:
    """Whether a record is a tree of messages."""
    root = record.peek(_ROOT)
    return isinstance(root, Mapping) and "replies" in root and "text" in root


def conversations(record: RecordFields) -> list[Dialog]:
    """The paths from a tree's first message to each last reply of an assistant.

    A reply that several paths share is in the loss of the first of them alone. Raises BadRecord.
    """
    dialogs, learnt = [], set()
    for path in _paths(_root(record), ()):
        messages = []
        for node in path:
            again = id(node) in learnt
            messages.append({**node.message, "train": False} if again else node.message)
            if node.message["role"] == "assistant":
                learnt.add(id(node))
        dialogs.append(Dialog(tuple(messages)))
    if not dialogs:
        raise BadRecord("no assistant turn: no reply of an assistant in the tree")
    return dialogs


def comparisons(record: RecordFields) -> list[Comparison]:
    """The ranked replies to each message of a user that has several. Raises BadRecord."""
    compared = []
    for path in _nodes(_root(record), ()):
        ranked = [
            node for node in path[-1].replies if node.rank is not None and node.message["role"] == "assistant"
        ]
        if len(ranked) < 2:
            continue
        ranked.sort(key=lambda node: node.rank)
        steps = sorted({node.rank for node in ranked})
        compared.append(
            Comparison(
                tuple(node.message for node in path),
                tuple(node.message["content"] for node in ranked),
                tuple(steps.index(node.rank) for node in ranked),
                None,
                None,
            )
        )
    return compared


def _root(record: RecordFields) -> _Node:
    root = _node(record[_ROOT], _ROOT)
    if root is None:
        raise BadRecord("no message: the tree's first message was deleted or rejected")
    return root


def _node(value: Any, what: str) -> _Node | None:
    """The message with its replies, or None where people deleted it or rejected it in review.

    Not recursive: a conversation may have more turns than Python has stack frames.
    """
    order: list[tuple[Mapping[str, Any], Message, list[int]]] = []
    pending: list[tuple[Any, str, int]] = [(value, what, -1)]
    while pending:
        one, where, parent = pending.pop()
        if not isinstance(one, Mapping):
            raise BadRecord(f"no messages: {where} is not an object with text and role")
        if one.get("deleted") or one.get("review_result") is False:
            continue
        text = text_of(one.get("text"), f"text of {where}")
        (message,) = messages_of([{"role": one.get("role"), "content": text}], where)
        if parent >= 0:
            order[parent][2].append(len(order))
        replies = one.get("replies") or []
        if not isinstance(replies, list):
            raise BadRecord(f"no messages: replies of {where} is not a list")
        here = len(order)
        order.append((one, message, []))
        pending += [(reply, f"{where}.replies[{i}]", here) for i, reply in reversed(list(enumerate(replies)))]
    nodes: dict[int, _Node] = {}
    for i in reversed(range(len(order))):
        one, message, children = order[i]
        rank = one.get("rank")
        if rank is not None and not is_number(rank):
            raise BadRecord(f"no ranking: a reply's rank is {repr(rank)[:40]}, not a number")
        nodes[i] = _Node(message, rank, tuple(nodes.pop(child) for child in children))
    return nodes.get(0)


def _nodes(root: _Node, before: tuple[_Node, ...]) -> Iterator[tuple[_Node, ...]]:
    """The path to each message, a message before its replies."""
    pending = [(*before, root)]
    while pending:
        path = pending.pop()
        yield path
        pending += [(*path, reply) for reply in reversed(path[-1].replies)]


def _paths(root: _Node, before: tuple[_Node, ...]) -> Iterator[tuple[_Node, ...]]:
    """The path to each assistant's message that no other assistant's follows."""
    answered: set[int] = set()
    paths = list(_nodes(root, before))
    for path in reversed(paths):
        if path[-1].message["role"] == "assistant" or id(path[-1]) in answered:
            answered |= {id(node) for node in path[:-1]}
    for path in paths:
        if path[-1].message["role"] == "assistant" and id(path[-1]) not in answered:
            yield path


def assembled(records: Records) -> Records:
    """The records as trees, where they are rows of messages; else the records themselves.

    Each record is then a tree whose first message has no parent. Messages whose parent is not there are left out, and
    counted in the notes.
    """
    first = records.many(range(min(_FIRST, len(records))))
    if 2 * sum(all(name in row for name in _ROW) for row in first) <= len(first):
        return records
    trees, lost, repeated = _trees(records)
    if not trees:
        return records
    notes = [f"{len(records):,} messages are {len(trees):,} trees"]
    if lost:
        notes.append(f"{lost:,} messages left out: the one that they answer is not there")
    if repeated:
        notes.append(f"{repeated:,} messages left out: a later one has the same message_id")

    def read(numbers: Sequence[int]) -> list[dict[str, Any]]:
        wanted = [trees[i] for i in numbers]
        rows = iter(records.many([row for tree in wanted for row in tree]))
        return [_nested([next(rows) for _ in tree]) for tree in wanted]

    def place(number: int) -> str:
        return records.place(int(records.source_number(trees[number][0])))

    return replace(
        records,
        fingerprint=cache.digest(records.fingerprint, "trees"),
        read=read,
        size=len(trees),
        index=None,
        notes=(*records.notes, *notes),
        place=records.place and place,
    )


def _trees(records: Records) -> tuple[list[list[int]], int, int]:
    """(the rows of each tree, its first message first; how many rows belong to none; how many others have the name of a
    later one).
    """
    parents: dict[str, str | None] = {}
    numbers: dict[str, int] = {}
    for start, block in records.blocks():
        for number, row in enumerate(block, start):
            name = _name(row, number)
            parents[name] = None if row.get("parent_id") is None else str(row["parent_id"])
            numbers[name] = number
    children: dict[str, list[str]] = {}
    for name, parent in parents.items():
        if parent is not None:
            children.setdefault(parent, []).append(name)
    trees = []
    for root in (name for name, parent in parents.items() if parent is None):
        tree, pending = [], [root]
        while pending:
            name = pending.pop()
            tree.append(numbers[name])
            pending += reversed(children.get(name, []))
        trees.append(tree)
    return trees, len(numbers) - sum(map(len, trees)), len(records) - len(numbers)


def _name(row: Mapping[str, Any], number: int) -> str:
    """A row's id as text; one without an id, which no other row answers, has its number."""
    return f"row {number}" if row.get("message_id") is None else str(row["message_id"])


def _nested(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The tree of its rows, the first message first."""
    nodes = {_name(row, i): {**row, "replies": []} for i, row in enumerate(rows)}
    for i, row in enumerate(rows[1:], 1):
        nodes[str(row["parent_id"])]["replies"].append(nodes[_name(row, i)])
    return {_ROOT: nodes[_name(rows[0], 0)]}
