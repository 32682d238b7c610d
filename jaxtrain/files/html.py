"""HTML reports that need no network: templates in which every text is escaped and every name must be given.

Templates extend base.html.jinja, and import chart.html.jinja for charts, whose library is then in the page.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtrain.files import charts, terminal

PAGES = Path(__file__).parent / "pages"


def template(file: Path, filters: Mapping[str, Callable] | None = None) -> Any:
    """The jinja2.Template of a file; it may include others of its folder, and extend base.html.jinja."""
    import jinja2
    from markupsafe import Markup

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader([file.parent, PAGES]), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    env.globals["asset"] = lambda name: Markup((PAGES / name).read_text(encoding="utf-8"))
    env.filters |= {"summary": charts.summary, "singular": terminal.singular, **(filters or {})}
    return env.get_template(file.name)
