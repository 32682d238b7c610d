"""Line plots: where points, ticks and marks lie, and what is written beside them."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from jaxtrain.files import svg_plot
from jaxtrain.files.svg_plot import Line, Mark, Panel, ticks

SVG = "{http://www.w3.org/2000/svg}"
TWO = Panel(
    "Score & gold",
    (Line("score", [0, 10], [0.0, 2.0]), Line("gold <b>", [0, 10], [5.0, 4.0])),
    ("a", "b"),
    0.0,
)


def paths(text, name):
    """The points of each path of a class."""
    found = [one.get("d") for one in ET.fromstring(text).iter(f"{SVG}path") if one.get("class") == name]
    return [[tuple(map(float, pair)) for pair in re.findall(r"([-\d.]+) ([-\d.]+)", d)] for d in found]


def test_points_lie_by_their_own_axis():
    text = svg_plot.figure([TWO], x_label="step")
    (_, left), (right,) = paths(text, "l0"), paths(text, "l1")[1:]
    bottom, top = svg_plot.HIGH - svg_plot.BOTTOM, svg_plot.TOP
    assert [x for x, _ in left] == [svg_plot.LEFT, svg_plot.WIDE - svg_plot.RIGHT] == [x for x, _ in right]
    assert left[0][1] == bottom and left[1][1] == pytest.approx(bottom - (bottom - top) / 1.06, abs=0.1)
    assert right[0][1] < right[1][1], "down the page is less"


def test_titles_units_and_legends_are_written_and_escaped():
    text = svg_plot.figure([TWO], x_label="step", title="run <1>", marks=[Mark(5, "turn, step 5")])
    shown = ["".join(one.itertext()) for one in ET.fromstring(text).iter(f"{SVG}text")]
    assert {"Score & gold", "score", "gold <b>", "a", "b", "step", "run <1>", "turn, step 5"} <= {*shown}
    assert "prefers-color-scheme:dark" in text and "http" not in text.replace("http://www.w3.org", "")


def test_a_mark_is_in_every_panel_at_its_place():
    text = svg_plot.figure([TWO, TWO, TWO], x_label="step", marks=[Mark(5, "turn"), Mark(10, "best")])
    middle = (svg_plot.LEFT + svg_plot.WIDE - svg_plot.RIGHT) / 2
    for name, x in (("m0", middle), ("m1", svg_plot.WIDE - svg_plot.RIGHT)):
        _, *marks = [
            one.get("d") for one in ET.fromstring(text).iter(f"{SVG}path") if one.get("class") == name
        ]
        assert len(marks) == 3 and all(mark.startswith(f"M{x:.1f} ") for mark in marks)


def test_panels_without_points_are_left_out_and_one_point_is_drawn():
    empty = Panel("nothing", (Line("x", [], []),), ("u",))
    single = Panel("one", (Line("y", [3], [1.0]),), ("u",))
    text = svg_plot.figure([empty, single], x_label="step")
    assert "nothing" not in text and "one" in text and ET.fromstring(text).get("viewBox") == "0 0 880 230"
    assert ET.fromstring(svg_plot.figure([], x_label="step")) is not None


def test_what_is_not_finite_is_no_point_and_many_points_are_means():
    x, y = svg_plot.thinned(Line("a", [1, 2, 3], [1.0, math.nan, math.inf]))
    assert x.tolist() == [1.0] and y.tolist() == [1.0]
    x, y = svg_plot.thinned(Line("a", range(3000), np.arange(3000.0)))
    assert len(x) == svg_plot.POINTS and x[0] == y[0] == 4.5 and y.mean() == pytest.approx(1499.5)


@pytest.mark.parametrize(
    "low, high, wanted",
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 10, [0, 2.5, 5, 7.5, 10]),
        (-3, 5, [-2, 0, 2, 4]),
        (4, 160, [50, 100, 150]),
    ],
)
def test_ticks_are_round_numbers(low, high, wanted):
    assert ticks(low, high) == pytest.approx(wanted)
    assert 2 <= len(ticks(1e-7, 3.3e-7)) <= 6
