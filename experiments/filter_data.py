"""Filter a corpus: quality, personal data, harm, spam, duplicates, contamination; nothing vanishes."""

import time

from jaxtrain import flags
from jaxtrain.config import ConfigError
from jaxtrain.data import spec
from jaxtrain.data.quality.settings import Filter


def main(cfg: Filter) -> None:
    """Runs the steps on every document of --data, and writes what is kept, what is not, and a report to --out."""
    if not cfg.source.data or not cfg.work.out:
        raise ConfigError("--data and --out: name the data, such as jsonl:corpus/*.jsonl, and a new folder")
    spec.check_sources(cfg.source.data, cfg.source.reading(), "data")
    if cfg.decontaminate.decontaminate:
        spec.check_sources(cfg.decontaminate.decontaminate, cfg.source.reading(), "decontaminate")

    from jaxtrain.data import filtered
    from jaxtrain.data.quality import executors, plan

    executors.require(cfg.work.executor)
    scorer = _scorer(cfg)
    began = time.perf_counter()
    made = plan.begin(cfg)
    if not made.plan["finished"]:
        executors.execute(made, scorer)
        report = filtered.held(made.out)
        if report is None:
            print(
                f"submitted; each phase waits for the one before it. Done when {made.out}/report.json is there"
            )
            return
        print(f"{report['read']:,} documents in {time.perf_counter() - began:.1f} s")
    print("\n".join(table(filtered.held(made.out))))
    print(f"\ntrain on it: --data=filtered:{cfg.work.out}")


def _scorer(cfg: Filter):
    if not cfg.perplexity.scored_by:
        return None
    from experiments import perplexity

    return perplexity.score


def table(report: dict) -> list[str]:
    """The report's counts for a terminal."""
    lines = [
        f"{report['read']:>12,} read",
        f"{report['kept']:>12,} kept, of which {report['changed']:,} changed",
        f"{report['rejected']:>12,} rejected, each in rejected.jsonl",
        "",
        f"{'step':<16}{'seen':>12}{'dropped':>12}{'changed':>12}{'docs/s a core':>15}",
    ]
    for name, step in report["steps"].items():
        speed = f"{step['documents_per_second']:,}" if step["documents_per_second"] else "-"
        lines.append(f"{name:<16}{step['seen']:>12,}{step['dropped']:>12,}{step['changed']:>12,}{speed:>15}")
    if report["measured"]:
        lines += ["", f"{'against labels':<16}{'labelled':>12}{'found':>12}{'precision':>12}{'recall':>15}"]
        for name, one in report["measured"].items():
            shown = ["-" if one[key] is None else f"{one[key]:.4f}" for key in ("precision", "recall")]
            lines.append(f"{name:<16}{one['labelled']:>12,}{one['found']:>12,}{shown[0]:>12}{shown[1]:>15}")
    return lines


if __name__ == "__main__":
    flags.launch(Filter, main, "./launch/run filter_data")
