"""The results of several seeds as one: each number as mean, least and most, each claim as the worst seed has it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Band = Mapping[str, Any]  # {"mean", "least", "most", "values": one a seed, None where a seed has no number}


def band(values: Sequence[float | None]) -> Band | None:
    """Mean, least and most of a number over seeds; None where no seed has one."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers:
        return None
    mean = math.fsum(numbers) / len(numbers)
    return {"mean": mean, "least": min(numbers), "most": max(numbers), "values": [*values]}


def combine(results: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """One result of {seed: result} of the same steps. Texts are the first seed's."""
    seeds, each = [*results], [*results.values()]
    first = each[0]
    return {
        **first,
        "seeds": seeds,
        "stages": [_stage(seeds, rows) for rows in zip(*(one["stages"] for one in each), strict=True)],
        "seconds": math.fsum(one["seconds"] for one in each),
        "tables": [_table(tables) for tables in zip(*(one["tables"] for one in each), strict=True)],
    }


def _stage(seeds: Sequence[int], stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = stages[0]
    claims = [_claim(seeds, claims) for claims in zip(*(one["claims"] for one in stages), strict=True)]
    names = list(dict.fromkeys(name for one in stages for name in one["measures"]))
    return {
        **first,
        "seconds": band([one["seconds"] for one in stages]),
        "claims": claims,
        "reached": all(claim["reached"] for claim in claims),
        "taken": band([one["taken"] for one in stages]),
        "measures": {name: band([one["measures"].get(name) for one in stages]) for name in names},
        "curves": [_curve(curves) for curves in zip(*(one["curves"] for one in stages), strict=True)],
        "notes": _by_seed(seeds, [one["notes"] for one in stages]),
        "figures": [
            {**figure, "title": f"{figure['title']}, seed {seed}"}
            for seed, one in zip(seeds, stages, strict=True)
            for figure in one["figures"]
        ],
    }


def _claim(seeds: Sequence[int], claims: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A claim of all seeds: it is reached where the worst of them reaches it."""
    margins = [-math.inf if one["margin"] is None else one["margin"] for one in claims]
    worst = margins.index(min(margins))
    return {
        **claims[worst],
        **{side: band([one[side] for one in claims]) for side in ("before", "after", "value")},
        "reached": all(one["reached"] for one in claims),
        "worst": {"seed": seeds[worst], "value": claims[worst]["value"]},
        "missed": [seed for seed, one in zip(seeds, claims, strict=True) if not one["reached"]],
    }


def _by_seed(seeds: Sequence[int], notes: Sequence[Sequence[str]]) -> list[str]:
    """Sentences about seeds, the most important first; one that several have stands once, with their numbers."""
    having: dict[str, list[int]] = {}
    place: dict[str, int] = {}
    for seed, texts in zip(seeds, notes, strict=True):
        for i, text in enumerate(texts):
            having.setdefault(text, []).append(seed)
            place[text] = min(i, place.get(text, i))
    return [
        f"seed{'s' * (len(having[text]) > 1)} {', '.join(map(str, having[text]))}: {text}"
        for text in sorted(having, key=lambda text: place[text])
    ]


def _curve(curves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {**curves[0], **{side: _points([one[side] for one in curves]) for side in ("points", "held_out")}}


def _points(curves: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Points [step, mean, least, most], of the steps that all seeds have."""
    values = [dict(one) for one in curves]
    steps = [step for step in values[0] if all(step in one for one in values)]
    bands = {step: band([one[step] for one in values]) for step in steps}
    return [[step, one["mean"], one["least"], one["most"]] for step, one in bands.items() if one]


def _table(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = []
    for same in zip(*(table["rows"] for table in tables), strict=True):
        cells = [
            column[0] if isinstance(column[0], str) else band(column)
            for column in zip(*(row["cells"] for row in same), strict=True)
        ]
        rows.append({**same[0], "cells": cells})
    return {**tables[0], "rows": rows}
