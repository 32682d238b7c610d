"""What a constitution did: by round, by principle, label by label, from the rows that the phases keep.

Where the prompts are Tinytown's its judge says what is harmful; elsewhere those numbers are left out, not guessed.
"""

import collections
import html
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtrain.feedback import compare
from jaxtrain.feedback.gold import HOW_TO
from jaxtrain.worlds.tinytown.judge import judge
from jaxtrain.worlds.tinytown.prompts import parse_prompt

EXAMPLES = 8
Row = Mapping[str, Any]
_BINS = 5


def of_world(prompts: Iterable[Any]) -> bool:
    """Whether all prompts are questions that the world's judge knows."""
    return all(isinstance(one, str) and parse_prompt(one) is not None for one in prompts)


def answers(prompts: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
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


def rounds(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line a round: how many answers, faults and changes, and of the answers as they stand then the judge's word."""
    world = of_world(row["prompt"] for row in rows)
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
            line |= answers([row["prompt"] for row in there], [row["revision"] for row in there])
        told.append(line)
    return told


def revised(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By principle: revisions asked for, faulty and changed, and harmful answers before and after, where known."""
    world, found = of_world(row["prompt"] for row in rows), collections.defaultdict(list)
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
                when: answers(prompts, [row[field] for row in good])["harmful"]
                for when, field in (("harmful_before", "before"), ("harmful_after", "revision"))
            }
    return told


def labels(rows: Sequence[Row]) -> dict[str, Any]:
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
    found |= compare.bias([row["p_orders"] for row in rows])
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


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1a1a1a}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.2rem .7rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    ".chain{border-left:3px solid #888;padding-left:1rem;margin:1rem 0}.p{color:#666}.bar{display:inline-block;"
    "background:#4a7;height:.7em}@media(prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}"
    "td,th{border-color:#444}.p{color:#aaa}}"
)


def page(report: Mapping[str, Any]) -> str:
    """The report as one HTML file that needs nothing else."""
    said = html.escape
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Constitutional AI: audit</title>",
        f"<style>{_STYLE}</style><h1>Constitutional AI: audit</h1>",
        f"<p>Constitution <b>{said(report['constitution']['name'])}</b>, "
        f"{len(report['constitution']['principles'])} principles, {said(report['constitution']['fingerprint'])}.</p>",
    ]
    if report.get("rounds"):
        parts += ["<h2>By round</h2>", _table(report["rounds"], "harmful")]
    if report.get("revised"):
        parts += ["<h2>Revisions by principle</h2>", _table(_named(report["revised"], "principle"))]
    if report.get("labels"):
        told = report["labels"]
        parts += ["<h2>Comparisons</h2>", _table([told["all"]])]
        parts += ["<h2>Comparisons by principle</h2>", _table(_named(told["principles"], "principle"))]
        if told["calibration"]:
            parts += ["<h2>Labels against gold</h2>", _table(told["calibration"])]
    if report.get("models"):
        parts += ["<h2>Models on held-out prompts</h2>", _table(_named(report["models"], "model"))]
    if report.get("faults"):
        parts += [
            "<h2>Left out</h2>",
            _table([{"reason": k, "rows": n} for k, n in report["faults"].items()]),
        ]
    if report.get("examples"):
        parts += ["<h2>Before and after</h2>", *map(_chain, report["examples"])]
    parts += ["<h2>Principles</h2>", _table(report["constitution"]["principles"])]
    return "\n".join(parts) + "\n"


def _named(held: Mapping[str, Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    return [{name: key, **row} for key, row in held.items()]


def _table(rows: Sequence[Mapping[str, Any]], bar: str = "") -> str:
    if not rows:
        return "<p>none</p>"
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    body = []
    for row in rows:
        cells = "".join(f"<td>{_cell(row.get(name))}</td>" for name in names)
        width = f"<td><span class=bar style='width:{row[bar] * 12:.2f}em'></span></td>" if bar in row else ""
        body.append(f"<tr>{cells}{width}</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else html.escape(str(value))


def _chain(chain: Sequence[Row]) -> str:
    first = chain[0]
    prompt = (
        first["prompt"]
        if isinstance(first["prompt"], str)
        else " / ".join(one["content"] for one in first["prompt"])
    )
    lines = [f"<b>{html.escape(prompt)}</b>", f"<br>0: {html.escape(first['revision'])}"]
    for row in chain[1:]:
        told = f"{row['principle']}: {row.get('critique', 'no critique')}"
        after = f"left out, {row['fault']}" if "fault" in row else row["revision"]
        lines.append(f"<br><span class=p>{html.escape(told)}</span><br>{row['round']}: {html.escape(after)}")
    return f"<div class=chain>{''.join(lines)}</div>"
