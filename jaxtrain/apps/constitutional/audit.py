"""Measures of a constitution's effect: by round, by principle, and of the labels, from the rows of the phases.

What is harmful is known of a world's prompts alone, by its judge; elsewhere those measures are left out.
"""

import collections
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtrain import worlds
from jaxtrain.apps.constitutional import compare, revise

EXAMPLES = 8
Row = Mapping[str, Any]
_BINS = 5


def judged_by_world(prompts: Iterable[Any]) -> bool:
    """Whether all prompts are of a world, whose judge knows them."""
    return all(isinstance(one, str) and worlds.world_of_prompt(one) is not None for one in prompts)


def answer_measures(prompts: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """Measures by the world's judge of answers to its prompts.

    harmful (steps of a harmful request, or an insult), complies (such steps alone), parsable, refused, evasive and rude
    are shares of all; explained is the share of the refusals with a reason that fits, correct that of the harmless
    prompts answered rightly, benign that of the how-tos among them, each left out where there are none, and with its
    number of answers behind `_of`.
    """
    world = worlds.get()
    parsed = [world.parse(prompt) for prompt in prompts]
    verdicts = [world.judge(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    harmless = [v for prompt, v in zip(parsed, verdicts, strict=True) if not prompt.harmful]
    measures = {
        "answers": len(verdicts),
        "harmful": _mean(v.harmful for v in verdicts),
        "complies": _mean(p.harmful and v.steps > 0 for p, v in zip(parsed, verdicts, strict=True)),
        "parsable": _mean(v.parsable for v in verdicts),
        "refused": _mean(v.refuse for v in verdicts),
        "evasive": _mean(v.evade for v in verdicts),
        "rude": _mean(v.rude for v in verdicts),
    }
    some = {
        "explained": [v.explained for v in verdicts if v.refuse],
        "correct": [v.correct for v in harmless],
        "benign": [v.correct for p, v in zip(parsed, verdicts, strict=True) if p.how_to and not p.harmful],
    }
    for name, of in some.items():
        if of:
            measures |= {name: _mean(of), f"{name}_of": len(of)}
    return measures


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(map(float, values))


def by_round(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One line a round: counts of answers, faults and changes, and the judge's measures of the current answers."""
    world = judged_by_world(row["prompt"] for row in rows)
    chains = revise.chains_of(rows)
    lines = []
    for number in range(max((row["round"] for row in rows), default=-1) + 1):
        here = [row for row in rows if row["round"] == number]
        # A faulty round leaves the answer as it was; a prompt without an answer has none.
        current = {
            unit: next(
                (row for row in reversed(chain) if row["round"] <= number and "fault" not in row), None
            )
            for unit, chain in chains.items()
        }
        answers = [row for row in current.values() if row is not None]
        line = {
            "round": number,
            "asked": len(here),
            "faults": sum("fault" in row for row in here),
            "changed": sum(
                "fault" not in row and row["revision"] != row.get("before", row["revision"]) for row in here
            ),
        }
        if number and here:
            line["parsable_asked"] = 1 - line["faults"] / len(here)
        if world and answers:
            line |= answer_measures([row["prompt"] for row in answers], [row["revision"] for row in answers])
        lines.append(line)
    return lines


def by_principle(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By principle: revisions requested, faulty and changed, and harmful answers before and after, where known."""
    world, groups = judged_by_world(row["prompt"] for row in rows), collections.defaultdict(list)
    for row in rows:
        if row["round"]:
            groups[row["principle"]].append(row)
    principles = {}
    for name, mine in sorted(groups.items()):
        good = [row for row in mine if "fault" not in row]
        principles[name] = {
            "asked": len(mine),
            "faults": len(mine) - len(good),
            "changed": sum(row["revision"] != row["before"] for row in good),
        }
        if world and good:
            prompts = [row["prompt"] for row in good]
            principles[name] |= {
                when: answer_measures(prompts, [row[field] for row in good])["harmful"]
                for when, field in (("harmful_before", "before"), ("harmful_after", "revision"))
            }
    return principles


def label_measures(rows: Sequence[Row]) -> dict[str, Any]:
    """Of all labels, and by principle: confidence, order flips, agreement with the gold reward; and calibration."""
    groups = {"": list(rows)}
    for row in rows:
        groups.setdefault(row["principle"], []).append(row)
    measures = {name: _group_measures(mine) for name, mine in sorted(groups.items())}
    return {
        "all": measures.pop(""),
        "principles": measures,
        "calibration": _calibration([row for row in rows if "reward_chosen" in row]),
    }


def _group_measures(rows: Sequence[Row]) -> dict[str, Any]:
    measures = {"pairs": len(rows)}
    if not rows:
        return measures
    measures |= {"first_won": _mean(row["first_won"] for row in rows)}
    measures |= {"confidence": _mean(row["p_win"] for row in rows)}
    measures |= compare.position_bias([row["p_orders"] for row in rows])
    decided = [
        row for row in rows if "reward_chosen" in row and row["reward_chosen"] != row["reward_rejected"]
    ]
    if decided:
        measures["gold_decided"] = len(decided)
        measures["win_rate"] = _mean(row["reward_chosen"] > row["reward_rejected"] for row in decided)
    return measures


def _calibration(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """In bins of p_win: its mean, and how often the gold reward agrees; pairs of equal gold rewards are left out."""
    decided = [row for row in rows if row["reward_chosen"] != row["reward_rejected"]]
    bins = collections.defaultdict(list)
    for row in decided:
        bins[min(int((row["p_win"] - 0.5) * 2 * _BINS), _BINS - 1)].append(row)
    return [
        {
            "pairs": len(mine),
            "p_win": _mean(r["p_win"] for r in mine),
            "gold_agrees": _mean(r["reward_chosen"] > r["reward_rejected"] for r in mine),
        }
        for _, mine in sorted(bins.items())
    ]


def examples(rows: Sequence[Row], count: int = EXAMPLES) -> list[list[Row]]:
    """The first `count` chains of rounds whose answer changed, whole."""
    chains = revise.chains_of(rows)
    changed = [
        chain
        for chain in chains.values()
        if any("fault" not in row and row["revision"] != row.get("before", row["revision"]) for row in chain)
    ]
    return changed[:count]
