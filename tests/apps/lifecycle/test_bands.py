"""Several seeds as one result: mean, least and most, and the worst seed of a claim."""

import pytest

from jaxtrain.apps.lifecycle import bands, html, report
from jaxtrain.apps.lifecycle.plan import Target


def result(gold, seconds, notes=()):
    claims = [
        report.claim_result(Target("gold", low=1, gain=True), {"gold": 0.5}, {"gold": gold}),
        report.claim_result(Target("kl", high=4), {}, {"kl": 3.0}),
    ]
    points = [[1, gold], [2, 2 * gold if gold else None], [3, 9.0]]
    stage = {
        "name": "ppo", "stage": "ppo", "title": "PPO", "needs": [], "seconds": seconds, "command": "x",
        "claims": claims, "reached": all(one["reached"] for one in claims), "taken": None, "measures": {"gold": gold},
        "curves": [{"title": "score", "points": points[: 2 + (gold == 2)], "held_out": [[2, gold]]}],
        "notes": [*notes], "figures": [{"title": "PPO", "charts": []}],
    }  # fmt: skip
    row = {"name": "gold reward", "cells": ["a text", gold], "unit": ".2f", "measure": "gold"}
    table = {"title": "t", "note": "", "head": ["", "", ""], "rows": [row]}
    return {"stages": [stage], "seconds": seconds, "answers": [], "tables": [table]}


def test_a_band_is_mean_least_and_most():
    assert bands.band([1.0, 4.0, 1.0]) == {"mean": 2.0, "least": 1.0, "most": 4.0, "values": [1.0, 4.0, 1.0]}
    assert bands.band([None, 3.0])["mean"] == 3.0 and bands.band([None, None]) is None
    assert bands.band([float("nan"), 3.0])["most"] == 3.0
    assert html.spread(bands.band([1.0, 3.0])) == "2.000 (1.000 to 3.000)"
    assert (
        html.spread(bands.band([0.5, 1.0, None]), "%") == "75.0 % (50.0 % to 100.0 %, 1 of 3 seeds without)"
    )
    assert html.spread(bands.band([1.0])) == html.spread(1.0) == "1.000" and html.spread(None) == "–"


def test_a_claim_is_reached_where_the_worst_seed_reaches_it():
    whole = bands.combine({4: result(2.0, 10.0), 1: result(1.2, 20.0), 7: result(1.7, 30.0)})
    (stage,) = whole["stages"]
    gold, kl = stage["claims"]
    assert not gold["reached"] and kl["reached"] and not stage["reached"]
    assert gold["worst"] == {"seed": 1, "value": pytest.approx(0.7)} and gold["missed"] == [1]
    assert (gold["after"]["least"], gold["after"]["most"]) == (1.2, 2.0) and gold["before"]["mean"] == 0.5
    assert gold["value"]["values"] == pytest.approx([1.5, 0.7, 1.2])
    assert whole["seeds"] == [4, 1, 7] and whole["seconds"] == 60.0 and stage["seconds"]["mean"] == 20.0
    assert html.worst(gold) == "1: 0.700"
    both = bands.combine({4: result(1.4, 1.0), 1: result(1.2, 1.0)})["stages"][0]["claims"][0]
    assert html.worst(both) == "1: 0.700, also 4"


def test_a_seed_without_a_number_is_the_worst():
    whole = bands.combine({0: result(2.0, 1.0), 1: result(None, 1.0)})
    gold = whole["stages"][0]["claims"][0]
    assert (
        not gold["reached"] and gold["worst"] == {"seed": 1, "value": None} and gold["after"]["mean"] == 2.0
    )
    assert "1 of 2 seeds without" in html.spread(gold["after"])


def test_curves_tables_notes_and_figures_of_several_seeds():
    whole = bands.combine({0: result(2.0, 1.0, ["a", "b"]), 1: result(1.0, 1.0, ["c", "a"])})
    (stage,) = whole["stages"]
    assert stage["curves"][0]["points"] == [[1, 1.5, 1.0, 2.0], [2, 3.0, 2.0, 4.0]], "steps that both have"
    assert stage["curves"][0]["held_out"] == [[2, 1.5, 1.0, 2.0]]
    assert stage["notes"] == ["seeds 0, 1: a", "seed 1: c", "seed 0: b"]
    assert [one["title"] for one in stage["figures"]] == ["PPO, seed 0", "PPO, seed 1"]
    cells = whole["tables"][0]["rows"][0]["cells"]
    assert cells[0] == "a text" and html.spread(cells[1], ".2f") == "1.50 (1.00 to 2.00)"


def test_a_curve_of_bands_has_least_and_most_and_held_out_numbers():
    one = {
        "title": "t",
        "unit": "nats",
        "points": [[0, 1.0, 0.0, 2.0], [10, 3.0, 2.0, 4.0]],
        "held_out": [[10, 5.0, 4.0, 6.0]],
    }
    chart = html.curve(one, "PPO", seeds=3)
    training, held_out = chart["series"]
    assert (training["x"], training["y"], training["low"], training["high"]) == (
        [0, 10],
        [1, 3],
        [0, 2],
        [2, 4],
    )
    assert held_out["label"] == "held out" and held_out["y"] == [5] and "3 seeds" in chart["note"]
    assert (chart["title"], chart["x"], chart["units"]) == ("PPO: t", "step", ["nats"])
    alone = html.curve({"title": "t", "points": [[0, 1.0], [1, 2.0]]}, "SFT")
    assert "low" not in alone["series"][0] and not alone["note"]
    assert html.curve({"title": "t", "points": [[0, 1.0]]}, "SFT") is None


def test_what_stands_below_a_number():
    counts = {"steps": 100, "gold": 50}
    assert html.interval(0.5, "steps", counts) == "40.4 to 59.6 %, n 100"
    assert html.interval(1.5, "gold", counts) == "n 50"
    assert html.interval(bands.band([0.5, 0.7]), "steps", counts) == "50.0 % to 70.0 %, n 100"
    assert html.interval(bands.band([0.5]), "steps", counts) == "40.4 to 59.6 %, n 100"
    assert html.interval(0.5, "warn", counts) == html.interval(None, "steps", counts) == ""
