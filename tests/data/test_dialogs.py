"""Packed conversations: what is learnt, what is cut, what is counted, and the same in every process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import dialogs
from jaxtrain.data.chat import load_template
from jaxtrain.data.tokenizer import ByteTokenizer
from tests.data.talk import chatml, pair, said, shown, turns

COLUMNS = {"tokens", "targets", "mask", "segments", "positions", "row", "bytes"}
KIND = ByteTokenizer()


def prepare(conversations, *, kind=KIND, template="plain", seed=0, process=(0, 1)):
    return dialogs.prepare(
        conversations, seed=seed, tokenizer=kind, template=load_template(template, kind), process=process
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
    with pytest.raises(ConfigError, match=r"a.jsonl record 20: empty completion: .*--on_bad_record=skip"):
        prepare(conversations(records, eval_data=held))
    made = prepare(conversations(records, eval_data=held, on_bad_record="skip"))
    table = said_of(made)
    assert "20 of 27 conversations" in table and "1 conversations dropped: they do not fit" in table
    assert "1 conversations dropped: nothing of them is in the loss" in table
    kinds = "1 empty completion, 1 no assistant turn, 1 unknown role, 1 other fields, 1 no text"
    assert f"5 bad records skipped ({kinds}), listed in " in table
    with open(table.split("listed in ")[1].split(";")[0], encoding="utf-8") as file:
        listed = [json.loads(line) for line in file]
    assert [one["where"].split(" ")[-1] for one in listed] == ["20", "21", "22", "23", "26"]
    assert listed[2]["reason"].startswith("unknown role: messages[0] has 'robot'")
    assert len({one for i in range(5) for one in documents(made.train.batch(i))}) == 20


def test_nothing_left_names_what_was_dropped(conversations):
    held = conversations([turns("q", "a")], "held").data
    with pytest.raises(
        ConfigError, match=r"no conversation left of 1: 1 conversations dropped: they do not fit"
    ):
        prepare(conversations([turns("q", "a" * 90)], eval_data=held))
    with pytest.raises(ConfigError, match=r"--eval_data=jsonl:.*fields a; known formats: messages"):
        prepare(conversations([turns("q", "a")], eval_data=conversations([{"a": 1}], "b").data))


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
    parts = [prepare(base, process=(p, 2)).train.batch(5) for p in range(2)]
    assert all((np.concatenate([part[k] for part in parts]) == whole[k]).all() for k in whole)
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
