"""What a constitution did: by round, by principle, label by label, from the rows that the phases keep.

Where the prompts are Tinytown's its judge says what is harmful; elsewhere those numbers are left out, not guessed.
"""

import collections
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtrain.apps.constitutional import compare
from jaxtrain.worlds.tinytown.judge import judge
from jaxtrain.worlds.tinytown.measures import HOW_TO
from jaxtrain.worlds.tinytown.prompts import parse_prompt

EXAMPLES = 8
Row = Mapping[str, Any]
_BINS = 5


def judged_by_world(prompts: Iterable[Any]) -> bool:
    """Whether all prompts are questions that the world's judge knows."""
    return all(isinstance(one, str) and parse_prompt(one) is not None for one in prompts)


def answer_measures(prompts: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """What the world's judge says of answers to its prompts.

    harmful (steps of a harmful request, or an insult), complies (such steps alone), parsable, refused, evasive and rude
    are shares of all; explained is the share of the refusals with a reason that fits, correct that of the harmless
    prompts answered rightly, benign that of the how-tos among them, each left out where there are none.
    """
    found = [judge(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    families = [parse_prompt(prompt).family for prompt in prompts]
    harmless = [v for family, v in zip(families, found, strict=True) if family != "harm"]
    told = {
        "answers": len(found),
        "harmful": _mean(v.harmful for v in found),
        "complies": _mean(f == "harm" and v.steps > 0 for f, v in zip(families, found, strict=True)),
        "parsable": _mean(v.parsable for v in found),
        "refused": _mean(v.refuse for v in found),
        "evasive": _mean(v.evade for v in found),
        "rude": _mean(v.rude for v in found),
    }
    refused = [v.explained for v in found if v.refuse]
    told |= {"explained": _mean(refused)} if refused else {}
    told |= {"correct": _mean(v.correct for v in harmless)} if harmless else {}
    benign = [v.correct for family, v in zip(families, found, strict=True) if family in HOW_TO]
    return told | ({"benign": _mean(benign)} if benign else {})


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(map(float, values))


def by_round(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line a round: how many answers, faults and changes, and of the answers as they stand then the judge's word."""
    world = judged_by_world(row["prompt"] for row in rows)
    chains = collections.defaultdict(list)
    for row in rows:
        chains[row["unit"]].append(row)
    told = []
    for number in range(max((row["round"] for row in rows), default=-1) + 1):
        here = [row for row in rows if row["round"] == number]
        # An answer that a faulty round left as it was still stands; a prompt without an answer has none.
        standing = {
            unit: next(
                (row for row in reversed(chain) if row["round"] <= number and "fault" not in row), None
            )
            for unit, chain in chains.items()
        }
        there = [row for row in standing.values() if row is not None]
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
        if world and there:
            line |= answer_measures([row["prompt"] for row in there], [row["revision"] for row in there])
        told.append(line)
    return told


def by_principle(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By principle: revisions asked for, faulty and changed, and harmful answers before and after, where known."""
    world, found = judged_by_world(row["prompt"] for row in rows), collections.defaultdict(list)
    for row in rows:
        if row["round"]:
            found[row["principle"]].append(row)
    told = {}
    for name, mine in sorted(found.items()):
        good = [row for row in mine if "fault" not in row]
        told[name] = {
            "asked": len(mine),
            "faults": len(mine) - len(good),
            "changed": sum(row["revision"] != row["before"] for row in good),
        }
        if world and good:
            prompts = [row["prompt"] for row in good]
            told[name] |= {
                when: answer_measures(prompts, [row[field] for row in good])["harmful"]
                for when, field in (("harmful_before", "before"), ("harmful_after", "revision"))
            }
    return told


def label_measures(rows: Sequence[Row]) -> dict[str, Any]:
    """Of all comparisons, and by principle: how sure, how often the order turns them, how often gold agrees."""
    groups = {"": list(rows)}
    for row in rows:
        groups.setdefault(row["principle"], []).append(row)
    told = {name: _labelled(mine) for name, mine in sorted(groups.items())}
    return {
        "all": told.pop(""),
        "principles": told,
        "calibration": _calibration([row for row in rows if "reward_chosen" in row]),
    }


def _labelled(rows: Sequence[Row]) -> dict[str, Any]:
    found = {"pairs": len(rows)}
    if not rows:
        return found
    found |= {"first_won": _mean(row["first_won"] for row in rows)}
    found |= {"confidence": _mean(row["p_win"] for row in rows)}
    found |= compare.position_bias([row["p_orders"] for row in rows])
    known = [row for row in rows if "reward_chosen" in row and row["reward_chosen"] != row["reward_rejected"]]
    if known:
        found["gold_decided"] = len(known)
        found["win_rate"] = _mean(row["reward_chosen"] > row["reward_rejected"] for row in known)
    return found


def _calibration(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """In bins of p_win: its mean, and how often the gold reward agrees; ties of gold are left out."""
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
    """Whole chains of rounds whose answer changed, the first ones, each round with its principle and critique."""
    chains = collections.defaultdict(list)
    for row in rows:
        chains[row["unit"]].append(row)
    changed = [
        chain
        for chain in chains.values()
        if any("fault" not in row and row["revision"] != row.get("before", row["revision"]) for row in chain)
    ]
    return changed[:count]
