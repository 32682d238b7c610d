"""Charts: their numbers, and in a browser axes, hover values, smoothing, the logarithmic scale and a phone's width."""

import math
import re

import numpy as np
import pytest

from jaxtrain.files import charts, html
from jaxtrain.files.charts import Line, Mark, line_chart
from jaxtrain.files.html import PAGES
from tests import browser

PAGE = """{% extends "base.html.jinja" %}
{% import "chart.html.jinja" as chart %}
{% block main %}{{ chart.controls() }}{% for one in charts %}{{ chart.figure(one) }}{% endfor %}
<div class="wide"><table><tr>{% for i in range(9) %}<td>a column {{ i }}</td>{% endfor %}</tr></table></div>
{% endblock %}
{% block scripts %}{{ chart.assets() }}{% endblock %}
"""
TWO = line_chart(
    "Loss & </script><b>",
    [
        Line("training", [1, 2, 3], [8.0, 4.0, 2.0], [7, 3, 1], [9, 5, 3]),
        Line("held out", [3], [2.5]),
        Line("gold", [1, 3], [-1.0, 1.0], right=True),
    ],
    x="step",
    units=["nats a token", "gold"],
    marks=[Mark(2, "turn")],
)
ONE = line_chart("Loss", [Line("training", [1, 2, 3], [8.0, 4.0, 2.0])], x="step", units=["nats"])
BARS = charts.histogram("Scores", [0, 1, 2], [5, 1500], x="score", unit="documents", marks=[Mark(4, "limit")])
NAMES = charts.bar_chart(
    "Years", ["1990s", "2000s"], [3, 4], x="decade", unit="documents", ends=[(2, 5), (3, 6)]
)


def test_points_that_are_not_finite_are_left_out_and_many_are_means():
    line = charts.line_chart("t", [Line("a", [1, 2, 3], [1.0, math.nan, None])], x="x", units=["u"])
    assert line["series"] == [{"label": "a", "right": False, "x": [1], "y": [1]}]
    many = charts.line_chart("t", [Line("a", range(1801), np.arange(1801.0))], x="x", units=["u"])
    assert many["series"][0]["y"][:2] == [1.5, 5.5] and many["series"][0]["x"][-1] == 1800
    assert (
        many["note"] == "a: each point is the mean of 4 values"
        and len(many["series"][0]["y"]) <= charts.POINTS
    )
    assert charts.line_chart("t", [Line("a", [], [])], x="x", units=["u"]) is None


def test_bars_have_their_ends_and_a_summary_in_words():
    assert (
        BARS["labels"] == ["0 to 1", "1 to 2"]
        and BARS["ends"] == [0, 2]
        and BARS["series"][0]["x"] == [0.5, 1.5]
    )
    assert charts.summary(BARS) == "Scores: 1,505 in 2 bars, most at 1 to 2; limit at 4"
    assert charts.summary(ONE) == "Loss: training from 8 to 2"
    assert NAMES["ticks"] == ["1990s", "2000s"] and NAMES["ends"] == [-0.5, 1.5]


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast(
        "#777777", "#ffffff"
    ) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(
    "page", [PAGES / "base.html.jinja", PAGES.parent.parent / "apps/serve/pages/chat.css"]
)
@pytest.mark.parametrize("dark", [False, True])
def test_texts_and_bars_have_contrast(page, dark):
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", text, re.S)
    values = dict(re.findall(r"--([\w]+): (#[0-9a-f]{3,6});", blocks[0] + (blocks[1] if dark else "")))
    values = {k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:]) for k, v in values.items()}
    on_both = {
        "ink",
        "soft",
        "bar",
        "bad",
        "good",
        "c0",
        "c1",
        "c2",
        "c3",
        "s0",
        "s1",
        "s2",
        "s3",
        "s4",
        "strong",
    }
    pairs = [(a, b) for a in on_both & {*values} for b in ("page", "card")]
    pairs += [("on", b) for b in ("s0", "s1", "s2", "s3", "s4", "strong") if b in values]
    pairs += [("ink", b) for b in ("mark", "user", "notice", "p1", "p2", "p3", "p4") if b in values]
    poor = {pair: contrast(values[pair[0]], values[pair[1]]) for pair in pairs}
    assert {pair: round(value, 2) for pair, value in poor.items() if value < 4.5} == {} and len(pairs) > 10


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charts")
    (folder / "page.html.jinja").write_text(PAGE)
    text = html.template(folder / "page.html.jinja").render(charts=[TWO, ONE, BARS, NAMES])
    (folder / "page.html").write_text(text, encoding="utf-8")
    with browser.opened(folder / "profile") as opened:
        tab = opened.page()
        tab.emulate(390, 800, dark=True)
        tab.go(f"file://{folder}/page.html")
        tab.until("document.querySelectorAll('.u-wrap').length == 4")
        yield tab
        assert opened.errors() == []


def legend(page, chart):
    """The values of a chart's legend, by their labels."""
    rows = page.js(
        f"[...document.querySelectorAll('figure.chart')[{chart}].querySelectorAll('.u-series')]"
        ".map((row) => [row.querySelector('.u-label').innerText, row.querySelector('.u-value').innerText])"
    )
    return {label.strip(": "): value for label, value in rows}


def move(page, chart, *keys):
    page.js(f"document.querySelectorAll('.plot')[{chart}].focus()")
    for key in keys:
        page.key(key)


@browser.needed
def test_values_are_shown_where_the_keys_lead(page):
    assert page.js("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"
    move(page, 0, "ArrowRight", "ArrowRight", "ArrowRight")
    shown = legend(page, 0)
    assert shown == {
        "step": "3",
        "training": "2",
        "training, least": "1",
        "training, most": "3",
        "held out": "2.5",
        "gold": "1",
    }
    move(page, 2, "ArrowLeft")
    assert legend(page, 2) == {"score": "1 to 2", "documents": "1,500"}
    move(page, 3, "ArrowRight")
    assert legend(page, 3) == {"decade": "1990s", "documents": "3 (2 to 5)"}
    assert "Loss & </script><b>" in page.text()


@browser.needed
def test_smoothing_and_the_logarithmic_scale(page):
    change = "c = document.querySelector('.chart-controls'); {}; c.dispatchEvent(new Event('input'))"
    page.js(change.format("c.elements.smoothing.value = 0.5"))
    move(page, 1, "ArrowRight", "ArrowRight", "ArrowRight")
    assert legend(page, 1)["training"] == "3.429"  # (8/8 + 4/4 + 2/2) / (7/8)
    page.js(change.format("c.elements.smoothing.value = 0; c.elements.log.checked = true"))
    refused = page.js(
        "[...document.querySelectorAll('figure.chart')].map((one) => one.hasAttribute('data-log-refused'))"
    )
    assert refused == [True, False, False, False], "gold is below 0"


@browser.needed
def test_a_wide_table_says_that_it_scrolls(page):
    page.until("!document.querySelector('.scrolls').hidden")
    assert "scroll sideways" in page.text()
    page.emulate(1400, 800)
    page.until("document.querySelector('.scrolls').hidden")
    page.until("document.querySelector('.u-wrap').clientWidth > 600")
    page.emulate(390, 800, dark=True)
