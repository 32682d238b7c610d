"""Packed conversations: what is learnt, what is cut, what is counted, and the same in every process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import dialogs, source_spec, sources
from jaxtrain.data.chat import load_template
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.files import cache
from tests.data.talk import chatml, pair, said, shown, turns

COLUMNS = {"tokens", "targets", "mask", "segments", "positions", "row", "bytes"}
KIND = ByteTokenizer()


def prepare(conversations, *, kind=KIND, template="plain", seed=0, local_rows=np.arange):
    return dialogs.prepare(
        conversations,
        seed=seed,
        tokenizer=kind,
        template=load_template(template, kind),
        local_rows=local_rows,
    )


def documents(batch, kind=KIND):
    """Each packed document with « » around what is learnt."""
    for row, segments in enumerate(batch["segments"]):
        for number in range(1, segments.max() + 1):
            at = segments == number
            ids = [batch["tokens"][row][at][0], *batch["targets"][row][at]]
            assert batch["tokens"][row][at].tolist() == ids[:-1]
            assert batch["positions"][row][at].tolist() == list(range(at.sum()))
            yield shown(kind, ids, [0, *batch["mask"][row][at]])


def everything(made):
    """All documents that are held out and, in one epoch, trained on."""
    found = [one for batch in made.eval for one in documents(batch)]
    sizes = [value for name, value in made.table if name.startswith("train") and " rows of " in value]
    rows = int(sizes[0].split(" ")[0].replace(",", ""))
    stream = [made.train.batch(i) for i in range(-(-rows // 4))]
    flat = {name: np.concatenate([batch[name] for batch in stream])[:rows] for name in stream[0]}
    return found + list(documents(flat))


def said_of(made, side="train"):
    return "; ".join(value for name, value in made.table if name.startswith(side))


def test_rows_hold_every_conversation_whole_and_learn_the_answers(conversations):
    made = prepare(conversations([pair(i) for i in range(60)]))
    wanted = [f"<|bos|>Human: Q{i}?\nAI:« A{i}{'.' * (i % 8)}<|eos|>»" for i in range(60)]
    assert sorted(everything(made)) == sorted(wanted)
    batch = made.train.batch(3)
    assert batch.keys() == COLUMNS and batch["tokens"].shape == (4, 64)
    assert (batch["mask"][batch["segments"] == 0] == 0).all()
    assert "format instruction" in said_of(made) and "nothing cut, dropped or added" in said_of(made)
    assert batch["bytes"].tolist() == [
        len("".join(said(KIND, row[mask > 0]).replace("<|eos|>", "") for row, mask in [one]))
        for one in zip(batch["targets"], batch["mask"], strict=True)
    ]
    assert made.fingerprints.keys() == {"data", "eval_data", "tokenizer", "template", "grain"}
    assert load_template("auto", made.tokenizer).source == load_template("plain", KIND).source


def test_every_turn_is_learnt_and_a_system_message_goes_before(conversations):
    own = {"messages": [{"role": "system", "content": "S"}, *turns("a", "b")["messages"]]}
    records = [turns("Hi?", "Yo.", "Why?", "So.", "unanswered"), own] * 4
    made = prepare(conversations(records, seq_len=200, system="Be kind."), kind=chatml(), template="chatml")
    long = (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
        "«Yo.<|im_end|>»\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n«So.<|im_end|>»"
    )
    found = [one for i in range(4) for one in documents(made.train.batch(i), chatml())]
    short = long.split("\n<|im_start|>user\nWhy")[0]
    for old, new in (("Be kind.", "S"), ("Hi?", "a"), ("Yo.", "b")):
        short = short.replace(old, new)
    assert set(found) == {long, short}
    assert "turns after the last answer left out" in said_of(made)


def test_texts_are_learnt_whole_and_go_on_in_the_next_row(conversations):
    long = "".join(chr(97 + i % 26) for i in range(150))
    made = prepare(conversations([{"text": f"t{i}"} for i in range(30)] + [{"text": long}, {"text": " "}]))
    found = everything(made)
    assert "<|bos|>«t3<|eos|>»" in found and len([one for one in found if "cdefgh" in one]) == 3
    assert "1 texts cut into rows" in said_of(made) + said_of(made, "held out")
    assert "1 empty texts dropped" in said_of(made) + said_of(made, "held out")


FIRST = "<|bos|>Human: " + "q" * 20 + "\nAI:« " + "a" * 20 + "<|eos|>»"
LEFT = "<|bos|>" + "q" * 28 + "\nAI:« " + "a" * 30 + "<|eos|>»"
CUT = "1 conversations longer than --seq_len lost their last turns; 1 answers in those turns"
SHORTENED, LONG = "1 prompts lost their beginning", "1 conversations dropped: they do not fit --seq_len"
FILLED = "1 prompts fill the context by themselves"
# A row of 64 targets takes BOS and 64 ids; the answer's space and EOS are two of them.
LIMITS = {
    "later turns": (turns("q" * 20, "a" * 20, "r" * 20, "b"), FIRST, CUT),
    "a prompt": (turns("p" + "q" * 60, "a" * 30), LEFT, f"{SHORTENED}; {FILLED}"),
    "both": (turns("q" * 70, "a" * 30, "r", "b"), LEFT, f"{CUT}; {SHORTENED}; {FILLED}"),
    "an answer": (turns("q", "a" * 62), None, LONG),
    "almost": (turns("q", "a" * 61), "<|bos|>:« " + "a" * 61 + "<|eos|>»", SHORTENED),
}


@pytest.mark.parametrize("name", LIMITS)
def test_what_is_too_long_is_cut_but_never_an_answer(conversations, name):
    record, kept, counted = LIMITS[name]
    held = conversations([pair(1)], "held").data
    fine = turns("x", "y")
    made = prepare(conversations([fine, record], eval_data=held))
    found = {one for one in documents(made.train.batch(0))}
    assert found == {"<|bos|>Human: x\nAI:« y<|eos|>»", kept} - {None}
    assert said_of(made).split("; ", 2)[2].startswith(f"{counted}; an epoch")
    dropped = prepare(conversations([fine, record], eval_data=held, too_long="drop"))
    assert {one for one in documents(dropped.train.batch(0))} == {"<|bos|>Human: x\nAI:« y<|eos|>»"}
    assert "1 conversations dropped: they do not fit --seq_len" in said_of(dropped)


def test_counts_add_up_and_bad_records_are_listed(conversations, tmp_path):
    silent = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "train": False}]
    records = [turns(f"q{i}", f"a{i}") for i in range(20)]
    records += [turns("q", ""), turns("q"), {"messages": [{"role": "robot", "content": "x"}]}, {"other": 1}]
    records += [turns("q", "a" * 90), {"messages": silent}, json.dumps(turns("q", "\ud83d"))]
    held = conversations([turns("q", "a")], "held").data
    with pytest.raises(ConfigError, match=r"a\.jsonl:21: empty completion: .*--on_bad_record=skip"):
        prepare(conversations(records, eval_data=held))
    made = prepare(conversations(records, eval_data=held, on_bad_record="skip"))
    table = said_of(made)
    assert "20 of 27 conversations" in table and "1 conversations dropped: they do not fit" in table
    assert "1 conversations dropped: nothing of them is in the loss" in table
    kinds = "1 empty completion, 1 no assistant turn, 1 unknown role, 1 other fields, 1 no text"
    assert f"5 bad records skipped ({kinds}), listed in " in table
    with open(table.split("listed in ")[1].split(";")[0], encoding="utf-8") as file:
        listed = [json.loads(line) for line in file]
    assert [one["where"].split(":")[-1] for one in listed] == ["21", "22", "23", "24", "27"]
    assert listed[2]["reason"].startswith("unknown role: messages[0] has 'robot'")
    assert len({one for i in range(5) for one in documents(made.train.batch(i))}) == 20


def test_many_bad_records_are_a_line_each(conversations):
    kinds = [{"messages": 3}, {"messages": [{"role": "x"}]}, {"other": 1}, {"messages": [{"role": "user"}]}]
    records = [turns("q", "a"), *(kinds[i % 4] for i in range(400))]
    held = conversations([turns("q", "a")], "held").data
    table = said_of(prepare(conversations(records, eval_data=held, on_bad_record="skip")))
    assert "1 of 401 conversations" in table
    assert (
        "400 bad records skipped (100 no messages, 100 unknown role, 100 other fields, 100 no text)" in table
    )
    with open(table.split("listed in ")[1].split(";")[0], encoding="utf-8") as file:
        assert [int(json.loads(line)["where"].split(":")[-1]) for line in file] == list(range(2, 402))


def test_nothing_left_names_what_was_dropped(conversations):
    held = conversations([turns("q", "a")], "held").data
    with pytest.raises(
        ConfigError, match=r"no conversation left of 1: 1 conversations dropped: they do not fit"
    ):
        prepare(conversations([turns("q", "a" * 90)], eval_data=held))
    with pytest.raises(ConfigError, match=r"--eval_data=jsonl:.*fields a; known formats: messages"):
        prepare(conversations([turns("q", "a")], eval_data=conversations([{"a": 1}], "b").data))


def test_fields_that_were_not_used_are_listed(conversations):
    held = conversations([pair(1)], "held").data
    records = [pair(i) | {"category": "qa", "id": None} for i in range(3)] + [pair(4) | {"context": "c"}]
    made = prepare(conversations(records, eval_data=held))
    table = said_of(made)
    assert "fields not used: category (3); nothing else cut, dropped or added" in table
    plain = prepare(conversations(records[:3], "b", eval_data=held))
    assert plain.fingerprints["data"] != made.fingerprints["data"]


def test_what_new_fields_add_changes_the_fingerprint_and_nothing_else_does(conversations):
    cfg = conversations([pair(i) for i in range(9)])
    (source,) = source_spec.parse(cfg.data)
    records, held = sources.train_and_held_out(source, cfg, None)
    template = load_template("plain", KIND)
    marks = [
        cache.digest(
            1,
            one.fingerprint,
            KIND.fingerprint,
            template.fingerprint,
            "instruction",
            "",
            "",
            "cut",
            64,
            "raise",
        )
        for one in (records, held)
    ]  # as the first version had them, so that its runs can be resumed
    made = prepare(cfg)
    assert made.fingerprints["data"] == cache.digest(marks[0])
    assert made.fingerprints["eval_data"] == cache.digest(marks[1])


def test_history_is_context_and_said(conversations):
    records = [pair(i) | {"history": [["x", "y"]], "system": "S"} for i in range(3)]
    made = prepare(conversations(records, seq_len=128, eval_data=conversations([pair(1)], "held").data))
    assert "3 answers, " in said_of(made) and "3 other answers are part of prompts" in said_of(made)
    found = {one for one in documents(made.train.batch(0))}
    assert "<|bos|>S\nHuman: x\nAI: y<|eos|>\nHuman: Q2?\nAI:« A2..<|eos|>»" in found


def test_columns_name_the_fields_of_the_sources_that_have_them(conversations, tmp_path):
    held = conversations([pair(1)], "held").data
    records = [{"data": {"q": f"Q{i}", "n": 1}, "gold": f"A{i}"} for i in range(4)]
    columns = "prompt:data.q,completion:gold"
    made = prepare(conversations(records, columns=columns, eval_data=held))
    assert {"<|bos|>Human: Q2\nAI:« A2<|eos|>»"} <= {one for one in documents(made.train.batch(0))}
    assert "fields not used: data.n (4)" in said_of(
        made
    ) and f"--columns: {', '.join(columns.split(','))}" in (said_of(made))
    assert "--columns: none; not in these records: prompt:data.q" in said_of(made, "held out")
    mixed = conversations(records, "b").data + "," + conversations([pair(i) for i in range(4)], "c").data
    assert "--columns: none; not in these records" in said_of(
        prepare(conversations(mixed, columns=columns, eval_data=held))
    )
    with pytest.raises(
        ConfigError, match=r"no field 'data.nope' in jsonl:.* have data, data.q, data.n, gold"
    ):
        prepare(conversations(records, columns="prompt:data.nope,completion:gold", eval_data=held))
    with pytest.raises(ConfigError, match="write OURS:THEIRS"):
        source_spec.check(conversations(records, columns="prompt", eval_data=held))
    with pytest.raises(ConfigError, match=r"no format has a field 'promt' \(did you mean prompt\?\)"):
        prepare(conversations(records, columns="promt:data.q", eval_data=held))
    with pytest.raises(ConfigError, match=r"fields data, gold; known formats: .*--columns=prompt:THEIRS"):
        prepare(conversations(records, eval_data=held))


def jinja(tmp_path, text):
    (tmp_path / "t.jinja").write_text(text)
    return str(tmp_path / "t.jinja")


CALLS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}Q{{ m.content }}{% elif m.tool_calls %}"
    "A{% for c in m.tool_calls %}{{ c | tojson }}{% endfor %}{{ eos_token }}{% else %}A{{ m.content }}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}A{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks."}}


def test_tools_go_to_the_template_and_what_it_does_not_write_is_said(conversations, tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "look", "arguments": {"g": 1}}]}
    records = [{"messages": [{"role": "user", "content": f"q{i}"}, call], "tools": [TOOL]} for i in range(3)]
    cfg = conversations(records, seq_len=256, eval_data=conversations([turns("q", "a")], "held").data)
    made = prepare(cfg, template=jinja(tmp_path, CALLS))
    assert '<|bos|>Qq1A«{"name": "look", "arguments": {"g": 1}}<|eos|>»' in set(
        documents(made.train.batch(0))
    )
    assert "not written by the chat template: tools (3)" in said_of(made) and "nothing" not in said_of(made)
    knows = CALLS.replace("{{ bos_token }}", "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}")
    made = prepare(cfg, template=jinja(tmp_path, knows))
    assert f"<|bos|>{json.dumps([TOOL])}Qq1A«" in "".join(documents(made.train.batch(0)))
    assert "nothing cut, dropped or added" in said_of(made)
    with pytest.raises(ConfigError, match=r"a\.jsonl:1: lost tool call: .* no place for a call of 'look'"):
        prepare(cfg)


LAST = (  # a thought only in the last turn
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}Q{{ m.content }}{% else %}A"
    "{% if loop.last and m.thinking %}<think>{{ m.thinking }}</think>{% endif %}{{ m.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}A{% endif %}"
)


def test_a_conversation_that_the_template_rewrites_becomes_a_row_an_answer(conversations, tmp_path):
    def thinks(i, second):
        record = turns(f"q{i}", "a", second, "b")
        for message in record["messages"][1::2]:
            message["thinking"] = "hm"
        return record

    held = conversations([turns("q", "a")], "held").data
    records = [thinks(i, "r") for i in range(3)] + [turns("q", "a")]
    made = prepare(conversations(records, eval_data=held), template=jinja(tmp_path, LAST))
    table = said_of(made)
    assert "4 of 4 conversations, 7 answers" in table
    assert "3 conversations became several rows" in table and "6 rows of those" in table
    assert {
        "<|bos|>Qq1A«<think>hm</think>a<|eos|>»",
        "<|bos|>Qq1Aa<|eos|>QrA«<think>hm</think>b<|eos|>»",
    } <= {one for i in range(3) for one in documents(made.train.batch(i))}
    long = [thinks(0, "r" * 80), thinks(1, "r")]
    made = prepare(conversations(long, "long", eval_data=held), template=jinja(tmp_path, LAST))
    assert "1 prompts lost their beginning" in said_of(made)
    dropped = prepare(
        conversations(long, "long", eval_data=held, too_long="drop"), template=jinja(tmp_path, LAST)
    )
    assert "2 of 2 conversations, 3 answers" in said_of(dropped)
    assert "1 conversations dropped: they do not fit" in said_of(dropped)


def test_trees_are_put_together_before_some_are_held_out(conversations):
    rows = []
    for i in range(20):
        rows += [{"message_id": f"q{i}", "parent_id": None, "text": f"q{i}", "role": "prompter"}]
        rows += [
            {"message_id": f"{n}{i}", "parent_id": f"q{i}", "text": f"{n}{i}", "role": "assistant", "rank": r}
            for r, n in enumerate("ab")
        ]
    made = prepare(conversations(rows, eval_share=0.2))
    found = everything(made)
    wanted = [f"<|bos|>Human: q{i}\nAI:« {n}{i}<|eos|>»" for i in range(20) for n in "ab"]
    assert sorted(found) == sorted(wanted)
    held = {one.split("Human: ")[1].split("\n")[0] for batch in made.eval for one in documents(batch)}
    read, kept = len(wanted) - 2 * len(held), 20 - len(held)
    assert f"format tree: {read} of {read} conversations in {kept} trees" in said_of(made)


def test_end_tokens_that_the_template_lacks_are_counted(conversations):
    held = conversations([turns("q", "a")], "held").data
    made = prepare(
        conversations([turns("q", "a", "r", "b")] * 3, eval_data=held, seq_len=256), template="chatml"
    )
    assert "6 answers had no end token in the template: EOS added" in said_of(made)
    assert ("template", "chatml; <|eos|> ends an answer") in made.table


def test_processes_share_batches_and_a_resumed_stream_goes_on(conversations):
    base = conversations([pair(i) for i in range(90)])
    whole = prepare(base).train.batch(5)
    for of in ([0, 3], [1, 2, 3]):
        part = prepare(base, local_rows=lambda rows, of=of: np.array(of)).train.batch(5)
        assert all((part[k] == whole[k][of]).all() for k in whole)
    resumed = next(prepare(base).train.iterate(5))
    assert all((resumed[k] == whole[k]).all() for k in whole)
    assert any((prepare(base, seed=1).train.batch(5)[k] != whole[k]).any() for k in whole)


SCRIPT = """
import hashlib, sys
from jaxtrain.config import Dialogs
from jaxtrain.data import chat, dialogs, preferences, tokenizer
kind = tokenizer.ByteTokenizer()
given = dict(seed=0, tokenizer=kind, template=chat.load_template("plain", kind))
found = []
for make, data in ((dialogs, "sft"), (preferences, "preferences")):
    data = f"tinytown:{data}?documents=60&held_out=8"
    made = make.prepare(Dialogs(data=data, batch_size=4, cache_dir=sys.argv[1]), **given)
    batches = [made.train.batch(7), made.eval.batch(0)]
    found.append([sorted((k, hashlib.sha1(v.tobytes()).hexdigest()) for k, v in b.items()) for b in batches])
    found.append(made.fingerprints)
print(found)
"""


def test_another_process_makes_the_same_batches_to_the_bit(tmp_path, monkeypatch, capsys):
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "a")]
    theirs = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / "b")])
    exec(SCRIPT, {})
    ours = capsys.readouterr().out
    assert theirs == ours and len(ours) > 500
