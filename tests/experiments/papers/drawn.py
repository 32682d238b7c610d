"""The outcome of an experiment's made-up results, whose figure is drawn."""

from typing import Any

from jaxtrain.apps.papers import figures


def outcomes(module: Any, cfg: Any, results: list, folder: Any) -> list[bool | None]:
    """What each check of the criterion says; writes the figure, whose text it looks for."""
    figures.write(folder, lambda figure: module.draw(cfg, results, figure))
    for name in (figures.LIGHT, figures.DARK):
        text = (folder / name).read_text(encoding="utf-8")
        assert "</text>" in text and len(text) < 200_000
    checks = module.judge(cfg, results)
    assert all(check.criterion and check.numbers for check in checks)
    return [check.passed for check in checks]
