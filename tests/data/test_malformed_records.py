"""Records with one thing wrong each, written by hand: every reader says what is wrong with which, and reads the rest.

malformed/NAME.txt has a line for each: the begin of the reason why it is a bad record; or + and what a model learns of
it; or - for what is counted, and nothing is learnt of; then the record, between tabs. <<x*9>> stands for repeated text,
<<nl>> for a new line. `good` has what is learnt of an intact record, with # for its number.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from experiments import train_classifier
from jaxtrain.apps.soak import record_commands
from jaxtrain.config import ConfigError, Corpus, Dialogs, Reading
from jaxtrain.data import chat, dialogs, pipeline, preferences_db, prompts
from jaxtrain.data.bad_records import Skips
from jaxtrain.data.read_limits import DEFAULT
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.distillation import logprob_data
from tests.data import comparisons

FOLDER = Path(__file__).with_name("malformed")
KIND = ByteTokenizer()
CALLS = """{%- for m in messages -%}{{ m.role }}:
{%- for call in m.tool_calls -%}CALL {{ call.function.name }} {{ call.function.arguments | tojson }}{%- endfor -%}
{{ m.content }}{{ eos_token }}{%- endfor -%}{%- if add_generation_prompt -%}assistant:{%- endif -%}"""


class Line(NamedTuple):
    """A record of a table, or an intact one."""

    expected: str
    content: bytes


def dialogs_cfg(data: str, policy: str, folder: Path) -> Dialogs:
    return Dialogs(
        data=data, on_bad_record=policy, cache_dir=str(folder), eval_share=0.3, seq_len=400, batch_size=200
    )


def plain(ids: Any) -> str:
    """The text of ids, without special tokens."""
    return KIND.decode([int(i) for i in ids if int(i) not in KIND.specials.values()]).strip()


def documents(folder: Path, kind: str, ids_of: Callable[[Path], tuple[Any, Any]]) -> Iterator[str]:
    """The texts in the loss of each row of a cache; parts are joined with |."""
    for path in folder.glob(f"{kind}/[!.]*"):
        ids, learn = ids_of(path)
        offsets = np.load(path / "offsets.npy")
        for a, b in itertools.pairwise(offsets):
            parts = np.split(np.arange(a, b), np.flatnonzero(np.diff(learn[a:b])) + 1)
            yield "|".join(plain(ids[one]) for one in parts if learn[one[0]])


def texts(data: str, policy: str, folder: Path) -> list[str]:
    cfg = Corpus(
        data=data, on_bad_record=policy, cache_dir=str(folder), eval_share=0.3, seq_len=64, batch_size=2
    )
    pipeline.prepare(cfg, seed=0, tokenizer=KIND)

    def ids_of(path: Path) -> tuple[Any, Any]:
        ids = np.fromfile(path / "ids.bin", json.loads((path / "meta.json").read_text())["dtype"])
        return ids, np.ones(len(ids), int)

    return [*documents(folder, "tokens", ids_of)]


def sft(data: str, policy: str, folder: Path, template: str = "plain") -> list[str]:
    if template == "calls":
        (folder / "calls.jinja").parent.mkdir(parents=True, exist_ok=True)
        (folder / "calls.jinja").write_text(CALLS)
        template = str(folder / "calls.jinja")
    made = chat.load_template(template, KIND)
    dialogs.prepare(dialogs_cfg(data, policy, folder), seed=0, tokenizer=KIND, template=made)
    return [
        *documents(folder, "dialogs", lambda path: (np.load(path / "ids.npy"), np.load(path / "learn.npy")))
    ]


def tools(data: str, policy: str, folder: Path) -> list[str]:
    return sft(data, policy, folder, "calls")


def compared(data: str, policy: str, folder: Path, kind: str = "pairs") -> list[str]:
    made = comparisons.prepare(dialogs_cfg(data, policy, folder), template="plain", kind=kind)
    found = []
    for row in made.rows:
        parts = [
            plain(row["targets"][j][row["mask"][j] > 0])
            for j in range(len(row["length"]))
            if row["length"][j]
        ]
        if kind == "unpaired":
            found.append(("no ", "yes ")[int(row["label"])] + parts[0])
            continue
        rank = row["rank"][: len(parts)].tolist()
        signs = [" = " if a == b else " > " for a, b in itertools.pairwise(rank)]
        found.append("".join(x for pair in zip(parts, [*signs, ""], strict=False) for x in pair))
    return found


def ranked(data: str, policy: str, folder: Path) -> list[str]:
    return compared(data, policy, folder, "ranked")


def unpaired(data: str, policy: str, folder: Path) -> list[str]:
    return compared(data, policy, folder, "unpaired")


def prompt_rows(data: str, policy: str, folder: Path) -> list[str]:
    made = chat.load_template("plain", KIND)
    read = prompts.read_prompts(data, dialogs_cfg(data, policy, folder), made, notes=[])
    return [one.messages[-1]["content"] for one in read]


def seeds(data: str, policy: str, folder: Path) -> list[str]:
    read = prompts.read_conversations(data, "data", dialogs_cfg(data, policy, folder), 0)
    return [prompts.question(one.messages) for one in read]


def distilled(data: str, policy: str, folder: Path) -> list[str]:
    made = chat.load_template("plain", KIND)
    read = logprob_data.prepare(dialogs_cfg(data, policy, folder), seed=0, tokenizer=KIND, template=made)
    batches = [read.train.batch(0), *(read.eval.batch(i) for i in range(len(read.eval)))]
    return [
        plain(targets[mask > 0])
        for one in batches
        for targets, mask in zip(one["targets"], one["mask"], strict=True)
        if mask.any()
    ]


def labels(data: str, policy: str, folder: Path) -> list[str]:
    labelled = train_classifier.LabelledDocuments(data=data, label_field="label", cache_dir=str(folder))
    good, bad = train_classifier._labelled_texts(labelled, Reading(on_bad_record=policy))
    return [f"good: {text}" for text in good] + [f"bad: {text}" for text in bad]


def votes(data: str, policy: str, folder: Path) -> list[str]:
    skips = Skips(policy)
    path = Path(data.partition(":")[2])
    read = [*preferences_db.votes(path, folder, DEFAULT, skips)]
    folder.mkdir(parents=True, exist_ok=True)
    skips.save(folder)
    return [f"{' '.join(one.texts)} {one.ranks}" for one in read]


READERS: dict[str, Callable[[str, str, Path], list[str]]] = {
    "text": texts, "messages": sft, "conversations": sft, "completion": sft, "instruction": sft, "question": sft,
    "stored": sft, "tree": sft, "tree_rows": sft, "tool_calls": tools, "chosen": compared, "responses": compared,
    "ranked": ranked, "marked": ranked, "judged": unpaired, "prompt": prompt_rows, "seeds": seeds,
    "logprobs": distilled, "labelled": labels, "vote": votes,
}  # fmt: skip


def _expanded(text: str) -> str:
    text = text.replace("<<nl>>", "\n")
    return re.sub(r"<<(.+?)\*(\d+)>>", lambda match: match[1] * int(match[2]), text)


def table(name: str) -> tuple[list[Line], Callable[[int], Line]]:
    """(the malformed records of a file, a function that returns intact ones by number)."""
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    rows = [one for one in text.split("\n") if one[:2] not in ("", "# ")]
    _, learnt, record = rows[0].split("\t")

    def intact(number: int) -> Line:
        return Line(
            "+" + learnt.replace("#", str(number)), _expanded(record.replace("#", str(number))).encode()
        )

    cells = [row.split("\t") for row in rows[1:]]
    return [Line(_expanded(expected), _expanded(one).encode()) for expected, one in cells], intact


def _common(intact: Callable[[int], Line]) -> Iterator[Line]:
    """Records whose line is damaged, whatever it holds; then some that can be read for all that."""
    first = intact(0).content.partition(b"\n")[0]
    text, half = first.decode(), len(first) // 2
    inside = text.index('"', text.index(":")) + 1
    reasons = {
        "not JSON": (
            text[:half], text[half:], text + text, f"{text},", f",{text}", text.replace('"', "'"), "// a comment",
            f"{text[:inside]}\0{text[inside:]}", f"{text[:inside]}\t{text[inside:]}", f'{text[:-1]}, "x": 01}}',
            f'{text[:-1]}, "x": {"1" * 5_000}}}', "[" * 5_000 + text,
        ),
        "too deep": (f'{text[:-1]}, "x": {"[" * 300}{"]" * 300}}}',),
        "not a JSON object": (f"[{text}]", json.dumps(text), "null", "NaN", "5"),
    }  # fmt: skip
    yield from (Line(reason, one.encode()) for reason, several in reasons.items() for one in several)
    for damage in (b"\xff", b"\xe9", b"\xed\xa0\xbd", b"\xc3"):
        yield Line("invalid UTF-8", first[:inside] + damage + first[inside:])
    yield Line("invalid UTF-8", text.encode("utf-16"))
    key = first[1 : first.index(b":") + 1]
    for i, change in enumerate((
        lambda line: b"\xef\xbb\xbf" + line, lambda line: line.replace(b"\n", b"\r\n") + b"\r",
        lambda line: b"  " + line + b" ", lambda line: line.replace(b"{", b"{" + key + b" 5, ", 1),
        lambda line: line.replace(b"{", b'{"' + b"x" * 100_000 + b'": 1, ', 1),
    )):  # fmt: skip
        yield intact(900 + i)._replace(content=change(intact(900 + i).content))


def _is_bad(line: Line) -> bool:
    return line.expected[0] not in "+-"


def _written(path: Path, lines: list[Line]) -> list[range]:
    """The numbers of the lines of each record in a file, which is written."""
    path.parent.mkdir()
    path.write_bytes(b"".join(one.content + b"\n" for one in lines))
    ends = itertools.accumulate((one.content.count(b"\n") + 1 for one in lines), initial=1)
    return [range(*pair) for pair in itertools.pairwise(ends)]


def _listed(folder: Path, path: Path) -> dict[int, str]:
    """Line -> reason of the records that were skipped."""
    rows = [json.loads(line) for one in folder.rglob("*.jsonl") for line in one.read_text().splitlines()]
    found = [(re.match(rf"{path}:(\d+)$", row["where"]), row["reason"]) for row in rows if "reason" in row]
    return {int(match[1]): reason for match, reason in found}


def _says(reason: str, expected: str) -> bool:
    return reason.startswith(expected) or f"({expected}" in reason


@pytest.mark.parametrize("name", READERS)
def test_bad_records_are_skipped_with_their_reasons_and_all_others_are_read(tmp_path, name, capsys):
    hand, intact = table(name)
    assert len({one.content for one in hand}) == len(hand) >= 40
    lines = [intact(0), intact(1)]
    for i, line in enumerate((*hand, *_common(intact)), 2):
        lines += [line, intact(i)]
    path = tmp_path / "data" / "a.jsonl"
    places = _written(path, lines)
    learnt = READERS[name](f"jsonl:{path}", "skip", tmp_path / "cache")
    assert set(learnt) == {one.expected[1:] for one in lines if one.expected[0] == "+"}
    listed = _listed(tmp_path / "cache", path)
    for line, place in zip(lines, places, strict=True):
        reasons = [listed.pop(number) for number in place if number in listed]
        assert [_says(one, line.expected) for one in reasons] == [True] * _is_bad(line), (line, reasons)
    assert listed == {}


def _stops(tmp_path: Path, name: str, line: Line, number: int) -> None:
    intact = table(name)[1]
    path = tmp_path / f"{number}" / "a.jsonl"
    place = _written(path, [intact(0), intact(1), line, *map(intact, range(2, 9))])[2]
    with pytest.raises(ConfigError) as error:
        READERS[name](f"jsonl:{path}", "raise", tmp_path / f"cache{number}")
    at = re.match(rf"(?:--data=\S+: )?{path}:(\d+): (.*)", str(error.value), re.DOTALL)
    assert at and int(at[1]) in place and _says(at[2], line.expected), (line, error.value)
    assert "--on_bad_record=skip" in at[2]


@pytest.mark.parametrize("name", READERS)
def test_a_bad_record_stops_with_file_and_line_and_one_that_can_be_read_does_not(tmp_path, name, capsys):
    hand, intact = table(name)
    _stops(tmp_path, name, next(filter(_is_bad, reversed(hand))), 0)
    lines = [intact(0), intact(1), *(one for one in (*hand, *_common(intact)) if not _is_bad(one))]
    path = tmp_path / "data" / "a.jsonl"
    _written(path, lines)
    learnt = READERS[name](f"jsonl:{path}", "raise", tmp_path / "cache")
    assert set(learnt) == {one.expected[1:] for one in lines if one.expected[0] == "+"}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_each_bad_record_stops_with_file_and_line(tmp_path, name, capsys):
    hand, intact = table(name)
    for number, line in enumerate(filter(_is_bad, (*hand, *_common(intact)))):
        _stops(tmp_path, name, line, number)


@pytest.mark.parametrize("name", ["messages", "chosen", "prompt", "tree_rows"])
@pytest.mark.parametrize(
    "first", ['{"text": "w", "a": 1}', '{"prompt": "q", "completion": "w", "label": true}', "{}"]
)
def test_a_bad_first_record_does_not_decide_the_format(tmp_path, name, first, capsys):
    intact = table(name)[1]
    lines = [Line("", first.encode()), *(intact(i) for i in range(6))]
    path = tmp_path / "data" / "a.jsonl"
    _written(path, lines)
    learnt = READERS[name](f"jsonl:{path}", "skip", tmp_path / "cache")
    used = {"q"} if name == "prompt" and "prompt" in first else set()  # of which it is one
    assert set(learnt) == {one.expected[1:] for one in lines[1:]} | used


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_every_reader_reads_or_refuses_the_records_of_the_others(tmp_path, name, capsys):
    hand, intact = table(name)
    path = tmp_path / "data" / "a.jsonl"
    _written(path, [intact(0), intact(1), *hand, *_common(intact), *map(intact, range(2, 40))])
    for other, reader in {**READERS, "filter_data": record_commands.filter_data}.items():
        try:
            reader(f"jsonl:{path}", "skip", tmp_path / other)
        except ConfigError as error:
            assert str(path) in str(error) or "--data" in str(error)
