"""Stored completions as rows: whose tokens are whose, what is left out, and what is counted."""

import numpy as np
import pytest

from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.data.chat import load_template
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.distillation import logprob_data
from tests.data.corpus import write

KIND = ByteTokenizer()


def token(text, logp=-0.5, **others):
    tops = [{"token": t, "bytes": list(t.encode()), "logprob": x} for t, x in ((text, logp), *others.items())]
    return {"token": text, "bytes": list(text.encode()), "logprob": logp, "top_logprobs": tops}


def stored(tokens, question="Hi?", reason="stop", **changes):
    text = "".join(one["token"] for one in tokens)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": reason,
        "logprobs": {"content": tokens},
    }
    record = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice | changes]}
    return record | {"input": [{"role": "user", "content": question}]}


@pytest.fixture
def cfg(tmp_path):
    def make(records, **changes):
        options = {"seq_len": 48, "batch_size": 2, "cache_dir": str(tmp_path / "cache"), "eval_share": 0.5}
        return Dialogs(data=write(tmp_path / "stored.jsonl", records), **(options | changes))

    return make


def prepare(cfg):
    return logprob_data.prepare(cfg, seed=0, tokenizer=KIND, template=load_template("plain", KIND))


def one_row(record, template="plain"):
    (row,) = logprob_data.LogprobReader(load_template(template, KIND), 48).read(record)
    return row


def ids(text):
    return KIND.encode([text])[0].tolist()


def test_each_token_has_its_teachers_log_probabilities():
    row = one_row(stored([token("Y", -0.25, N=-1.5), token("o", -0.125, a=-3.0, zz=-2.0)]))
    text = [*ids(" Yo")][-len(row.completion) + 1 :]
    assert row.completion.tolist() == [*text, KIND.eos]
    at = len(text) - 2
    assert row.ids[at, :3].tolist() == [*ids("Y"), *ids("N"), -1]
    np.testing.assert_allclose(row.logps[at, :2], [-0.25, -1.5])
    # zz is no token of the student's: its mass is among the others.
    assert row.ids[at + 1, :3].tolist() == [*ids("o"), *ids("a"), -1]
    assert (row.ids[-1] == -1).all()  # the API has no token for the end


def test_an_end_in_the_record_is_read_and_may_be_an_alternative():
    record = stored([token("Y"), token("o")])
    end = {"token": "<|eos|>", "bytes": [], "logprob": -0.5, "top_logprobs": []}
    content = record["choices"][0]["logprobs"]["content"]
    content[1]["top_logprobs"].append(end | {"logprob": -2.5})
    content.append(end)
    row = one_row(record)
    assert row.ids[-1, :2].tolist() == [KIND.eos, -1] and row.logps[-1, 0] == -0.5
    assert row.ids[-2, :3].tolist() == [*ids("o"), KIND.eos, -1] and row.logps[-2, 1] == -2.5
    content[-1] = end | {"token": "<|bos|>"}
    assert (one_row(record).ids[-1] == -1).all(), "another token is not the end"


def test_the_token_that_stands_there_is_among_them_once():
    entry = token("Y", -4.0, N=-0.1)
    entry["top_logprobs"] = entry["top_logprobs"][1:]
    row = one_row(stored([entry, token("o")]))
    row = row.ids[row.completion.tolist().index(ids("Y")[0])]
    assert row[row >= 0].tolist() == [*ids("Y"), *ids("N")]


def test_tokens_that_are_cut_elsewhere_are_trained_on_as_they_are_and_counted():
    reader = logprob_data.LogprobReader(load_template("plain", KIND), 48)
    (row,) = reader.read(stored([token("Yo"), token("!")]))
    with_logps = (row.ids >= 0).any(-1)
    assert [KIND.decode([i]) for i in row.completion[with_logps]] == ["!"]
    assert reader.counts["cut elsewhere"] >= 2 and reader.counts["with logprobs"] == 1


def test_white_space_that_a_template_puts_in_front_is_no_obstacle():
    for lead in ("", " "):
        row = one_row(stored([token(f"{lead}Y"), token("o")]))
        assert KIND.decode([row.completion[(row.ids >= 0).any(-1)][-1]]) == "o"


def test_rows_are_prompts_and_completions_with_the_loss_on_these(cfg):
    data = prepare(cfg([stored([token("Y", -0.25), token("o")], question=f"Hi {i}?") for i in range(8)]))
    batch = data.train.batch(0)
    assert batch["teacher_ids"].shape == (2, 48, logprob_data.MOST)
    for row in range(2):
        in_loss = batch["mask"][row] > 0
        assert KIND.decode(batch["targets"][row][in_loss]).strip() == "Yo"
        with_logps = (batch["teacher_ids"][row] >= 0).any(-1)
        assert KIND.decode(batch["targets"][row][with_logps]) == "Yo" and not (with_logps & ~in_loss).any()
        assert (batch["teacher_ids"][row][with_logps][:, 0] == batch["targets"][row][with_logps]).all()
    lines = dict(reversed(data.table))
    assert any("of 8 the" in line for line in lines.values()) or any(
        " stored completions" in x for x in lines.values()
    )


def test_what_cannot_be_trained_on_is_left_out_and_counted(cfg):
    good = [stored([token("Y"), token("o")], question=f"Q{i}") for i in range(6)]
    cut = stored([token("Y")], reason="length")
    bare = stored([token("Y")], logprobs=None)
    data = prepare(cfg([*good, cut, cut, bare], eval_data="", eval_share=0.34))
    lines = " ".join(line for _, line in data.table)
    assert "2 completions cut off by their limit left out" in lines or "1 completions cut off" in lines
    assert "1 completions without log-probabilities left out" in lines


def test_an_answer_without_the_log_probabilities_of_its_thought_or_calls_is_left_out():
    for more in (
        {"reasoning_content": "Hm."},
        {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
    ):
        record = stored([token("Y")])
        record["choices"][0]["message"] |= more
        reader = logprob_data.LogprobReader(load_template("plain", KIND), 48)
        assert [*reader.read(record)] == [] and reader.counts["speaks"] == 1


@pytest.mark.parametrize(
    "logprobs",
    [
        5,
        [],
        {"content": 5},
        {"content": [5]},
        {"content": [{"token": "Y"}]},
        {"content": [token("Y") | {"logprob": True}]},
        {"content": [token("Y") | {"logprob": 10**400}]},
        {"content": [token("Y") | {"bytes": [256]}]},
        {"content": [token("Y") | {"bytes": "Y"}]},
        {"content": [token("Y") | {"top_logprobs": [None]}]},
        {"content": [token("Y") | {"top_logprobs": 5}]},
    ],
)
def test_log_probabilities_that_are_none_make_a_bad_record(cfg, logprobs):
    good = [stored([token("a")]) for _ in range(3)]
    two = stored([token("Y")])
    two["choices"] = [good[0]["choices"][0], two["choices"][0] | {"logprobs": logprobs}]
    data = prepare(cfg([*good, two], on_bad_record="skip", eval_data=cfg(good[:1]).data))
    lines = " ".join(line for _, line in data.table)
    assert "1 bad records skipped, the first" in lines and "stored.jsonl:4: no log-probability: " in lines
    # Nothing of it is used or counted.
    assert "3 of 3 stored completions" in lines
    with pytest.raises(ConfigError, match=r"stored\.jsonl:4: no log-probability: "):
        prepare(cfg([*good, two], eval_data=cfg(good[:1]).data))


def test_tokens_that_are_no_text_are_left_out_and_counted(cfg):
    half = token("é", -0.5) | {"token": "\ufffd", "bytes": [0xC3]}
    data = prepare(cfg([stored([token("a"), half]), *(stored([token("b")]) for _ in range(3))]))
    assert "1 completions whose tokens are no UTF-8" in " ".join(line for _, line in data.table)


def test_data_without_log_probabilities_names_the_remedy(cfg):
    bare = stored([token("Y")], logprobs=None)
    with pytest.raises(ConfigError, match=r"no completion with log-probabilities among 1 .*top_logprobs=20"):
        prepare(cfg([bare, bare]))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"id": "x"}, "no choices"),
        (stored([token("Y")]) | {"input": None}, "no messages"),
        (stored([token("Y")], message=None), "no message"),
        (stored([token("Y")], message={"role": "assistant", "content": "No"}), "other tokens"),
        (stored([{"token": "Y"}]), "no log-probability"),
    ],
)
def test_a_record_that_is_none_is_named_or_counted(cfg, record, reason):
    records = [stored([token("Y")], question=f"{i}") for i in range(4)] + [record] * 4
    with pytest.raises(ConfigError, match=reason):
        prepare(cfg(records))
    data = prepare(cfg(records, on_bad_record="skip"))
    assert any("bad records skipped, the first " in line and reason in line for _, line in data.table)


def test_a_prompt_too_long_loses_its_beginning_or_is_left_out(cfg):
    long = [stored([token("Y")], question="Why? " * 30 + str(i)) for i in range(8)]
    data = prepare(cfg(long))
    assert any("prompts lost their beginning" in line for _, line in data.table)
    with pytest.raises(ConfigError, match="do not fit --seq_len"):
        prepare(cfg(long, too_long="drop"))


def test_one_completion_is_trained_on_with_a_warning(cfg):
    once = cfg([stored([token("A")]), stored([token("B")], question="Ho?")], batch_size=8)
    warnings = [text for name, text in prepare(once).table if name == "warning"]
    assert any("has 1 row, so that a batch has each 8.0 times" in text for text in warnings)
