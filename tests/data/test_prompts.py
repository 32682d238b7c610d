"""Prompts: from records of every format, distinct, with and without a template."""

import json

import pytest

from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.data import prompts
from jaxtrain.data.chat import load_template
from jaxtrain.data.tokenizer import ByteTokenizer
from tests.data.corpus import write
from tests.data.talk import pair, said, turns

KIND = ByteTokenizer()


def test_prompts_come_from_records_of_every_format(conversations, tmp_path, capsys):
    template = load_template("plain", KIND)
    other = {"prompt": "Q2", "chosen": "a", "rejected": "b", "family": "f"}
    sources = [
        write(tmp_path / "one.jsonl", [pair(0), pair(0), pair(1)]),
        write(tmp_path / "b.jsonl", [other]),
        write(tmp_path / "c.jsonl", [{"prompt": "Q3", "answer": "x"}]),
        write(tmp_path / "d.jsonl", [turns("Q4", "a", "Q5", "b"), turns("Q6", "a", "Q7")]),
    ]
    base = conversations([pair(0)], system="S")
    found = prompts.read_prompts(",".join(sources), base, template)
    start = "<|bos|>S\nHuman: "
    asked = ["Q0?", "Q1?", "Q2", "Q3", "Q4\nAI: a<|eos|>\nHuman: Q5", "Q6\nAI: a<|eos|>\nHuman: Q7"]
    assert [said(KIND, one.ids) for one in found] == [f"{start}{q}\nAI:" for q in asked]
    assert found[2].record == other and found[3].messages[1]["content"] == "Q3"
    assert len(prompts.read_prompts(sources[3], base, template, limit=1)) == 1
    broken = write(tmp_path / "e.jsonl", [{"prompt": 3}])
    with pytest.raises(ConfigError, match=r"e\.jsonl:1: no text: prompt is not a string but int"):
        prompts.read_prompts(broken, base, template)
    with pytest.raises(ConfigError, match=r"--prompts=.*: no prompt there \(1 bad records\)"):
        prompts.read_prompts(broken, conversations([pair(0)], on_bad_record="skip"), template)
    prompts.read_prompts(f"{broken},{sources[2]}", conversations([pair(0)], on_bad_record="skip"), template)
    assert f"--prompts: 1 bad records skipped, the first {tmp_path}/e.jsonl:1: " in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"--prompts=tinytown:nope: tinytown has no config 'nope'"):
        prompts.read_prompts("tinytown:nope", base, template)


def test_conversations_are_messages_up_to_their_last_answer(tmp_path):
    records = [
        turns("Q1", "A1", "Q2", "A2"),
        turns("Q3", "A3", "Q3") | {"n": 7},
        turns("Q5"),
        {"prompt": "Q4", "chosen": "a", "rejected": "b", "family": "f"},
    ]
    records[0]["messages"][0]["weight"] = 1
    records[2]["messages"].insert(0, {"role": "developer", "content": "S"})
    found = []
    for name, wanted in {"messages": [0, 1], "chosen": [3], "developer": [2]}.items():
        file = write(tmp_path / f"{name}.jsonl", [records[i] for i in (*wanted, *wanted)])
        found += prompts.read_conversations(file, "source", Dialogs(cache_dir=str(tmp_path / "cache")), 0)
    assert [one.answer for one in found] == ["A2", "", "", ""] and all(one.ids is None for one in found)
    assert [m["content"] for m in found[0].messages] == ["Q1", "A1", "Q2"]
    assert all(m.keys() == {"role", "content"} for one in found for m in one.messages)
    assert found[1].record["n"] == 7 and found[2].record["family"] == "f"
    assert found[1].name == f"jsonl:{tmp_path}/messages.jsonl record 1"
    assert [prompts.question(one.messages) for one in found] == ["Q2", "Q3", "Q4", "Q5"]
    assert found[3].messages[0] == {"role": "system", "content": "S"}


def test_conversations_of_no_user_are_refused_and_a_limit_ends_the_reading(tmp_path):
    alone = write(tmp_path / "a.jsonl", [{"messages": [{"role": "assistant", "content": "Hi."}]}])
    cfg = Dialogs(cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=r"a\.jsonl:1: no question: the conversation has no turn of a user"):
        prompts.read_conversations(alone, "source", cfg, 0)
    both = ",".join(write(tmp_path / f"{name}.jsonl", [pair(i) for i in range(9)]) for name in "bc")
    assert [one.answer for one in prompts.read_conversations(both, "source", cfg, 3)] == [
        "A0",
        "A1.",
        "A2..",
    ]
    assert len(prompts.read_conversations(both, "source", cfg, 0)) == 9


def test_bad_records_of_conversations_are_skipped_and_counted(tmp_path, capsys):
    lines = [{"messages": [{"role": "assistant", "content": "Hi."}]}, turns("Q", "A")]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines) + "{broken\n")
    cfg = Dialogs(cache_dir=str(tmp_path / "cache"), on_bad_record="skip")
    assert [
        one.answer for one in prompts.read_conversations(f"jsonl:{tmp_path}/a.jsonl", "source", cfg, 0)
    ] == ["A"]
    read, unusable = capsys.readouterr().err.splitlines()
    assert read.startswith("--source: 1 bad records skipped, listed in ")
    assert "--source: 1 bad records skipped, the first" in unusable and "a.jsonl:1: no question" in unusable


TOOL = {"type": "function", "function": {"name": "look"}}
TEMPLATE = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role[0] }}{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}a{% endif %}"
)


def test_tools_of_a_record_are_part_of_its_prompt(conversations, tmp_path, capsys):
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    file = write(tmp_path / "own.jsonl", [{"question": "q", "tools": [TOOL], "answer": 3, "level": 2}])
    cfg = conversations([pair(0)])
    (found,) = prompts.read_prompts(file, cfg, load_template(str(tmp_path / "t.jinja"), KIND))
    assert said(KIND, found.ids) == f"<|bos|>{json.dumps([TOOL])}uqa"
    assert found.template_kwargs == {"tools": [TOOL]} and found.record["answer"] == 3
    assert capsys.readouterr().err == ""
    plain, notes = load_template("plain", KIND), []
    prompts.read_prompts(file, cfg, plain, notes=notes)
    assert notes == [
        "not written by the chat template: tools (1)",
        "fields of records that no prompt has: answer (1), level (1)",
    ]
    prompts.read_prompts(file, cfg, plain)
    assert capsys.readouterr().err == "--prompts: not written by the chat template: tools (1)\n"
    with pytest.raises(
        ConfigError, match=r"own\.jsonl:1: tools: conversations with tools or tool calls are not read"
    ):
        prompts.read_conversations(file, "source", Dialogs(cache_dir=str(tmp_path / "cache")), 0)


def test_columns_name_the_prompt(conversations, tmp_path):
    file = write(tmp_path / "own.jsonl", [{"data": {"ask": "q"}, "answer": "x"}])
    cfg = conversations([pair(0)], columns="prompt:data.ask")
    (found,) = prompts.read_prompts(file, cfg, load_template("plain", KIND), flag="data", train=False)
    assert said(KIND, found.ids) == "<|bos|>Human: q\nAI:" and found.record["data"] == {"ask": "q"}
    other = write(tmp_path / "b.jsonl", [{"prompt": "p"}])
    assert len(prompts.read_prompts(other, cfg, load_template("plain", KIND))) == 1
    with pytest.raises(ConfigError, match=r"no field 'data.ask' in jsonl:.*, whose records have prompt"):
        prompts.read_prompts(other, cfg, load_template("plain", KIND), flag="data")


def test_plain_texts_have_no_prompts(conversations, tmp_path):
    texts = write(tmp_path / "t.jsonl", [{"text": "Once."}, {"text": "Twice."}])
    template, cfg = load_template("plain", KIND), conversations([pair(0)])
    assert prompts.read_prompts(texts, cfg, template, required=False) == []
    both = f"{texts},{write(tmp_path / 'own.jsonl', [pair(1)])}"
    assert len(prompts.read_prompts(both, cfg, template, required=False)) == 1
    with pytest.raises(ConfigError, match="fields text; known formats: messages"):
        prompts.read_prompts(texts, cfg, template)


def test_what_files_leave_out_is_said_with_the_list_of_bad_records(conversations, tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "Q", "prompt": "R"}\n' + '{"prompt": 5}\n' * 3 + '{"prompt": "cut\n' * 2)
    cfg = conversations(f"jsonl:{path}", on_bad_record="skip")
    assert len(prompts.read_prompts(f"jsonl:{path}", cfg, load_template("plain", KIND))) == 1
    err = capsys.readouterr().err
    assert "--prompts: 2 bad records skipped, listed in " in err
    assert "--prompts: records with a key twice, of which the last value counts: 1" in err
    said = f"--prompts: 3 bad records skipped, the first {path}:2: no text: prompt is not a string but int"
    listed = next(line for line in err.splitlines() if line.startswith(said)).rpartition("; listed in ")[2]
    with open(listed, encoding="utf-8") as file:
        assert [json.loads(line)["where"] for line in file] == [f"{path}:{i}" for i in (2, 3, 4)]
