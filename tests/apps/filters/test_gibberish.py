"""Gibberish and boilerplate: on Tinytown's labels, by kind, and texts that must pass."""

import random

import pytest

from jaxtrain.apps.filters import gibberish
from tests.apps.filters import planted
from tests.apps.filters.pages import GOOD
from tests.apps.filters.world import measured

JUNK = gibberish.check(gibberish.GibberishFilter())


def test_junk_of_tinytown():
    precision, recall = measured(JUNK, ("shuffled", "boilerplate"))
    assert precision >= 0.95 and recall >= 0.95


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
    assert gibberish.mean_surprisal(text) == pytest.approx(float(wanted), rel=1e-6)
    rows = table[:128][:, :128]
    assert (rows >= 0).all() and rows.max() <= 14
