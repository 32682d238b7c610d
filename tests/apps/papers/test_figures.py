"""Figures for light and dark pages: the same lines, other colours, text that stays text, and contrast."""

import pytest

from jaxtrain.apps.papers import figures


def contrast(a, b):
    """The contrast ratio of two colours (WCAG 2)."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figure")

    def draw(figure):
        axes = figure.subplots()
        figures.band(axes, [1, 2, 3], [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]], "two seeds")
        figures.band(axes, [1, 2, 3], [[0.0, 1.0, 0.0]], "one seed")
        axes.set(xlabel="steps", ylabel="nats a token")
        axes.legend()

    figures.write(folder, draw)
    return {name: (folder / name).read_text() for name in (figures.LIGHT, figures.DARK)}


def test_the_text_of_a_figure_is_text(drawn):
    for text in drawn.values():
        assert all(f">{word}</text>" in text for word in ("steps", "nats a token", "two seeds"))
        assert len(text) < 60_000


def test_seeds_are_a_line_and_a_band(drawn):
    assert all(text.count('id="FillBetweenPolyCollection') == 1 for text in drawn.values()), (
        "one seed has no band"
    )


def test_both_figures_have_the_same_lines(drawn):
    light, dark = (text for text in drawn.values())
    for a, b in zip(figures.COLOURS[figures.LIGHT], figures.COLOURS[figures.DARK], strict=True):
        light, dark = light.replace(a, "#colour"), dark.replace(b, "#colour")
    assert light.count("#colour") == dark.count("#colour") > 5


@pytest.mark.parametrize("name", [figures.LIGHT, figures.DARK])
def test_lines_can_be_seen_on_their_page(name):
    *_, page = figures._INK[name]
    assert all(contrast(colour, page) >= 4.5 for colour in figures.COLOURS[name])
