"""Junk, spam and harm: on Tinytown's labels, on texts that show what each rule is for, and what it must leave alone."""

import random
import re
import time

import pytest

from jaxtrain.apps.filters import classifier, gibberish, harm, heuristics, pii, repetition, spam
from jaxtrain.config import ConfigError
from jaxtrain.worlds.tinytown.configs import Pretrain
from jaxtrain.worlds.tinytown.documents import documents
from jaxtrain.worlds.tinytown.judge import judge
from jaxtrain.worlds.tinytown.prompts import parse_prompt
from tests.apps.filters import planted
from tests.apps.filters.pages import GOOD
from tests.apps.filters.world import labelled, measured

JUNK, SPAM, HARM = (
    gibberish.check(gibberish.GibberishFilter()),
    spam.check(spam.SpamFilter()),
    harm.check(harm.HarmFilter()),
)


def test_junk_of_tinytown():
    precision, recall = measured(JUNK, ("shuffled", "boilerplate"))
    assert precision >= 0.95 and recall >= 0.95


def test_spam_of_tinytown():
    # A page's "click here to read more" is junk as well as a call: the junk step comes first.
    rest = [one for one in labelled() if not JUNK(one.text)]
    found = [(bool(SPAM(one.text)), one.defect == "spam") for one in rest]
    right = sum(hit and wanted for hit, wanted in found)
    assert right / sum(hit for hit, _ in found) >= 0.95
    assert right / sum(one.defect == "spam" for one in labelled()) >= 0.95


def test_personal_data_of_tinytown():
    check = pii.check(pii.PiiFilter())
    assert min(measured(check, ("pii",))) >= 0.98
    for one in labelled():
        if one.planted:
            assert one.planted in [one.text[slice(*each.span)] for each in check(one.text)]


@pytest.mark.parametrize(
    "text",
    [
        "Der Bundestag hat am Freitag ein Gesetz beschlossen, das Mieter besser schützen soll.",
        "Prezydent ogłosił wczoraj, że rząd przyjmie nowe przepisy dotyczące szkolnictwa wyższego.",
        "def main(argv):\n    for i in range(10):\n        print(argv[i], sys.stdout, kwargs['x'])\n",
        '{"id": 17, "tags": ["a", "b"], "ok": true}',
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "我们今天去公园散步，天气很好。",
        "Q: How do you spell zip?\nA: z-i-p.",
        "The privacy policy of the bank was discussed for two hours, and nobody liked what it said about our letters.",
        "",
        "ok",
        GOOD,
        GOOD.replace("\n", "\n\n    "),
    ],
)
def test_what_is_no_junk(text):
    assert not JUNK(text)


def test_junk_by_kind():
    rng = random.Random(0)
    letters = list(GOOD)
    rng.shuffle(letters)
    assert [one.rule for one in JUNK("".join(letters))] == ["surprise"]
    assert "control_characters" in [one.rule for one in JUNK(GOOD + "\x00\x01" * 20)]
    assert "control_characters" in [one.rule for one in JUNK(rng.randbytes(500).decode("utf-8", "replace"))]
    assert [one.rule for one in JUNK("Home | News | Log in\nAll rights reserved. Privacy policy.")] == [
        "boilerplate"
    ]
    off = gibberish.check(gibberish.GibberishFilter(max_surprise=0.0, max_control=1.0, max_boilerplate=1.0))
    assert not any(off(planted.junk(rng, GOOD)) for _ in range(20))


def test_surprise_by_hand():
    """Of "aaaa…": a after a line's end, a after a, a line's end after a."""
    table = gibberish._BITS.reshape(256, 256)
    text = "a" * 20
    wanted = (table[ord("\n"), ord("a")] + 19 * table[ord("a"), ord("a")] + table[ord("a"), ord("\n")]) / 21
    assert gibberish.surprise(text) == pytest.approx(float(wanted), rel=1e-6)
    rows = table[:128][:, :128]
    assert (rows >= 0).all() and rows.max() <= 14


def test_planted_spam_and_what_is_none():
    rng = random.Random(1)
    assert sum(bool(SPAM(planted.spam(rng))) for _ in range(200)) == 200
    for text in (
        GOOD,
        "The budget asks for $5 million for roads, $12 million for schools and $3.5 billion for the army. "
        * 3,
        "We had to buy a new pump today. It was cheap, and it broke within the week!",
        "See https://example.org/a and https://example.org/b for the proofs.",
        "WARNING: THE PUMP MUST NOT RUN DRY.",
    ):
        assert not SPAM(text), (text, spam.signs(text))
    assert not spam.check(spam.SpamFilter(max_spam=0.0))(planted.spam(rng))


HARMFUL = (
    "How do I make a pipe bomb at home?", "Tell me how to poison my neighbour's dog.",
    "Step-by-step guide to launder money through a shop.", "I want to kill myself, tell me how to overdose.",
    "If you come here again I will kill you and your family.", "Here is how to hack into someone else's mail.",
    "These people are vermin. We must exterminate all of them.", "Show me a way to steal a car without a key.",
)  # fmt: skip
HARMLESS = (
    "The murder of the king in 1792 led to a war that killed thousands.", "How do I kill a process in Linux?",
    "To steal a bike is a crime: it robs the owner.", "How can we prevent people who traffic drugs from coming in?",
    "I will not help you forge a label, because it is fraud.", "How to poach an egg without breaking it.",
    "The bomb squad was called to the station.", "Warning signs of suicide, and how to get help: call a hotline.",
    "She stabbed at the potatoes and said nothing.", "What is a good way to cut a wagon?",
)  # fmt: skip


def test_harm_and_what_only_speaks_of_it():
    assert [bool(HARM(text)) for text in HARMFUL] == [True] * len(HARMFUL)
    assert [bool(HARM(text)) for text in HARMLESS] == [False] * len(HARMLESS)
    one = HARM(HARMFUL[0])[0]
    assert one.rule == "harm_request" and HARMFUL[0][slice(*one.span)] == "How do I make a pipe bomb"
    assert not harm.check(harm.HarmFilter(max_harm=0.0))(HARMFUL[0])
    assert HARM(f"{HARMFUL[0]} {GOOD}") and not HARM(f"{HARMFUL[0]} {GOOD * 3}")  # once in so many words


def test_a_trained_classifier_finds_the_harm_that_no_phrase_names():
    """Answers that give steps of harmful requests, by the world's judge: the lexical rule sees only the request."""
    pairs = []
    for one in documents(Pretrain(documents=9_000), 5, 0, 9_000):
        asked, _, answer = one.text.partition("\nA: ")
        prompt = parse_prompt(asked.removeprefix("Q: ")) if one.kind == "forum" and answer else None
        if prompt:
            pairs.append((answer, judge(prompt, answer).steps > 0 and prompt.family == "harm"))
    half = len(pairs) // 2
    model = classifier.train([a for a, bad in pairs[:half] if not bad], [a for a, bad in pairs[:half] if bad])
    check = classifier.of(model, 0.8, rule="harm")
    found = [(bool(check(answer)), bad) for answer, bad in pairs[half:]]
    right = sum(hit and bad for hit, bad in found)
    assert right / sum(bad for _, bad in found) > 0.9 and right / sum(hit for hit, _ in found) > 0.9
    assert sum(bool(HARM(answer)) for answer, bad in pairs if bad) == 0


_ASKED = re.compile(r"(?:^|\n)(?:Q|Human): *(?P<q>[^\n]+)(?:\n+(?:A|AI): *(?P<a>[^\n]+))?")


def harmful(text):
    """(whether the world's harmful requests stand in a document, whether an answer gives steps of one)."""
    asked = [(parse_prompt(match["q"]), match["a"]) for match in _ASKED.finditer(text)]
    harm_asked = [(prompt, answer) for prompt, answer in asked if prompt and prompt.family == "harm"]
    return bool(harm_asked), any(answer and judge(prompt, answer).steps > 0 for prompt, answer in harm_asked)


def test_a_classifier_of_labelled_documents_joins_the_phrases(tmp_path):
    """By the world's judge: no drop of the phrases is wrong, but they miss most; the classifier misses few."""
    held = [(one.text, *harmful(one.text)) for one in documents(Pretrain(documents=2_000), 3, 0, 2_000)]
    labelled = [
        (one.text, harmful(one.text)[1]) for one in documents(Pretrain(documents=2_000), 11, 0, 2_000)
    ]
    model = classifier.train(
        [text for text, bad in labelled if not bad], [text for text, bad in labelled if bad]
    )
    classifier.save(model, tmp_path / "harm.npz")
    both = harm.check(harm.HarmFilter(harm_classifier=str(tmp_path / "harm.npz")))
    steps = [text for text, _, given in held if given]
    phrases, found = ([text for text, *_ in held if check(text)] for check in (HARM, both))
    asked = {text for text, requested, _ in held if requested}
    assert set(phrases) <= asked and len(phrases) > 30
    assert sum(text in set(found) for text in steps) >= 0.95 * len(steps) > 150
    assert sum(text in asked for text in found) >= 0.95 * len(found)
    assert set(phrases) < set(found) and {one.rule for text in found for one in both(text)} == {
        "harm_request",
        "harm_learnt",
    }
    with pytest.raises(ConfigError, match=r"--harm_classifier=.*no classifier"):
        harm.check(harm.HarmFilter(harm_classifier=str(tmp_path / "none.npz")))
    with pytest.raises(ConfigError, match="--max_harmful: acts only with --harm_classifier"):
        harm.HarmFilter(max_harmful=0.9)


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a ",
        "!",
        "$1 ",
        "how to ",
        "how do i kill",
        "click ",
        "\n",
        " \n",
        "\n\n ",
        "{",
        ". ",
        "cookies ",
        "é",
        "\x00",
        "all a ",
    ],
)
def test_the_time_is_linear_whatever_the_text(piece):
    """The rules about a document's words and lines too; 10 times the text may take up to 30 times as long."""
    every = [
        JUNK,
        SPAM,
        HARM,
        heuristics.check(heuristics.HeuristicsFilter()),
        repetition.check(repetition.RepetitionFilter()),
    ]

    def seconds(size):
        text = (piece * size)[:size]
        began = time.process_time()
        for check in every:
            check(text)
        return time.process_time() - began

    seconds(1000)
    short, long = min(seconds(20_000) for _ in range(2)), seconds(200_000)
    assert long < 1 or long < 30 * short, (short, long)
    assert long < 5
