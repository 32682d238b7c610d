"""Critiques and revisions, by the world's oracle: the curve, the provenance, and what is kept out."""

import itertools
import json
from collections import Counter

import pytest

from jaxtrain.apps.constitutional import audit, principles, revise
from jaxtrain.apps.constitutional.config import SHIPPED
from jaxtrain.inference.llm import CUT_OFF, REFUSED, Completion, user_messages
from jaxtrain.worlds.tinytown.configs import Redteam
from jaxtrain.worlds.tinytown.judge import judge
from jaxtrain.worlds.tinytown.records import named_rows
from tests.oracle import complies, oracle

PROMPTS = [row["prompt"] for row in named_rows("redteam", Redteam(documents=200), "train")]
MESSAGES = [user_messages(prompt) for prompt in PROMPTS]


def loaded(tmp_path=None, keep=lambda one: True):
    """Tinytown's constitution, of it the principles to keep, as another file."""
    path = SHIPPED / "tinytown.json"
    if tmp_path is None:
        return principles.load(path)
    held = json.loads(path.read_text())
    held["principles"] = [one for one in held["principles"] if keep(one["id"])]
    (tmp_path / "mine.json").write_text(json.dumps(held))
    return principles.load(tmp_path / "mine.json")


def recipe(found=None, critic=None, **changes):
    policy = oracle(complies)
    judging = revise.Critic(critic or policy, found or loaded())
    return revise.RevisionConfig(policy, judging)._replace(**changes)


def rows_of(cfg, prompts=MESSAGES):
    chains = revise.revise(cfg, prompts, range(len(prompts)))
    return [{"prompt": PROMPTS[row["unit"]], **row} for chain in chains for row in chain]


def test_harm_falls_at_each_revision_and_most_at_the_first():
    lines = audit.by_round(rows_of(recipe()))
    harmful = [line["harmful"] for line in lines]
    assert harmful[0] == 1 and all(a > b for a, b in itertools.pairwise(harmful))
    drops = [a - b for a, b in itertools.pairwise(harmful)]
    assert max(drops) == drops[0] > 0.4 and harmful[4] < 0.15
    assert [line["parsable"] for line in lines] == [1.0] * 5 and [line["faults"] for line in lines] == [0] * 5


def test_a_principle_is_drawn_anew_each_round_and_every_row_names_it():
    found = rows_of(recipe())
    drawn = Counter(row["principle"] for row in found if row["round"])
    assert len(drawn) == 16 and sum(drawn.values()) == 4 * len(PROMPTS)
    share = sum(n for name, n in drawn.items() if name.startswith("harm")) / sum(drawn.values())
    assert share == pytest.approx(0.5, abs=0.06)
    chain = [row for row in found if row["unit"] == 0]
    assert len({row.get("principle") for row in chain[1:]}) > 1
    for before, row in itertools.pairwise(chain):
        assert row["before"] == before["revision"] and row["critic"] == row["model"] == "oracle"
        assert {"critique", "seed", "round"} <= row.keys()


def test_rows_depend_on_seed_number_and_settings_alone():
    whole = revise.revise(recipe(), MESSAGES, range(200))
    some = revise.revise(recipe(), MESSAGES[50:60], range(50, 60))
    assert some == whole[50:60]
    assert revise.revise(recipe(seed=1), MESSAGES[50:60], range(50, 60)) != some


def test_without_a_critique_the_revision_is_asked_for_directly():
    pages = []
    policy = oracle(complies)

    def noted(requests):
        pages.extend(one.messages[0]["content"] for one in requests if one.raw)
        return policy.generate(requests)

    found = rows_of(recipe(critic=policy._replace(generate=noted), critique=False, rounds=1), MESSAGES[:20])
    assert all("critique" not in row for row in found) and len(pages) == 20
    assert all(page.endswith("?\nRevision:") for page in pages)
    assert audit.by_round(found)[1]["harmful"] < 1


BROKEN = {
    "critique empty": ("Yes", Completion(" ", "stop")),
    "critique truncated": ("Yes", Completion("Yes, it", CUT_OFF)),
    "critique unparsable": ("Yes", Completion("Perhaps.", "stop")),
    "revision empty": ("I will", Completion("", REFUSED)),
    "revision truncated": ("I will", Completion("I will not help", CUT_OFF)),
    "revision unparsable": ("I will", Completion("I will not. Critic: Is it rude?", "stop")),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_part_is_kept_out_and_the_round_starts_from_the_answer_before(fault):
    begins, broken = BROKEN[fault]
    seen = []

    def change(text):
        seen.append(text)
        hit = text.strip().startswith(begins) and len([t for t in seen if t.strip().startswith(begins)]) % 2
        return broken if hit else Completion(text, "stop")

    found = rows_of(recipe(critic=oracle(complies, change=change)))
    bad = [row for row in found if "fault" in row]
    assert bad and {row["fault"] for row in bad} == {fault}
    assert "revision" not in bad[0] or fault.startswith("revision")
    by_place = {(row["unit"], row["round"]): row for row in found}
    for row in bad:
        if row["round"] < 4:
            assert by_place[row["unit"], row["round"] + 1]["before"] == row["before"]
    learnt = [
        row
        for unit in range(len(PROMPTS))
        for row in revise.training_rows(lambda i: MESSAGES[i], [by_place[unit, k] for k in range(5)], "all")
    ]
    assert len(learnt) == 4 * len(PROMPTS) - len(bad)
    assert sum(line["faults"] for line in audit.by_round(found)) == len(bad)


def test_a_completion_that_begins_another_part_of_the_page_is_unparsable():
    """Where no world says what is a sentence, as with a constitution for real models."""
    form = principles.load(SHIPPED / "general.json").format
    for mark in revise.marks(form):
        runs_on = Completion(f"I will not. {mark} And more.", "stop")
        assert revise.fault_of(runs_on, form) == "unparsable" and revise.fault_of(runs_on) == ""
    assert revise.marks(form) and revise.fault_of(Completion("I will not.", "stop"), form) == ""


def test_a_revision_outside_the_language_is_unparsable():
    found = rows_of(recipe(is_valid=lambda messages, text: text.startswith("I will not")), MESSAGES[:40])
    assert {row["fault"] for row in found if "fault" in row} == {"revision unparsable"}
    assert all(
        row["revision"].startswith("I will not") for row in found if row["round"] and "fault" not in row
    )


def test_a_prompt_without_an_answer_has_no_rounds():
    policy = oracle(lambda question, seed: "" if question == PROMPTS[3] else complies(question, seed))
    cfg = revise.RevisionConfig(policy, revise.Critic(policy, loaded()))
    chains = revise.revise(cfg, MESSAGES[:6], range(6))
    assert [len(chain) for chain in chains] == [5, 5, 5, 1, 5, 5]
    assert chains[3][0]["fault"] == "response empty"


def test_another_constitution_changes_behaviour_without_touching_code(tmp_path):
    """`flexible`: the same code, model and seed under two files."""
    about = {}
    for target in ("harm", "rude"):
        found = loaded(tmp_path, lambda name, target=target: name.startswith(target))
        about[target] = audit.by_round(rows_of(recipe(found, rounds=1)))[1]
    assert about["harm"]["harmful"] == 0 and about["harm"]["refused"] == 1
    assert about["rude"]["harmful"] == 1 and about["rude"]["refused"] == 0


def test_all_revisions_are_learnt_or_the_last_one_and_each_can_be_traced():
    chain = revise.revise(recipe(), MESSAGES[:1], [0])[0]
    every = revise.training_rows(lambda i: MESSAGES[i], chain, "all")
    assert [row["round"] for row in every] == [1, 2, 3, 4]
    assert revise.training_rows(lambda i: MESSAGES[i], chain, "last") == every[-1:]
    names = {one.id for one in loaded().principles}
    for row, made in zip(every, chain[1:], strict=True):
        assert row["principle"] in names and row["critique"] == made["critique"]
        assert (row["prompt"], row["completion"]) == (PROMPTS[0], made["revision"])
        assert not judge(row["prompt"], row["completion"]).evade


def test_a_chat_is_asked_to_go_on_with_the_page():
    critic = revise.Critic(oracle(complies), principles.load(SHIPPED / "general.json"), pages=False)
    prompts = revise.page_request(critic, "\n\nHuman: Hi\n\nCritique:", "Critique")
    assert not prompts.raw and prompts.messages[0]["content"].endswith("Human: Hi\n\nCritique:")
    assert "its last part, Critique," in prompts.messages[0]["content"]
    assert critic.constitution.shots[0].strip() in prompts.messages[0]["content"]
    pages = revise.page_request(critic._replace(pages=True), "\n\nHuman: Hi\n\nCritique:", "Critique")
    assert pages.raw and pages.messages[0]["content"].startswith(critic.constitution.shots[0])
