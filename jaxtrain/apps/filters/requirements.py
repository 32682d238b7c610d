"""Requirements of a filter run, checked before it starts: packages and classifier files."""

import importlib.util

from jaxtrain.apps.filters import classifier, pii
from jaxtrain.apps.filters.config import Filter
from jaxtrain.apps.filters.near_duplicates import NearDuplicates
from jaxtrain.config import ConfigError, require_default


def require(cfg: Filter) -> None:
    """Raises ConfigError where a package is missing, with its extra, a file is not a classifier, or a flag would do
    nothing.
    """
    _require_acting(cfg)
    for flag, path in (
        ("classifier", cfg.classifier.classifier),
        ("harm_classifier", cfg.harm.harm_classifier if cfg.steps.harm != "off" else ""),
    ):
        if path:
            classifier.load(path, flag)
    if cfg.language.languages:
        _require(f"--languages={cfg.language.languages}", ("py3langid",), "filters")
    if cfg.steps.heuristics != "off":
        _require("--heuristics=drop", ("py3langid",), "filters", ", or --heuristics=off")
    _require(f"--pii={cfg.pii.pii} and the report, which shows no personal data", pii.PACKAGES, "filters")
    require_near(cfg.near)
    if cfg.work.executor != "local":
        packages = ("datatrove", "ray") if cfg.work.executor == "ray" else ("datatrove",)
        _require(f"--executor={cfg.work.executor}", packages, "filters-cluster")


def _require_acting(cfg: Filter) -> None:
    """Raises ConfigError for the flags of steps that are off."""
    for name in ("heuristics", "repetition", "junk", "harm", "spam"):
        if getattr(cfg.steps, name) == "off":
            require_default(getattr(cfg, name), f"--{name}=off leaves the step out")
    if not cfg.language.languages:
        require_default(cfg.language, "acts only with --languages")
    if not cfg.perplexity.scored_by:
        require_default(cfg.perplexity, "acts only with --scored_by")


def require_near(settings: NearDuplicates) -> None:
    """Raises ConfigError where a package for near duplicates is missing."""
    if settings.near != "off":
        _require(f"--near={settings.near}", ("rensa", "rapidfuzz"), "filters", ", or --near=off")


def _require(flag: str, packages: tuple[str, ...], extra: str, instead: str = "") -> None:
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"{flag}: needs {' and '.join(missing)}: JAXTRAIN_EXTRAS={extra} with launch/run, or "
            f"pip install 'jaxtrain[{extra}]'{instead}"
        )
