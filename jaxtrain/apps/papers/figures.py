"""An experiment's figure, drawn by matplotlib for light and for dark pages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError

LIGHT, DARK = "figure-light.svg", "figure-dark.svg"
SIZE = (7.2, 4.0)  # inches: the width of a README's column
# Colours that readers with each kind of colour blindness tell apart, on either background (contrast at least 3:1).
COLOURS = {
    LIGHT: ("#2f5fc4", "#a84a14", "#1a6f40", "#7a3d8f", "#566173", "#8a5a00"),
    DARK: ("#7ea6ff", "#f0a35e", "#6fcf97", "#d79bf0", "#a0abbd", "#e0b354"),
}
_INK = {
    LIGHT: ("#1c2330", "#566173", "#d5dbe5", "#ffffff"),
    DARK: ("#e4e8ef", "#a0abbd", "#2d3644", "#1a202a"),
}


def write(folder: Path, draw: Callable[[Any], None]) -> None:
    """Writes a figure for light and for dark pages: `draw` gets an empty matplotlib Figure with the page's colours."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the figure needs matplotlib: pip install 'jaxtrain[papers]'") from error
    for name in (LIGHT, DARK):
        with matplotlib.rc_context(_style(name)):
            figure = Figure(figsize=SIZE, layout="constrained")
            draw(figure)
            temporary = folder / f".{name}"
            figure.savefig(temporary, format="svg", metadata={"Date": None})
            temporary.replace(folder / name)


def _style(name: str) -> dict[str, Any]:
    from cycler import cycler

    ink, soft, line, page = _INK[name]
    return {
        "axes.prop_cycle": cycler(color=COLOURS[name]),
        "axes.edgecolor": soft, "axes.labelcolor": ink, "axes.titlecolor": ink, "text.color": ink,
        "xtick.color": soft, "ytick.color": soft, "xtick.labelcolor": ink, "ytick.labelcolor": ink,
        "axes.facecolor": page, "figure.facecolor": page, "savefig.facecolor": page,
        "axes.grid": True, "grid.color": line, "grid.linewidth": 0.7, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False,
        "axes.titlesize": 11, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
        "font.size": 10, "font.family": "sans-serif", "legend.fontsize": 9, "legend.frameon": False,
        "lines.linewidth": 1.8, "lines.markersize": 4.5,
        # Text stays text: small files, and a page's reader can select it. Ids that do not differ from run to run.
        "svg.fonttype": "none", "svg.hashsalt": "jaxtrain",
    }  # fmt: skip


def band(axes: Any, x: Any, ys: Any, label: str, **style: Any) -> None:
    """The mean over seeds, f32[seeds, points] over x, as a line, and the least and most as a band."""
    import numpy as np

    values = np.asarray(ys, float)
    (line,) = axes.plot(x, values.mean(0), label=label, marker="o", **style)
    if len(values) > 1:
        axes.fill_between(x, values.min(0), values.max(0), color=line.get_color(), alpha=0.18, linewidth=0)
