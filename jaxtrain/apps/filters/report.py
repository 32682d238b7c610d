"""report.html: the report of a filter run, in one file that needs no network.

`samples_and_scores` reads rejected.jsonl once, for a few samples and the scores of each step; `page` renders the page.
The template escapes every text. Personal data is not shown, whichever step rejected the document.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from jaxtrain.apps.filters import advice, pii, record_texts, thresholds
from jaxtrain.apps.filters.types import Finding
from jaxtrain.files import charts, html
from jaxtrain.files.charts import Chart
from jaxtrain.measures.win_rates import interval_text

_PROPORTIONS = ("distinct_1", "distinct_2", "distinct_3", "self_bleu")  # of words, not of documents
_YEARS = ("median_year", "newest_year")
_SAMPLES, _SCORES, _BINS = 6, 4_000, 24
_FEWEST = 10  # scores of a rule that has a histogram
_BEFORE, _AFTER = 120, 420  # characters of a sample before and after the finding
_PRIVATE = pii.check(pii.PiiFilter())
TITLES = {
    "read": "reading of the records",
    "language": "another language",
    "heuristics": "rules of Gopher, C4 and FineWeb",
    "repetition": "repetition",
    "junk": "junk",
    "classifier": "quality classifier",
    "perplexity": "perplexity",
    "pii": "personal data and keys",
    "harm": "harmful content",
    "spam": "spam and ads",
    "decontamination": "contamination by an evaluation set",
    "exact": "exact duplicates",
    "near": "near duplicates",
}
# factor -> its use, and the titles of its numbers
FACTORS = {
    "diversity": (
        "Broader knowledge and capabilities",
        {
            "distinct_1": "distinct words of all",
            "distinct_2": "distinct pairs of words of all",
            "distinct_3": "distinct triples of words of all",
            "self_bleu": "self-BLEU: similarity of one document to the others",
            "distance": "mean cosine distance of two documents",
            "clusters": "clusters in use, of 16",
        },
    ),
    "accuracy": (
        "Fewer hallucinations",
        {
            "checked": "statements that could be checked",
            "right": "of them right",
            "questions_asked_again": "questions with several answers",
            "consistent": "two answers to one question agree",
        },
    ),
    "recency": (
        "More current knowledge",
        {
            "dated": "documents that name a year",
            "median_year": "their median year",
            "newest_year": "the newest year",
        },
    ),
    "formatting": (
        "Better output structure",
        {
            "complete": "end as a text ends",
            "balanced": "brackets and code fences close",
            "clean_letters": "no broken letters",
            "lists": "have lists",
            "code": "have code blocks",
        },
    ),
    "safety": (
        "Better refusal behavior",
        {
            "harm": "harmful content found",
            "personal_data": "personal data found",
            "spam": "advertising found",
            "junk": "junk found",
        },
    ),
}


def samples_and_scores(lines: Iterable[Mapping[str, Any]], *, seed: int = 0) -> dict[str, Any]:
    """{"samples": {step: [...]}, "scores": {step/rule: {"edges", "counts"}}} of the lines of rejected.jsonl.

    Both are reservoir samples, so that the memory does not grow with the lines.
    """
    rng = random.Random(seed)
    sampled: dict[str, list[Any]] = {}
    seen: dict[str, int] = {}
    for line in lines:
        step, rule = line["step"], line["rule"]
        _reservoir(rng, sampled.setdefault(step, []), seen, step, _SAMPLES, line)
        key = f"{step}/{rule}"
        _reservoir(rng, sampled.setdefault(key, []), seen, key, _SCORES, line["score"])
    return {
        "samples": {
            step: [_sample(one) for one in ones] for step, ones in sampled.items() if "/" not in step
        },
        "scores": {
            key: histogram(values)
            for key, values in sampled.items()
            if "/" in key and len(values) >= _FEWEST and len(set(values)) > 1
        },
    }


def _reservoir(
    rng: random.Random, sampled: list, seen: dict[str, int], key: str, most: int, one: Any
) -> None:
    seen[key] = seen.get(key, 0) + 1
    if len(sampled) < most:
        sampled.append(one)
    elif (at := rng.randrange(seen[key])) < most:
        sampled[at] = one


def histogram(values: Sequence[float]) -> dict[str, list]:
    """A histogram of bins of equal width: {"edges": n + 1 numbers, "counts": n numbers}."""
    low, high = min(values), max(values)
    count = min(_BINS, len(set(values)))
    width = (high - low) / count or 1.0
    counts = [0] * count
    for value in values:
        counts[min(int((value - low) / width), count - 1)] += 1
    return {"edges": [low + i * width for i in range(count + 1)], "counts": counts}


def _sample(line: Mapping[str, Any]) -> dict[str, Any]:
    """A sample of the page: the text before, in and after the finding."""
    texts = record_texts.find_strings(line["record"])
    part = next((p for p in texts if record_texts.path_text(p.path) == line.get("part")), None)
    part = part or max(texts, key=lambda p: len(p.text), default=None)
    text = part.text if part and isinstance(part.text, str) else json.dumps(line["record"], default=str)
    start, end = line.get("span") or (0, 0)
    first, marked, last = max(0, start - _BEFORE), min(end, start + _AFTER), end + _AFTER
    base = max(0, first - _AFTER)
    private = [
        one._replace(span=(one.span[0] + base, one.span[1] + base))
        for one in _PRIVATE(text[base : last + _AFTER])
    ]
    return {
        "id": line["id"],
        "rule": line["rule"],
        "score": line["score"],
        "action": line["action"],
        "more": len(line.get("others", ())),
        "before": ("… " if first else "") + _masked_piece(text, first, start, private),
        "marked": _masked_piece(text, start, marked, private),
        "after": _masked_piece(text, end, last, private) + (" …" if len(text) > last else ""),
    }


def _masked_piece(text: str, start: int, end: int, private: Sequence[Finding]) -> str:
    """text[start:end] with personal data masked, also where it is only partly inside."""
    end = min(end, len(text))
    inside = [
        one._replace(span=(max(one.span[0], start) - start, min(one.span[1], end) - start))
        for one in private
        if one.span[0] < end and start < one.span[1]
    ]
    return record_texts.mask_findings(text[start:end], inside)


def page(report: Mapping[str, Any]) -> bytes:
    """The page of a report.json: its counts, and "samples", "scores", "measured", "factors" where it has them.

    "factors" is {"before": ..., "after": ...} of corpus_stats.quality_factors.
    """
    text = _template().render(
        report=report,
        data=report.get("data") or report.get("config", {}).get("source", {}).get("data", ""),
        steps=_steps(report),
        charts=_charts(report),
        advice=advice.sentences(report),
        factors=_factors(report.get("factors", {})),
        titles=TITLES,
    )
    return text.encode("utf-8", "backslashreplace")


def write_page(report: Mapping[str, Any], path: str | Path) -> None:
    """Writes the page of a report.json."""
    Path(path).write_bytes(page(report))


@cache
def _template() -> Any:
    file = Path(__file__).parent / "pages" / "report.html.jinja"
    filters = {
        "count": lambda n: f"{n:,}",
        "share": share_text,
        "number": number_text,
        "interval": partial(interval_text, digits=1),
    }
    return html.template(file, filters)


def share_text(value: float | None) -> str:
    """A share as text, in percent; small ones with two digits."""
    if value is None:
        return "–"
    percent = 100 * value
    return (
        f"{percent:.0f} %"
        if percent in (0, 100)
        else f"{percent:.1f} %"
        if percent >= 0.1
        else f"{percent:.2g} %"
    )


def number_text(value: Any) -> str:
    """A number as text; None, not known from the data, is a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _steps(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    read = max(1, report["read"])
    return [
        {
            "name": name,
            "title": TITLES.get(name, name),
            "share": (one["dropped"] + one["changed"]) / read,
            **{
                key: sorted(one.get(key, {}).items(), key=lambda item: -item[1])
                for key in ("rules", "did_not_act", "fields")
            },
            **{key: one[key] for key in ("seen", "dropped", "changed", "documents_per_second")},
        }
        for name, one in report["steps"].items()
    ]


def _charts(report: Mapping[str, Any]) -> list[Chart]:
    """Histograms of lengths, of years that documents name, and of the scores of rules, with their thresholds."""
    made = [_lengths(report.get("lengths", {})), _decades(report.get("factors", {}))]
    for key, value in sorted(report.get("scores", {}).items()):
        step, _, rule = key.partition("/")
        marks = thresholds.marks(step, rule, report.get("config", {}))
        title = f"{rule} ({TITLES.get(step, step)})"
        made.append(
            charts.histogram(
                title,
                value["edges"],
                value["counts"],
                x="score of a rejected document",
                unit="documents",
                marks=marks,
            )
        )
    return [chart for chart in made if chart]


def _lengths(lengths: Mapping[str, int]) -> Chart | None:
    """A histogram of documents by length; the keys are powers of two, each above the lengths that it counts."""
    if not lengths:
        return None
    powers = [int(key).bit_length() for key in lengths]
    every = [2 ** (power - 1) for power in range(min(powers), max(powers) + 1)]
    counts = [lengths.get(str(key), 0) for key in every]
    labels = [f"{key // 2:,} to {max(key - 1, 0):,}" for key in every]
    chart = charts.bar_chart(
        "Length of a document, all that were read", labels, counts, x="characters", unit="documents"
    )
    return chart | {"ticks": [f"{key // 2:,}" for key in every]}


def _decades(factors: Mapping[str, Any]) -> Chart | None:
    counts = factors.get("after", factors.get("before", {})).get("recency", {}).get("decades", {})
    if not counts:
        return None
    every = [str(decade) for decade in range(min(map(int, counts)), max(map(int, counts)) + 10, 10)]
    found = [counts.get(decade, 0) for decade in every]
    title = "Newest year that a document names, of a sample"
    return charts.bar_chart(title, [f"{decade}s" for decade in every], found, x="decade", unit="documents")


def _factors(factors: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not factors:
        return []
    out = []
    for name, (meaning, rows) in FACTORS.items():
        cells = [
            {
                "name": title,
                **{
                    side: _factor(factors[side], name, key) for side in ("before", "after") if side in factors
                },
            }
            for key, title in rows.items()
        ]
        out.append({"name": name, "meaning": meaning, "rows": cells})
    return out


def _factor(factors: Mapping[str, Any], name: str, key: str) -> dict[str, str]:
    """A number of a factor as text, and the interval of a share of documents, statements or questions."""
    value, accuracy = factors[name].get(key), factors["accuracy"]
    if key in _PROPORTIONS:
        return {"text": share_text(value), "interval": ""}
    of = {"right": accuracy.get("checked"), "consistent": accuracy.get("questions_asked_again")}
    documents = (*FACTORS["formatting"][1], *FACTORS["safety"][1], "dated")
    of |= dict.fromkeys(documents, factors["diversity"].get("documents"))
    if key in of:
        return {"text": share_text(value), "interval": interval_text(value, of[key], digits=1)}
    return {"text": str(value) if value and key in _YEARS else number_text(value), "interval": ""}
