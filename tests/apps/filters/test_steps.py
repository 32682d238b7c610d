"""The pipeline of steps: what is checked, time limits, failures."""

import json
import re
import time

import pytest

from jaxtrain.apps.filters import gibberish, harm, heuristics, repetition, spam
from jaxtrain.apps.filters.types import Finding
from jaxtrain.config import Failure
from tests.apps.filters import filtering
from tests.apps.filters.filtering import only
from tests.data.corpus import write

FORMATS = {
    "completion": {"prompt": "Whom do I ask?", "completion": "Write to ann@example.com."},
    "messages": {
        "messages": [
            {"role": "user", "content": "I am bob@example.com."},
            {"role": "assistant", "content": "Hello."},
        ]
    },
    "preference": {
        "prompt": "Hi",
        "chosen": "Call 202-555-0123 to ask.",
        "rejected": "Mail ann@example.com.",
    },
    "text": {"text": "My server is 203.0.113.7."},
}


@pytest.mark.parametrize("name", FORMATS)
def test_personal_data_is_masked_in_every_format(tmp_path, name):
    record = {**FORMATS[name], "n": 1}
    _, kept, lines = filtering.run(write(tmp_path / "a.jsonl", [record]), tmp_path / "out", *only("pii"))
    assert kept != [record] and lines[0]["record"] == record and lines[0]["action"] == "mask"
    found = [lines[0], *lines[0].get("others", [])]
    shown = json.dumps(kept)
    for one in found:
        value = record
        for key in re.findall(r"\w+", one["part"]):
            value = value[int(key) if key.isdigit() else key]
        hidden = value[slice(*one["span"])]
        assert hidden not in shown and one["replacement"] in shown
    assert len(found) == (2 if name == "preference" else 1)


ADDRESSES = ("ada@mail.example.org", "bob@mail.example.org", "415-555-2671")
COLUMNS = [
    {"instruction": "Who?", "context": "Letter of ada@mail.example.org, 415-555-2671.", "response": "Ada."},
    {"instruction": "And?", "output": "Soon.", "history": [["Mail of bob@mail.example.org?", "Yes."]]},
    {
        "prompt": [{"role": "user", "content": "Mail ada@mail.example.org"}],
        "chosen": [{"role": "assistant", "content": "Done."}],
        "rejected": [{"role": "assistant", "content": "No, bob@mail.example.org"}],
    },
    {
        "messages": [
            {"role": "user", "content": "Send it."},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "function": {
                            "name": "mail",
                            "arguments": '{"to": "x\\nada@mail.example.org", "n": [1, 2.50]}',
                        }
                    }
                ],
            },
        ],
        "meta": {"bob@mail.example.org": {"phone": 4155552671}},
    },
]


def test_personal_data_is_masked_in_every_string_of_a_record(tmp_path):
    source = write(tmp_path / "a.jsonl", COLUMNS)
    report, kept, lines = filtering.run(source, tmp_path / "out", *only("pii"))
    shown = json.dumps(kept)
    assert (
        not any(one in shown for one in (*ADDRESSES, "4155552671"))
        and [line["record"] for line in lines] == COLUMNS
    )
    call = kept[3]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert call == '{"to": "x\\n<EMAIL>", "n": [1, 2.50]}' and json.loads(call)["to"] == "x\n<EMAIL>"
    assert kept[3]["meta"] == {"<EMAIL>": {"phone": "<PHONE>"}}
    assert kept[1]["history"] == [["Mail of <EMAIL>?", "Yes."]]
    fields = report["steps"]["pii"]["fields"]
    assert fields["history[][]"] == 2 and fields["messages[].tool_calls[].function.arguments"] == 1
    assert "meta.*.phone" in fields and not any("@" in name for name in fields)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "strings searched, by field" in page and "history[][]" in page
    assert not any(one in page for one in ADDRESSES)
    _, kept, lines = filtering.run(source, tmp_path / "drop", *only("pii"), "--pii=drop")
    assert not kept and {line["action"] for line in lines} == {"drop"}


def test_many_fields_are_counted_together(tmp_path):
    rows = [{"text": "good", **{f"f{n}_{i}": "x" for i in range(100)}} for n in range(4)]
    report, _, _ = filtering.run(write(tmp_path / "a.jsonl", rows), tmp_path / "out", *only("pii"))
    fields = report["steps"]["pii"]["fields"]
    assert len(fields) == 201 and fields["other fields"] + len(fields) - 2 + 4 == 404


def test_rejected_records_with_nan_are_valid_json(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "", "score": NaN}\n{"text": "fine", "score": -Infinity}\n')
    filtering.run(f"jsonl:{tmp_path}/a.jsonl", tmp_path / "out", *only("spam"))
    for name in ("rejected.jsonl", "kept/000000.jsonl"):
        line = (tmp_path / "out" / name).read_text()
        row = json.loads(line, parse_constant=pytest.fail)
        assert row.get("record", row)["score"] in ("NaN", "-Infinity")


def test_what_is_only_read_or_avoided_is_not_judged(tmp_path):
    advert = "BUY A LAMP NOW!!! Only $90 today!!! Visit www.lamp90.example"
    rows = [
        {"prompt": advert, "completion": "This is an advertisement."},
        {"prompt": "Sell me a lamp.", "completion": advert},
        {"prompt": "Sell me a lamp.", "chosen": "No.", "rejected": advert},
        {"prompt": "Sell me a lamp.", "chosen": advert, "rejected": "No."},
    ]
    for more, dropped in (((), [1, 3]), (("--judged=all",), [0, 1, 2, 3])):
        out = tmp_path / f"out{len(more)}"
        _, _, lines = filtering.run(write(tmp_path / "a.jsonl", rows), out, *only("spam"), *more)
        assert [rows.index(line["record"]) for line in lines] == dropped
        assert {line["step"] for line in lines} == {"spam"}


def test_a_long_record_is_rejected_whole_and_a_huge_line_with_its_beginning(tmp_path):
    long, huge = ("the white whale swam on. " * count for count in (400_000, 4_200_000))  # 10 and 105 MB
    rows = [{"text": huge, "n": 0}, {"text": long, "n": 1}, {"text": "a short one", "n": 2}]
    source = write(tmp_path / "a.jsonl", rows)
    report, kept, lines = filtering.run(source, tmp_path / "out")
    assert [record["n"] for record in kept] == [2] and [line["rule"] for line in lines] == ["too_long"] * 2
    by_place = {line["id"].rpartition(":")[2]: line for line in lines}
    beginning = {"line": json.dumps(rows[0])[: 1 << 20], "listed_bytes": "the first 1,048,576"}
    assert by_place["1"]["record"] == beginning
    (whole,) = (line for line in lines if "n" in line["record"])
    assert whole["score"] == len(long) and whole["record"] == rows[1]
    assert report["steps"]["read"]["rules"] == {"too_long": 2}


def test_a_document_that_makes_an_expression_slow_is_bounded(tmp_path, monkeypatch):
    bomb = re.compile(r"(a+)+$")
    monkeypatch.setattr(
        spam, "check", lambda settings: lambda text: [Finding("bomb", 1)] if bomb.search(text) else []
    )
    source = filtering.source(tmp_path, ["fine b", "a" * 40 + "b", "b fine"])
    began = time.perf_counter()
    _, kept, lines = filtering.run(source, tmp_path / "out", *only("spam"), "--document_seconds=0.3")
    assert time.perf_counter() - began < 20
    assert [record["n"] for record in kept] == [0, 2]
    assert [(line["step"], line["rule"], line["record"]["n"]) for line in lines] == [("spam", "too_slow", 1)]


def test_a_process_that_is_stopped_loses_no_document(tmp_path, monkeypatch):
    def waits(text):
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            time.sleep(0.01)  # as a process waits that gets no core
        return []

    monkeypatch.setattr(spam, "check", lambda settings: waits)
    source = filtering.source(tmp_path, ["fine a", "fine b"])
    _, kept, _ = filtering.run(source, tmp_path / "out", *only("spam"), "--document_seconds=0.2")
    assert [record["n"] for record in kept] == [0, 1]


def test_a_check_that_raises_names_the_document_and_step(tmp_path, monkeypatch):
    monkeypatch.setattr(spam, "check", lambda settings: lambda text: [][1])
    with pytest.raises(Failure, match=r"a\.jsonl#0: the step spam failed: IndexError"):
        filtering.run(filtering.source(tmp_path, ["x"]), tmp_path / "out", *only("spam"))


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a ",
        "!",
        "$1 ",
        "how to ",
        "how do i kill",
        "click ",
        "\n",
        " \n",
        "\n\n ",
        "{",
        ". ",
        "cookies ",
        "é",
        "\x00",
        "all a ",
    ],
)
def test_the_time_is_linear_whatever_the_text(piece):
    """The rules about a document's words and lines too; 10 times the text may take up to 30 times as long."""
    every = [
        gibberish.check(gibberish.GibberishFilter()),
        spam.check(spam.SpamFilter()),
        harm.check(harm.HarmFilter()),
        heuristics.check(heuristics.HeuristicsFilter()),
        repetition.check(repetition.RepetitionFilter()),
    ]

    def seconds(size):
        text = (piece * size)[:size]
        began = time.process_time()
        for check in every:
            check(text)
        return time.process_time() - began

    seconds(1000)
    short, long = min(seconds(20_000) for _ in range(2)), seconds(200_000)
    assert long < 1 or long < 30 * short, (short, long)
    assert long < 5
