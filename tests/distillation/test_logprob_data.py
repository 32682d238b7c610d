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


def kept(tokens, asked="Hi?", reason="stop", **changes):
    text = "".join(one["token"] for one in tokens)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": reason,
        "logprobs": {"content": tokens},
    }
    record = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice | changes]}
    return record | {"input": [{"role": "user", "content": asked}]}


@pytest.fixture
def cfg(tmp_path):
    def make(records, **changes):
        options = {"seq_len": 48, "batch_size": 2, "cache_dir": str(tmp_path / "cache"), "eval_share": 0.5}
        return Dialogs(data=write(tmp_path / "kept.jsonl", records), **(options | changes))

    return make


def prepare(cfg):
    return logprob_data.prepare(cfg, seed=0, tokenizer=KIND, template=load_template("plain", KIND))


def one_row(record, template="plain"):
    (found,) = logprob_data.LogprobReader(load_template(template, KIND), 48).read(record)
    return found


def ids(text):
    return KIND.encode([text])[0].tolist()


def test_each_token_has_what_its_teacher_thought_of_it():
    found = one_row(kept([token("Y", -0.25, N=-1.5), token("o", -0.125, a=-3.0, zz=-2.0)]))
    text = [*ids(" Yo")][-len(found.completion) + 1 :]
    assert found.completion.tolist() == [*text, KIND.eos]
    at = len(text) - 2
    assert found.ids[at, :3].tolist() == [*ids("Y"), *ids("N"), -1]
    np.testing.assert_allclose(found.logps[at, :2], [-0.25, -1.5])
    # zz is no token of the student's: its mass is among the others.
    assert found.ids[at + 1, :3].tolist() == [*ids("o"), *ids("a"), -1]
    assert (found.ids[-1] == -1).all()  # the API says nothing of the end


def test_an_end_that_is_told_is_heard_and_may_be_an_alternative():
    record = kept([token("Y"), token("o")])
    end = {"token": "<|eos|>", "bytes": [], "logprob": -0.5, "top_logprobs": []}
    content = record["choices"][0]["logprobs"]["content"]
    content[1]["top_logprobs"].append(end | {"logprob": -2.5})
    content.append(end)
    found = one_row(record)
    assert found.ids[-1, :2].tolist() == [KIND.eos, -1] and found.logps[-1, 0] == -0.5
    assert found.ids[-2, :3].tolist() == [*ids("o"), KIND.eos, -1] and found.logps[-2, 1] == -2.5
    content[-1] = end | {"token": "<|bos|>"}
    assert (one_row(record).ids[-1] == -1).all(), "another token at the end says nothing of it"


def test_the_token_that_stands_there_is_among_them_once():
    entry = token("Y", -4.0, N=-0.1)
    entry["top_logprobs"] = entry["top_logprobs"][1:]
    found = one_row(kept([entry, token("o")]))
    row = found.ids[found.completion.tolist().index(ids("Y")[0])]
    assert row[row >= 0].tolist() == [*ids("Y"), *ids("N")]


def test_tokens_that_are_cut_elsewhere_are_learnt_as_they_are_and_counted():
    reader = logprob_data.LogprobReader(load_template("plain", KIND), 48)
    (found,) = reader.read(kept([token("Yo"), token("!")]))
    spoken = (found.ids >= 0).any(-1)
    assert [KIND.decode([i]) for i in found.completion[spoken]] == ["!"]
    assert reader.counts["cut elsewhere"] >= 2 and reader.counts["heard"] == 1


def test_white_space_that_a_template_puts_in_front_is_no_obstacle():
    for lead in ("", " "):
        found = one_row(kept([token(f"{lead}Y"), token("o")]))
        assert KIND.decode([found.completion[(found.ids >= 0).any(-1)][-1]]) == "o"


def test_rows_are_prompts_and_completions_with_the_loss_on_these(cfg):
    made = prepare(cfg([kept([token("Y", -0.25), token("o")], asked=f"Hi {i}?") for i in range(8)]))
    batch = made.train.batch(0)
    assert batch["teacher_ids"].shape == (2, 48, logprob_data.MOST)
    for row in range(2):
        learnt = batch["mask"][row] > 0
        assert KIND.decode(batch["targets"][row][learnt]).strip() == "Yo"
        spoken = (batch["teacher_ids"][row] >= 0).any(-1)
        assert KIND.decode(batch["targets"][row][spoken]) == "Yo" and not (spoken & ~learnt).any()
        assert (batch["teacher_ids"][row][spoken][:, 0] == batch["targets"][row][spoken]).all()
    lines = dict(reversed(made.table))
    assert any("of 8 the" in line for line in lines.values()) or any(
        " stored completions" in x for x in lines.values()
    )


def test_what_cannot_be_learnt_from_is_left_out_and_counted(cfg):
    good = [kept([token("Y"), token("o")], asked=f"Q{i}") for i in range(6)]
    cut = kept([token("Y")], reason="length")
    bare = kept([token("Y")], logprobs=None)
    made = prepare(cfg([*good, cut, cut, bare], eval_data="", eval_share=0.34))
    said = " ".join(line for _, line in made.table)
    assert "2 completions cut off by their limit left out" in said or "1 completions cut off" in said
    assert "1 completions without log-probabilities left out" in said


def test_tokens_that_are_no_text_are_left_out_and_counted(cfg):
    half = token("é", -0.5) | {"token": "\ufffd", "bytes": [0xC3]}
    made = prepare(cfg([kept([token("a"), half]), *(kept([token("b")]) for _ in range(3))]))
    assert "1 completions whose tokens are no UTF-8" in " ".join(line for _, line in made.table)


def test_data_without_log_probabilities_names_the_remedy(cfg):
    bare = kept([token("Y")], logprobs=None)
    with pytest.raises(ConfigError, match=r"no completion with log-probabilities among 1 .*top_logprobs=20"):
        prepare(cfg([bare, bare]))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"id": "x"}, "no choices"),
        (kept([token("Y")]) | {"input": None}, "no messages"),
        (kept([token("Y")], message=None), "no message"),
        (kept([token("Y")], message={"role": "assistant", "content": "No"}), "other tokens"),
        (kept([{"token": "Y"}]), "no log-probability"),
    ],
)
def test_a_record_that_is_none_is_named_or_counted(cfg, record, reason):
    records = [kept([token("Y")], asked=f"{i}") for i in range(4)] + [record] * 4
    with pytest.raises(ConfigError, match=reason):
        prepare(cfg(records))
    made = prepare(cfg(records, on_bad_record="skip"))
    assert any("bad records skipped, the first " in line and reason in line for _, line in made.table)


def test_a_prompt_too_long_loses_its_beginning_or_is_left_out(cfg):
    long = [kept([token("Y")], asked="Why? " * 30 + str(i)) for i in range(8)]
    made = prepare(cfg(long))
    assert any("prompts lost their beginning" in line for _, line in made.table)
    with pytest.raises(ConfigError, match="do not fit --seq_len"):
        prepare(cfg(long, too_long="drop"))
