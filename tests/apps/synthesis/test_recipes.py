"""Rows of each kind from models whose replies are known, and what keeps a row out."""

import collections
import json
import re

import pytest

from jaxtrain.apps.synthesis import prompts, recipes, screening
from jaxtrain.apps.synthesis.recipes import DraftRow, RowFilter, SynthesisConfig
from jaxtrain.data.prompts import Prompt
from jaxtrain.inference import llm_judge
from jaxtrain.inference.llm import CUT_OFF, FILTERED, LLM, REFUSED, Completion, Usage
from jaxtrain.rewards import functions


class Model:
    """A model: reply(ask, number of the sample, number of the request with this text) -> text or Reply."""

    def __init__(self, reply, name="model", chat=True):
        self.reply, self.asks, self.counts = reply, [], collections.Counter()
        self.generator = LLM(name, self.generate, chat, Usage())

    def generate(self, asks):
        self.asks += asks
        return [[self.one(ask, g) for g in range(ask.samples)] for ask in asks]

    def one(self, ask, g):
        text = ask.messages[-1]["content"]
        found = self.reply(ask, g, self.counts[text])
        self.counts[text] += 1
        return found if isinstance(found, Completion) else Completion(found, "stop")


def recipe(kind, generator, expert=None, style=prompts.INSTRUCT, **more):
    return SynthesisConfig(kind, style, generator.generator, (expert or generator).generator, **more)


def passing(near=1.1, **more):
    usual = {"min_chars": 1, "max_chars": 0, "language": lambda text: "", "judge": None, "min_score": 0.0}
    return RowFilter(**{**usual, "seen": screening.NearDuplicateIndex(near), **more})


def questions(*texts):
    return Model(lambda ask, g, n: json.dumps(texts), "asks")


def test_questions_of_a_topic_are_answered_by_the_expert_and_rows_say_where_they_come_from():
    asks = questions("Why is the sky blue?", "Why  is rain wet?")
    expert = Model(lambda ask, g, n: f"Because {g}.\n", "knows")
    how = recipe("qa", asks, expert, topics=("weather", "sea"), per_ask=2, samples=2, seed=5, temperature=0.9,
                 examples=("Why?", "How?", "Who?"), shots=2, answer_temperature=0.3)  # fmt: skip
    rows, rejected, counts = recipes.filter_drafts(recipes.drafts(how, [0, 1]), passing(), 0)
    assert not rejected and counts == {} and len(rows) == 8
    assert [row["completion"] for row in rows[:2]] == ["Because 0.", "Because 1."]
    assert [row["prompt"] for row in rows[::2]] == ["Why is the sky blue?", "Why is rain wet?"] * 2
    asked = asks.asks[0].messages[-1]["content"]
    assert "2 questions about weather" in asked and asks.asks[0].temperature == 0.9
    made = rows[0]["provenance"]
    assert {k: made[k] for k in ("kind", "unit", "seed", "topic", "generator", "expert")} == {
        "kind": "qa", "unit": 0, "seed": 5, "topic": "weather", "generator": "asks", "expert": "knows",
    }  # fmt: skip
    assert len(made["parents"]) == 2 and all(f"- {one}" in asked for one in made["parents"])
    assert made["prompts"] == {"question": asked, "answer": "Why is the sky blue?"} and made["time"].endswith(
        "+00:00"
    )
    assert "expert on weather" in expert.asks[0].messages[0]["content"]
    assert {ask.temperature for ask in expert.asks} == {0.3} and len({ask.seed for ask in expert.asks}) == 4
    assert recipes.drafts(how, [1]) == recipes.drafts(how, [0, 1])[4:], "a unit does not depend on others"


def test_malformed_lists_are_asked_for_again_and_then_counted():
    replies = {"a": ["no list", '["Why?"]'], "b": ["{}", "[1]", '["'], "c": ['```json\n["How?"]\n```']}
    asks = Model(lambda ask, g, n: replies[ask.messages[-1]["content"].split("about ")[1][0]][n])
    expert = Model(lambda ask, g, n: "So.")
    how = recipe("qa", asks, expert, topics=("a", "b", "c"))
    found = recipes.drafts(how, range(3))
    assert [one.answer for one in found] == ["So.", "", "So."]
    assert found[1].fault == "malformed: 3 replies are no questions" and found[1].provenance["topic"] == "b"
    assert len({ask.seed for ask in asks.asks}) == len(asks.asks) == 6


def test_a_base_model_goes_on_with_pages():
    def reply(ask, g, n):
        text = ask.messages[-1]["content"]
        assert ask.raw and ask.stop == ("\n",)
        return " a boat." if text.endswith("AI:") else " paint a boat?"

    model = Model(reply, chat=False)
    how = recipe("qa", model, style=prompts.BASE, topics=("How do I",), examples=("Who is Ann?",), shots=1)
    (found,) = recipes.drafts(how, [0])
    texts = [ask.messages[-1]["content"] for ask in model.asks]
    assert texts == ["Human: Who is Ann?\nHuman: How do I", "Human: How do I paint a boat?\nAI:"]
    assert (
        found.messages == ({"role": "user", "content": "How do I paint a boat?"},)
        and found.answer == "a boat."
    )
    assert prompts.BASE.questions("", 1, (), False).messages[0]["content"] == "Human:"
    chats = Model(lambda ask, g, n: "Paint it.")
    (found,) = recipes.drafts(how._replace(expert=chats.generator), [0])
    assert [one["content"] for one in chats.asks[0].messages] == [
        "How do I paint a boat?"
    ] and not chats.asks[0].raw


def test_a_continuation_that_is_empty_or_cut_is_malformed():
    replies = {"malformed: 3": "\nAI: so", "cut: no end in 256": Completion(" is it so that", CUT_OFF)}
    for reason, reply in replies.items():
        model = Model(lambda ask, g, n, reply=reply: reply, chat=False)
        (found,) = recipes.drafts(recipe("qa", model, style=prompts.BASE, topics=("Why",)), [0])
        assert found.fault.startswith(reason) and len(model.asks) == 3


def reasons(*texts, **more):
    expert = Model(lambda ask, g, n: texts[g])
    given = (Prompt(({"role": "user", "content": "2+3?"},), record={"answer": "5.0"}, name="x record 0"),)
    how = recipe("reasoning", questions(), expert, given=given, samples=len(texts), **more)
    return recipes.drafts(how, [0])[0]


def test_reasoning_is_kept_where_its_samples_agree():
    found = reasons("six\nAnswer: 6", "Two and three.\n**Answer: 5**", "I see.\nAnswer: 5.0.", "no end")
    assert (
        found.answer == "Two and three.\n**Answer: 5**"
        and found.metrics == {"agreement": 0.5}
        and not found.fault
    )
    assert found.provenance["parents"] == ["x record 0"]
    found = reasons("Answer: 1", "Answer: 2", "Answer: 3")
    assert found.fault == "disagreement: below 0.5 of the votes" and found.metrics == {"agreement": 0.3333}
    assert (
        reasons("none", Completion("Answer: 5", CUT_OFF)).fault
        == "malformed: no reasoning ends with an answer"
    )


def test_a_known_answer_decides_instead_of_the_majority():
    found = reasons("Answer: 6", "Answer: 6", "Right.\nAnswer: 5", answer_field="answer")
    assert found.answer == "Right.\nAnswer: 5" and found.metrics == {"agreement": 0.3333} and not found.fault
    assert reasons("Answer: 6", answer_field="answer").fault == "wrong: no sample comes to the known answer"


def test_answers_are_compared_without_their_dress():
    same = [["1,000", "1000.", "1e3" * 0 + "1000.0", "$1000$"], ["Paris", " paris. ", "**Paris**"]]
    for group in same:
        assert len({prompts.normalised_answer(one) for one in group}) == 1
    assert (
        prompts.normalised_answer("-0.50") == "-0.5" and prompts.normalised_answer("3 apples") == "3 apples"
    )


def test_a_base_model_has_no_line_for_its_answer():
    texts = ("It is 10.", "Answer: 10.", "7 + 3 is 10.0", "1,000 less 990 makes 10")
    assert {prompts.BASE.final(text) for text in texts} == {"10"}
    assert prompts.BASE.final("-1,234.50 it is") == "-1234.5" and prompts.BASE.final(" Delhi. ") == "delhi"
    assert prompts.BASE.final(" . ") is None and prompts.INSTRUCT.final("It is 10.") is None


def test_conversations_take_turns():
    person = Model(lambda ask, g, n: f"Question {len(ask.messages[-1]['content'].split('Assistant:'))}?")
    expert = Model(lambda ask, g, n: f"Answer to {ask.messages[-1]['content']}")
    how = recipe("conversation", person, expert, topics=("tea",), turns=3)
    rows, _, _ = recipes.filter_drafts(recipes.drafts(how, [0]), passing(), 0)
    talk = [one["content"] for one in rows[0]["messages"]]
    assert talk == [text for i in (1, 2, 3) for text in (f"Question {i}?", f"Answer to Question {i}?")]
    assert [one["role"] for one in rows[0]["messages"]] == ["user", "assistant"] * 3
    assert "about tea" in person.asks[0].messages[0]["content"]
    assert "Assistant: Answer to Question 1?" in person.asks[1].messages[0]["content"]
    assert list(rows[0]["provenance"]["prompts"]) == [
        f"{who} {i}" for i in range(3) for who in ("question", "answer")
    ]
    assert len({ask.seed for ask in (*person.asks, *expert.asks)}) == 6


def test_a_conversation_of_a_base_model_goes_on_in_lines():
    model = Model(
        lambda ask, g, n: " tea?" if n == 0 and "AI" not in ask.messages[0]["content"] else " yes", chat=False
    )
    how = recipe("conversation", model, style=prompts.BASE, topics=("Is this",), turns=2)
    (found,) = recipes.drafts(how, [0])
    assert [one["content"] for one in found.messages] == [
        "Is this tea?",
        "yes",
        "yes",
    ] and found.answer == "yes"
    assert model.asks[2].messages[0]["content"] == "Human: Is this tea?\nAI: yes\nHuman:"


def test_a_conversation_that_breaks_off_says_so():
    expert = Model(lambda ask, g, n: Completion("and so on", CUT_OFF))
    person = Model(lambda ask, g, n: "Why?")
    (found,) = recipes.drafts(recipe("conversation", person, expert, topics=("t",), turns=3, max_new=9), [0])
    assert found.fault == "cut: no end in 9 tokens" and len(expert.asks) == 1


@pytest.mark.parametrize("kind", ["qa", "reasoning", "conversation"])
def test_a_prompt_that_no_model_takes_is_a_draft_that_says_so(kind):
    refuses = Model(lambda ask, g, n: Completion("", REFUSED))
    given = (Prompt(({"role": "user", "content": "Why?"},), name="x record 0"),)
    (found,) = recipes.drafts(recipe(kind, refuses, given=given), [0])
    assert found.fault.startswith("refused: the model takes no such prompt")


def test_rephrasings_keep_the_answer():
    model = Model(lambda ask, g, n: '["In what way?", "How?", "By which means?", "one too many"]')
    given = (Prompt(({"role": "user", "content": "How?"},), answer="So.", name="x record 3"),)
    made = recipes.drafts(recipe("augment", model, given=given, per_ask=3), [0])
    rows, rejected, _ = recipes.filter_drafts(made, passing(), 0)
    assert [(row["prompt"], row["completion"]) for row in rows] == [
        ("In what way?", "So."),
        ("By which means?", "So."),
    ]
    assert rejected[0]["reason"] == "unchanged: the text itself came back" and rows[0]["provenance"][
        "parents"
    ] == ["x record 3"]
    base = Model(lambda ask, g, n: " In what way?", chat=False)
    (found,) = recipes.drafts(recipe("augment", base, style=prompts.BASE, given=given), [0])
    assert found.messages[-1]["content"] == "In what way?"
    assert base.asks[0].messages[0]["content"].endswith("Text: How?\nThe same:")


def draft(text, prompt="What is 2 + 3?", fault=""):
    return DraftRow(({"role": "user", "content": prompt},), text, {"kind": "qa"}, fault)


def test_each_draft_is_kept_or_rejected_with_its_reason():
    made = [
        draft("5."), draft("5."), draft(" "), draft("cut here", fault="cut: no end"), draft("y" * 50), draft("6."),
        draft("5.", "Who?"), draft("un mot"),
    ]  # fmt: skip
    screen = passing(
        near=1.0, max_chars=20, judge=llm_judge.reward_judge(functions.resolve("gold")), min_score=1.5,
        language=lambda text: "language: fr, not en" if "mot" in text else "",
    )  # fmt: skip
    rows, rejected, counts = recipes.filter_drafts(made, screen, 0)
    assert [(row["completion"], row["score"]) for row in rows] == [("5.", 2.0)]
    assert [row["reason"].split(":")[0] for row in rejected] == [
        "duplicate", "empty", "cut", "long", "score", "not judged", "language",
    ]  # fmt: skip
    assert rejected[0]["twin"] == "What is 2 + 3?" and rejected[4]["score"] < 1.5
    assert counts == {"questions": 4, "unanswered": 1} and len(rows) + len(rejected) == len(made)
    rows, rejected, _ = recipes.filter_drafts([draft("5.")], screen, 0)
    assert not rows and rejected[0]["reason"] == "duplicate"
    again = passing(near=1.0)
    recipes.add_accepted(again.seen, {"prompt": "What is 2 + 3?", "completion": "5."})
    assert recipes.filter_drafts([draft("5.")], again, 0)[1][0]["reason"] == "duplicate"


def test_what_the_judge_rejects_is_no_twin_of_what_comes_later():
    length = llm_judge.reward_judge(
        functions.RewardFunction("f", lambda completions, **rest: map(len, completions))
    )
    screen = passing(near=0.5, judge=length, min_score=12)
    rows, rejected, _ = recipes.filter_drafts([draft("a b c d"), draft("a b c d e f g")], screen, 0)
    assert [row["completion"] for row in rows] == ["a b c d e f g"] and rejected[0][
        "reason"
    ] == "score: below 12"


@pytest.mark.parametrize("text", ["", "Why?", "{}", "[]", '["a", 1]', '[" "]', "[" * 100_000])
def test_only_a_list_of_texts_is_one(text):
    assert prompts.read_list(text) is None


def test_a_thought_is_in_the_message_and_not_in_the_answer():
    expert = Model(
        lambda ask, g, n: Completion("Blue light is scattered.\n", "stop", thought="Rayleigh?"), "thinks"
    )
    how = recipe("qa", questions("Why is the sky blue?"), expert, topics=("weather",), per_ask=1)
    (row,), rejected, _ = recipes.filter_drafts(recipes.drafts(how, [0]), passing(), 0)
    message = {"role": "assistant", "content": "Blue light is scattered.", "reasoning_content": "Rayleigh?"}
    assert row["completion"] == [message] and not rejected
    assert recipes.texts(row) == ["Why is the sky blue?", "Blue light is scattered."]
    asks = Model(lambda ask, g, n: f"And then {n}?")
    how = recipe("conversation", asks, expert, topics=("weather",), turns=2)
    (row,), _, _ = recipes.filter_drafts(recipes.drafts(how, [0]), passing(), 0)
    assert [one.get("reasoning_content") for one in row["messages"]] == [None, "Rayleigh?"] * 2
    assert "Rayleigh" not in asks.asks[1].messages[-1]["content"]


@pytest.mark.parametrize("reply, reason", [
    (Completion("", REFUSED, detail="the endpoint refused it: no"), "refused: the endpoint refused it: no"),
    (Completion("", CUT_OFF, thought="hm"), "cut: no end in 256 tokens of thought and answer"),
    (Completion("half", FILTERED), "filtered: the endpoint's content filter"),
])  # fmt: skip
def test_an_answer_that_did_not_end_says_why(reply, reason):
    how = recipe("qa", questions("Why?"), Model(lambda ask, g, n: reply), topics=("x",), per_ask=1)
    _, (row,), _ = recipes.filter_drafts(recipes.drafts(how, [0]), passing(), 0)
    assert re.match(reason, row["reason"])


def test_a_row_without_a_verdict_has_the_judge_s_reason():
    reply = Completion(
        "", REFUSED, detail="the endpoint refused the request (400): your plan has no such use"
    )
    judge = llm_judge.llm_judge(Model(lambda ask, g, n: reply).generator)
    how = recipe("qa", questions("Why?"), Model(lambda ask, g, n: "So."), topics=("x",), per_ask=1)
    _, (row,), counts = recipes.filter_drafts(recipes.drafts(how, [0]), passing(judge=judge), 0)
    assert row["reason"] == "not judged: the endpoint refused the request (400): your plan has no such use"
    assert counts["unanswered"] == 1
