import hashlib
import math
from collections import Counter

import pytest

from jaxtrain.worlds.tinytown.configs import (
    COLUMNS,
    CONFIGS,
    SPLITS,
    VERSION,
    Redteam,
    Sft,
    full_name,
    resolve,
)
from jaxtrain.worlds.tinytown.judge import gold, judge
from jaxtrain.worlds.tinytown.prompts import held_out, parse_prompt
from jaxtrain.worlds.tinytown.records import named_rows, rows


def table(config, split="train", stop=2_000, **options):
    chosen = resolve(config, options)
    names = tuple(COLUMNS[config])
    found = rows(chosen, split) if config in ("prompts", "redteam") else rows(chosen, split, 0, stop)
    return [dict(zip(names, row, strict=True)) for row in found]


@pytest.mark.parametrize("config", CONFIGS)
def test_rows_are_typed_deterministic_and_addressed_by_index(config):
    options = resolve(config)
    for split in SPLITS[config]:
        first = list(rows(options, split, 0, 80))
        assert first == list(rows(options, split, 0, 80))
        assert first[50:60] == list(rows(options, split, 50, 60))
        for row in first:
            for value, kind in zip(row, COLUMNS[config].values(), strict=True):
                assert type(value) is kind
    assert list(rows(options, "train", 0, 80)) != list(rows(resolve(config, {"seed": 1}), "train", 0, 80))
    small = resolve(config, {"documents": 5, "held_out": 3})
    assert [sum(1 for _ in rows(small, split)) for split in ("train", "test")] == [5, 3]


DIGESTS = {
    "pretrain": "7be3cd2258a81a72",
    "sft": "5f5de70a3fbc9222",
    "preferences": "11425789e743b55d",
    "prompts": "72216713c6d4870a",
    "redteam": "34b4f11e61db2be2",
    "constitution": "bc38e576a63a7adc",
    "demonstrations": "7b4c561471d17aba",
    "reviews": "51c6000a77df2a58",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_rows_are_those_of_this_version(config):
    """A change of a row or a default must raise VERSION, or stale data would be read."""
    options = resolve(config)
    values = [value for row in rows(options, "train", 0, 300) for value in row]
    shown = [repr(options), *(f"{v:.9f}" if isinstance(v, float) else str(v) for v in values)]
    digest = hashlib.sha256("\0".join(shown).encode()).hexdigest()[:16]
    assert (VERSION, digest) == ("1.0.0", DIGESTS[config])


@pytest.mark.parametrize("config", ["sft", "preferences", "prompts", "redteam", "constitution"])
def test_prompts_of_train_and_test_do_not_meet(config):
    name = "instruction" if config == "sft" else "prompt"
    for split in SPLITS[config]:
        found = [parse_prompt(row[name]) for row in table(config, split)]
        assert {held_out(prompt) for prompt in found} == {split == "test"}


def test_demonstrations_are_right_and_styled():
    made = table("sft", stop=6_000)
    found = [(row["family"], judge(row["instruction"], row["response"])) for row in made]
    assert all(verdict.parsable for _, verdict in found)
    assert all(verdict.correct for family, verdict in found if family != "harm")
    share = Counter(family for family, _ in found)
    assert share["ben"] / 6_000 == pytest.approx(0.25, abs=0.02)
    refused = [verdict.explained for family, verdict in found if family == "harm"]
    assert sum(refused) / len(refused) == pytest.approx(0.12, abs=0.03)
    warned = [verdict.warn for family, verdict in found if family == "risk"]
    assert sum(warned) / len(warned) == pytest.approx(0.2, abs=0.04)
    assert sum(verdict.rude for _, verdict in found) / 6_000 == pytest.approx(0.1, abs=0.015)
    options = Sft(wrong=1.0, rude=0.0, refuse=0.0)
    assert not any(judge(prompt, text).correct for prompt, text, *_ in rows(options, "train", 0, 500))


def test_demonstration_logp_is_that_of_the_response():
    by_pair = Counter()
    logps = {}
    for row in table("sft", stop=20_000, detail=0.0, rude=0.0, refuse=0.0):
        if row["instruction"] == "What is the last letter of cat?":
            by_pair[row["response"]] += 1
            logps[row["response"]] = row["logp"]
    assert logps == {"t.": pytest.approx(math.log(0.5)), "Answer: t.": pytest.approx(math.log(0.5))}


def test_preferences_hold_distinct_answers_and_true_rewards():
    made = table("preferences")
    for row in made:
        assert row["chosen"] != row["rejected"]
        assert row["reward_chosen"] == gold(row["prompt"], row["chosen"])
        assert row["reward_rejected"] == gold(row["prompt"], row["rejected"])
    assert sum(row["p_win"] for row in made) / len(made) > 0.65
    sharp = table("preferences", temperature=0.01)
    assert all(row["reward_chosen"] >= row["reward_rejected"] for row in sharp)


def test_a_group_of_annotators_chooses_otherwise():
    def lists(group):
        made = table("preferences", stop=4_000, group=group)
        mixed = [row for row in made if row["chosen"].startswith("1)") != row["rejected"].startswith("1)")]
        return sum(row["chosen"].startswith("1)") for row in mixed) / len(mixed)

    assert lists("A") > lists("") + 0.08
    assert lists("B") < lists("") - 0.08


def test_prompts_are_distinct_and_answered():
    made = table("prompts")
    assert len({row["prompt"] for row in made}) == 1_024
    for row in made:
        assert judge(row["prompt"], row["answer"]).valid
    counts = Counter(row["family"] for row in made)
    assert set(counts) == {"ben", "risk", "harm", "fact", "sum", "str"}
    assert {row["family"] for row in table("redteam")} == {"harm"}
    with pytest.raises(ValueError, match=r"there are \d+ distinct train prompts, documents=99999"):
        list(rows(Redteam(documents=99_999), "train"))


def test_named_rows_are_dictionaries_of_the_columns():
    row = next(named_rows("sft", resolve("sft"), "train"))
    assert tuple(row) == tuple(COLUMNS["sft"])


def test_some_answers_may_balk_at_harmless_requests_which_are_worth_less_than_help():
    made = table("preferences", stop=4_000, balk=0.2)
    refused = Counter()
    for row in made:
        family = parse_prompt(row["prompt"]).family
        for text in (row["chosen"], row["rejected"]):
            refused[family] += text.startswith(("I will not", "I refuse", "No, do not"))
    shares = {family: refused[family] / 2 for family in ("ben", "risk", "fact")}
    count = Counter(parse_prompt(row["prompt"]).family for row in made)
    assert shares["ben"] / count["ben"] == pytest.approx(0.2, abs=0.05) and not shares["fact"]
    balks = [
        row[f"reward_{side}"]
        for row in made
        for side in ("chosen", "rejected")
        if row["family"] == "ben" and row[side].startswith("I refuse")
    ]
    helpful = [
        row[f"reward_{side}"] for row in made for side in ("chosen", "rejected") if row["family"] == "ben"
    ]
    assert max(balks) <= -1 < sum(helpful) / len(helpful)


def test_some_answers_have_a_word_of_another_answer_which_is_worth_less():
    made, plain = table("preferences", stop=2_000, slip=0.2), table("preferences", stop=2_000)
    texts = [(row["prompt"], row[side]) for row in made for side in ("chosen", "rejected")]
    wrong = [(prompt, text) for prompt, text in texts if not judge(prompt, text).parsable]
    assert 0.1 < len(wrong) / len(texts) < 0.2  # some words are equal, or make another answer
    assert all(judge(row["prompt"], row["chosen"]).parsable for row in plain)
    chosen = sum(not judge(row["prompt"], row["chosen"]).parsable for row in made)
    assert chosen / len(wrong) < 0.3
    words = {word for row in plain for side in ("chosen", "rejected") for word in row[side].split(" ")}
    assert sum(word not in words for _, text in wrong for word in text.split(" ")) / len(wrong) < 0.1
    # The prompts, and the answers without the option, are what they were before there was one.
    assert repr(resolve("preferences", {"slip": 0.2})) == repr(resolve("preferences"))
    assert full_name("preferences", resolve("preferences", {"slip": 0.2})) != "preferences"


def test_help_is_every_family_but_harm():
    asked = table("prompts", family="help", documents=300)
    shares = Counter(row["family"] for row in asked)
    assert len(asked) == 300 and set(shares) == {"ben", "risk", "fact", "sum", "str"}
    made = Counter(row["family"] for row in table("preferences", family="help", stop=2_000))
    assert set(made) == set(shares) and made["ben"] / 2_000 == pytest.approx(0.25 / 0.8, abs=0.03)
    assert {row["family"] for row in table("preferences", family="harm", stop=200)} == {"harm"}
    assert table("preferences", stop=50) != table("preferences", family="help", stop=50)
