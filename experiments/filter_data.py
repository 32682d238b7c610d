"""Filter a corpus: quality, personal data, harm, spam, duplicates, contamination; every drop is listed."""

import textwrap
import time
from typing import TYPE_CHECKING, Any

from jaxtrain import flags
from jaxtrain.apps.filters import advice
from jaxtrain.apps.filters.config import Filter
from jaxtrain.config import ConfigError
from jaxtrain.data import source_spec
from jaxtrain.files import terminal

if TYPE_CHECKING:
    from jaxtrain.apps.filters.steps import Scorer

_WIDTH = 80  # characters of a line of advice


def main(cfg: Filter) -> None:
    """Runs the steps on every document of --data; writes kept and rejected documents and a report to --out."""
    if not cfg.source.data or not cfg.work.out:
        raise ConfigError("--data and --out: name the data, such as jsonl:corpus/*.jsonl, and a new folder")
    source_spec.check_sources(cfg.source.data, cfg.dialogs_config(), "data")
    if cfg.decontaminate.decontaminate:
        source_spec.check_sources(cfg.decontaminate.decontaminate, cfg.dialogs_config(), "decontaminate")

    from jaxtrain.apps.filters import executors, plan, requirements
    from jaxtrain.apps.filters import run as filter_run
    from jaxtrain.data import filtered

    requirements.require(cfg)
    scorer = _scorer(cfg)
    start = time.perf_counter()
    run = plan.open_run(cfg)
    if run.plan["finished"]:
        print(filter_run.check_finished(run))
    else:
        executors.execute(run, scorer)
        report = filtered.read_report(run.out)
        if report is None:
            print(
                f"submitted; each phase waits for the one before it. Finished when {run.out}/report.json exists"
            )
            return
        print(f"{report['read']:,} documents in {time.perf_counter() - start:.1f} s")
    print("\n".join(report_table(filtered.read_report(run.out))))
    print(f"\ntrain on it: --data={source_spec.of_path('filtered', cfg.work.out)}")


def _scorer(cfg: Filter) -> "Scorer | None":
    if not cfg.perplexity.scored_by:
        return None
    from jaxtrain.inference import perplexity

    return perplexity.bits_per_byte


def report_table(report: dict[str, Any]) -> list[str]:
    """The report's counts as lines for a terminal."""
    lines = [
        f"{report['read']:>12,} read",
        f"{report['kept']:>12,} kept, of which {report['changed']:,} changed",
        f"{report['rejected']:>12,} rejected, each in rejected.jsonl",
        *(f"{'':>12} {one['label']}: {note}" for one in report["sources"] for note in one.get("notes", ())),
        "",
        f"{'step':<16}{'seen':>12}{'dropped':>12}{'changed':>12}{'docs/s per core':>17}",
    ]
    for name, step in report["steps"].items():
        speed = f"{step['documents_per_second']:,}" if step["documents_per_second"] else "-"
        lines.append(f"{name:<16}{step['seen']:>12,}{step['dropped']:>12,}{step['changed']:>12,}{speed:>17}")
    lines += _scope(report)
    if report["measured"]:
        heads = ("against labels", "labelled", "found", "unlabelled", "precision", "recall")
        lines += ["", "".join(f"{head:<16}" if head == heads[0] else f"{head:>12}" for head in heads)]
        for name, one in report["measured"].items():
            scores = ["-" if one[key] is None else f"{one[key]:.4f}" for key in ("precision", "recall")]
            counts = [f"{one[key]:,}" for key in ("labelled", "found", "unlabelled")]
            lines.append(f"{name:<16}" + "".join(f"{cell:>12}" for cell in (*counts, *scores)))
        if {"exact", "near"} & report["measured"].keys():
            lines += textwrap.wrap(
                "A dropped duplicate is right where its text equals its kept copy's, or is as similar as "
                "--near_similarity asks, whatever its label.",
                _WIDTH,
            )
    for sentence in advice.sentences(report):
        lines += ["", *textwrap.wrap(sentence, _WIDTH)]
    return lines


def _scope(report: dict[str, Any]) -> list[str]:
    """The fields that were searched for personal data, and the rules that were not applied to some documents."""
    lines = []
    for name, step in report["steps"].items():
        if fields := step.get("fields"):
            lines += textwrap.wrap(f"{name} searched the fields {', '.join(fields)}", _WIDTH)
        reasons: dict[str, list[str]] = {}
        for rule, count in step.get("did_not_act", {}).items():
            rule, _, why = rule.partition("/")
            reasons.setdefault(why, []).append(terminal.singular(f"{rule} on {count:,} documents"))
        for why, rules in reasons.items():
            lines += textwrap.wrap(f"{name}: rules not applied ({why}): {', '.join(rules)}", _WIDTH)
    return ["", *lines] if lines else []


if __name__ == "__main__":
    flags.launch(Filter, main, "./launch/run filter_data")
