"""Comparisons as token ids: what fits, what is dropped and counted, and rankings as pairs."""

import pytest

from jaxtrain.config import ConfigError
from tests.data.comparisons import better, prepare, said_of, texts


def test_both_completions_keep_the_same_end_of_the_prompt(comparisons):
    records = [better("p" + "q" * 60, "a" * 20, "b" * 5), better("q", "a" * 44, "b"), better("x", "y", "z")]
    made = prepare(comparisons(records, held=[better("a", "b", "c")]))
    # 48 less " " + 20 + EOS leaves 26 for the prompt, BOS and 25 others.
    prompt = "<|bos|>" + "q" * 21 + "\nAI:"
    assert texts(made.rows[0]) == [
        (f"{prompt} {'a' * 20}<|eos|>", f" {'a' * 20}<|eos|>"),
        (f"{prompt} bbbbb<|eos|>", " bbbbb<|eos|>"),
    ]
    assert made.rows[0]["length"][0] == 48
    assert made.train_rows == 3 and texts(made.rows[1])[0][0] == "<|bos|>: " + "a" * 44 + "<|eos|>"
    table = said_of(made)
    assert "prompts lost their beginning" in table and "1 prompts fill the context by themselves" in table
    dropped = prepare(comparisons(records, held=[better("a", "b", "c")], too_long="drop"))
    assert dropped.train_rows == 1 and "2 rows dropped: their completions do not fit" in said_of(dropped)


def test_what_is_dropped_is_counted(comparisons):
    records = [better("q", f"a{i}", "b") for i in range(5)]
    records += [better("q", "a", "a"), better("q", "a" * 60, "b"), better("q", "", "b"), {"text": "x"}]
    records += [{"prompt": "q", "response_a": "a", "response_b": "b", "preferred": "c"}]
    held = [better("a", "b", "c")]
    with pytest.raises(ConfigError, match=r"a\.jsonl:8: empty completion: chosen holds nothing"):
        prepare(comparisons(records, held=held))
    table = said_of(prepare(comparisons(records, held=held, on_bad_record="skip")))
    assert "5 of 10 records used, in 5 rows" in table
    assert "1 records dropped: chosen and rejected are the same" in table
    assert "1 rows dropped: their completions do not fit --seq_len" in table
    assert "3 bad records skipped (2 other fields, 1 empty completion), listed in " in table
    with pytest.raises(ConfigError, match="no comparison left of 1 records: 1 records dropped: chosen and"):
        prepare(comparisons([better("q", "a", "a")], held=held))
    bad = [{"prompt": "q", "response_a": "a", "response_b": "b", "preferred": "c"}]
    with pytest.raises(
        ConfigError, match=r"a\.jsonl:1: unknown preference: preferred is 'c', not a, b or tie"
    ):
        prepare(comparisons(bad, held=held))


RANKED = [
    {"prompt": "q", "completions": ["d", "a", "b", "c"], "ranking": [3, 1, 2, 2]},
    {"prompt": "r", "completions": ["a", "b", "a"], "ranking": [1, 2, 1]},
]


def test_a_ranking_is_all_its_pairs(comparisons):
    made = prepare(comparisons(RANKED[:1], held=[better("a", "b", "c")]))
    found = [(*(text[1] for _, text in texts(made.rows[i])), made.rows[i]["prefer"][0, 1]) for i in range(6)]
    wanted = [("a", "b", 1), ("a", "c", 1), ("a", "d", 1), ("b", "c", 0.5), ("b", "d", 1), ("c", "d", 1)]
    assert found == wanted and made.train_rows == 6
    assert {made.fields(i)["prompt"] for i in range(6)} == {"q"}


def test_system_context_and_own_names_are_part_of_the_prompt_and_the_rest_is_listed(comparisons):
    records = [
        {"system": "S", "question": f"q{i}", "context": "c", "chosen": "a", "rejected": "b", "rating": 5}
        for i in range(3)
    ]
    made = prepare(comparisons(records))
    prompt = "<|bos|>S\nHuman: q1\n\nc\nAI:"
    assert texts(made.rows[1]) == [
        (f"{prompt} a<|eos|>", " a<|eos|>"),
        (f"{prompt} b<|eos|>", " b<|eos|>"),
    ]
    assert "fields not used: rating (3); nothing else cut, dropped or added" in said_of(made)
    renamed = [{"in": {"q": "x", "n": 1}, "best": "a", "worst": "b"}] * 2
    columns = "prompt:in.q,chosen:best,rejected:worst"
    made = prepare(comparisons(renamed, columns=columns))
    assert texts(made.rows[0])[0] == ("<|bos|>Human: x\nAI: a<|eos|>", " a<|eos|>")
    assert "fields not used: in.n (2)" in said_of(made) and "--columns: prompt:in.q, " in said_of(made)
    assert made.fields(0) == renamed[0], "the record as it is"
    with pytest.raises(
        ConfigError, match=r"--columns=prompt:nope: no field 'nope' in .* have in, in.q, in.n, best"
    ):
        prepare(comparisons(renamed, columns="prompt:nope"))


THINKS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}Q{{ m.content }}{% else %}A"
    "{% if m.thinking %}({{ m.thinking }}){% endif %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A{% endif %}"
)


def test_thoughts_of_completions_are_learnt_or_said_to_be_lost(comparisons, tmp_path):
    thought = [{"role": "assistant", "content": "a", "thinking": "hm"}]
    cfg = comparisons([better("q", thought, "b"), better("r", "a", "b")])
    (tmp_path / "t.jinja").write_text(THINKS)
    made = prepare(cfg, template=str(tmp_path / "t.jinja"))
    assert [text for _, text in texts(made.rows[0])] == ["(hm)a<|eos|>", "b<|eos|>"]
    assert "nothing cut, dropped or added" in said_of(made)
    assert "not written by the chat template: thoughts (1)" in said_of(prepare(cfg))


def test_trees_give_their_ranked_replies(comparisons):
    rows = [{"message_id": "q", "parent_id": None, "text": "q", "role": "prompter"}]
    rows += [
        {"message_id": n, "parent_id": "q", "text": n, "role": "assistant", "rank": r}
        for r, n in enumerate("abc")
    ]
    rows += [{"message_id": "r", "parent_id": None, "text": "r", "role": "prompter"}]
    made = prepare(comparisons(rows), kind="ranked")
    assert [text for _, text in texts(made.rows[0])] == [" a<|eos|>", " b<|eos|>", " c<|eos|>"]
    assert "1 of 1 messages with ranked replies (in 2 trees) used, in 1 rows" in said_of(made)
    assert "1 trees without a message that has two ranked replies" in said_of(made)
    with pytest.raises(
        ConfigError, match="no comparison left of 1 records: 1 trees without a message that has"
    ):
        prepare(comparisons(rows[-1:]))
