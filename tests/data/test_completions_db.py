"""Stored completions as training data: our server's file, exports, filters, and what is left out."""

import json
import sqlite3

import pytest

from jaxtrain.apps.serve.store import CompletionStore, export
from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.data import chat, dialogs, prompts, record_formats, source_spec, sources, token_bytes
from jaxtrain.data.messages import BadRecord
from jaxtrain.data.tokenizer import ByteTokenizer

ASKED = [
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Eh?"},
    {"role": "user", "content": "Hi!"},
]


def choice(text, finish="stop"):
    message = {"role": "assistant", "content": text, "refusal": None, "tool_calls": None}
    return {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}


def completion(i, *choices, model="big", **more):
    found = {
        "id": f"c{i}",
        "object": "chat.completion",
        "created": i,
        "model": model,
        "metadata": {},
        "input": ASKED,
    }
    return found | {"choices": list(choices or [choice(f"Yo {i}.")])} | more


ROWS = [
    completion(0),
    completion(1, choice("A."), choice("cut of", "length"), choice("B.")),
    completion(2, model="small"),
    completion(3, metadata={"topic": "boats", "lang-code": "en"}),
    completion(4, choice("cut", "length"), metadata={"topic": "boats"}),
]


@pytest.fixture
def database(tmp_path):
    held = CompletionStore(tmp_path / "kept")
    for row in ROWS:
        held.add(row).result()
    yield tmp_path / "kept"
    held.close()


def read(text, tmp_path, **options):
    cfg = Dialogs(data=text, cache_dir=str(tmp_path / "cache"), **options)
    source_spec.check(cfg)
    source = source_spec.parse(text)[0]
    records = sources.all_of(source, cfg, None)
    return source, records


def answers(text, tmp_path):
    source, records = read(text, tmp_path)
    form = record_formats.detect(records, source, record_formats.chat("text"))
    assert form.name == "stored"
    return [
        record_formats.read(record, form).messages[-1]["content"]
        for record in records.many(range(len(records)))
    ]


@pytest.mark.parametrize("kind", ["database", "export"])
def test_a_store_is_read_a_choice_a_record(database, tmp_path, kind):
    path = database
    if kind == "export":
        path = tmp_path / "any.name"
        assert export(database, path) == 5
    source = f"store:{path}"
    assert answers(source, tmp_path) == ["Yo 0.", "A.", "B.", "Yo 2.", "Yo 3."]
    assert answers(f"{source}?model=big", tmp_path) == ["Yo 0.", "A.", "B.", "Yo 3."]
    assert answers(f"{source}?metadata.topic=boats&metadata.lang-code=en", tmp_path) == ["Yo 3."]
    _, records = read(f"{source}?model=big", tmp_path)
    assert records.notes == (
        "1 completions without model=big left out",
        "2 choices that were cut off (finish_reason length) left out",
    )
    assert records[1]["choices"][0]["message"]["content"] == "A." and len(records[1]["choices"]) == 1
    marks = {read(f"{source}{more}", tmp_path)[1].fingerprint for more in ("", "?model=big", "?model=small")}
    assert len(marks) == 3


def test_what_is_read_is_the_state_when_it_was_opened(database, tmp_path):
    _, before = read(f"store:{database}", tmp_path)
    held = CompletionStore(database)
    held.add(completion(9)).result()
    held.delete("c0").result()
    _, after = read(f"store:{database}", tmp_path)
    held.close()
    assert (before[0]["id"], after[0]["id"], after[len(after) - 1]["id"]) == ("c0", "c1", "c9")
    assert before.fingerprint != after.fingerprint


def test_only_the_answer_is_learnt(database, tmp_path):
    cfg = Dialogs(
        data=f"store:{database}", cache_dir=str(tmp_path / "cache"), seq_len=64, batch_size=2, eval_share=0.2
    )
    tokenizer = ByteTokenizer()
    template = chat.load_template("plain", tokenizer)
    made = dialogs.prepare(cfg, seed=0, tokenizer=tokenizer, template=template)
    batch = made.train.batch(0)
    learnt = {
        tokenizer.decode(row[mask > 0]).strip()
        for row, mask in zip(batch["targets"], batch["mask"], strict=True)
    }
    assert all(set(text.replace(" ", "")) <= set("Yo0123.AB") for text in learnt), learnt
    lines = [line for _, line in made.table]
    assert any("format stored" in line for line in lines)
    assert sum("2 choices that were cut off" in line for line in lines) == 2, "of either side"


FILTERED = [
    completion(0, choice("Sorry, FIL", "content_filter")),
    completion(1, choice("Yes.", None)),
    completion(2, choice("Wei", "error")),
    completion(
        3, {"message": {"role": "assistant", "content": None, "refusal": "No."}, "finish_reason": "stop"}
    ),
    completion(4, choice("Cut", "length")),
]


def test_completions_that_are_not_whole_are_left_out_and_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in FILTERED))
    assert answers(f"store:{tmp_path}/a.jsonl", tmp_path) == ["Yes."]
    _, records = read(f"store:{tmp_path}/a.jsonl", tmp_path)
    assert records.notes == (
        "1 choices that were not whole (finish_reason content_filter) left out",
        "1 choices that were not whole (finish_reason error) left out",
        "1 choices that were refused (refusal without content) left out",
        "1 choices that were cut off (finish_reason length) left out",
    )
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(one) + "\n" for one in FILTERED[:1]))
    with pytest.raises(
        ConfigError, match=r"no completion left; 1 choices that were not whole .*content_filter"
    ):
        read(f"store:{tmp_path}/b.jsonl", tmp_path)


def test_tool_calls_and_thoughts_of_an_answer_are_whole(tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}, "id": "c"}
    message = {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "audio": None}
    thought = {"role": "assistant", "content": "4", "reasoning_content": "2+2"}
    rows = [
        completion(
            0, {"message": message, "finish_reason": "tool_calls"}, request={"tools": [{"name": "f"}]}
        ),
        completion(1, {"message": thought, "finish_reason": "stop"}),
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    source, records = read(f"store:{tmp_path}/a.jsonl", tmp_path)
    form = record_formats.detect(records, source, record_formats.chat("text"))
    called, thinks = (record_formats.read(one, form) for one in records.many([0, 1]))
    assert called.messages[-1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert called.template_kwargs == {"tools": [{"name": "f"}]}
    assert thinks.messages[-1] == thought and thinks.template_kwargs == {}


def test_a_page_of_the_api_is_its_completions(tmp_path):
    page = {"object": "list", "has_more": False, "data": [ROWS[0], ROWS[1]]}
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(page), json.dumps(ROWS[2])]) + "\n")
    assert answers(f"store:{tmp_path}/a.jsonl", tmp_path) == ["Yo 0.", "A.", "B.", "Yo 2."]
    bare = {"object": "list", "data": [{k: v for k, v in ROWS[0].items() if k != "input"}] * 3}
    (tmp_path / "b.jsonl").write_text(json.dumps(bare) + "\n")
    with pytest.raises(BadRecord, match=r"no messages: it has no input, messages or request.messages"):
        answers(f"store:{tmp_path}/b.jsonl", tmp_path)


def test_its_prompts_can_be_asked_again(database, tmp_path):
    template = chat.load_template("plain", ByteTokenizer())
    found = prompts.read_prompts(f"store:{database}", Dialogs(cache_dir=str(tmp_path / "cache")), template)
    assert [one.messages[-1]["content"] for one in found] == ["Hi!"]


@pytest.mark.parametrize("key", ["input", "messages", "request"])
def test_exports_of_other_servers(tmp_path, key):
    row = {
        "choices": [choice("Yo.")],
        "model": "gpt",
        key: {"messages": ASKED} if key == "request" else ASKED,
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    for kind in ("store", "jsonl"):
        source = source_spec.parse(f"{kind}:{tmp_path}/a.jsonl")[0]
        _, records = read(f"{kind}:{tmp_path}/a.jsonl", tmp_path)
        form = record_formats.detect(records, source, record_formats.chat("text"))
        found = record_formats.read(records[0], form).messages
        assert [m["content"] for m in found] == ["Hi?", "Eh?", "Hi!", "Yo."]
        assert [m.get("train", True) for m in found] == [False, False, False, True]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (completion(0, input=None), "no messages: it has no input, messages or request.messages"),
        (completion(0, choices=[]), "not one choice"),
        (completion(0, choices=[{"finish_reason": "stop"}]), "no assistant turn"),
        (completion(0, choice("a"), choice("b")), "read stored completions as store:PATH"),
        (
            completion(0, choice("a", "length")),
            r"no whole answer: cut off \(finish_reason length\); read as store:PATH",
        ),
        (completion(0, choice(None)), "no text|not a string"),
        (completion(0, choice(" ")), "empty completion"),
    ],
)
def test_rows_without_what_is_needed(row, words):
    form = next(one for one in record_formats.CHAT if one.name == "stored")
    with pytest.raises(BadRecord, match=words):
        record_formats.read(row, form)


def test_sources_that_cannot_be(database, tmp_path):
    for text, words in {
        f"store:{database}?model=none": r"5 completions without model=none left out; its models are big \(4\)",
        f"store:{database}?colour=red": r"no option 'colour'; it has model, field, format, tokens, metadata.KEY",
        f"store:{tmp_path}/nothing": "no file matches",
        f"store:{database}:test": "no file matches|no split",
    }.items():
        with pytest.raises(ConfigError, match=words):
            read(text, tmp_path)
    foreign = tmp_path / "foreign"
    db = sqlite3.connect(foreign)
    db.execute("CREATE TABLE t (x)")
    db.commit()
    db.close()
    with pytest.raises(ConfigError, match=r"foreign: not a store of ./launch/run serve"):
        read(f"store:{foreign}", tmp_path)


@pytest.mark.parametrize(
    ("token", "wanted"), [("Ġwest", b" west"), ("Ã©", "é".encode()), ("Ġ", b" "), ("世", "世".encode())]
)
def test_bytes_of_byte_level_tokens(token, wanted):
    assert token_bytes.byte_level(token) == wanted


@pytest.mark.parametrize(("token", "wanted"), [("▁a", b" a"), ("<0x0A>", b"\n"), ("##ing", b"ing")])
def test_bytes_of_visible_tokens(token, wanted):
    assert token_bytes.visible(token) == wanted
