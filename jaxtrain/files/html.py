"""HTML reports that need no network: templates in which every text is escaped and every name must be given."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parent / "pages"  # base.html.jinja, which reports extend


def template(file: Path, filters: Mapping[str, Callable] | None = None) -> Any:
    """The jinja2.Template of a file; it may include others of its folder, and extend base.html.jinja."""
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader([file.parent, PAGES]), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    env.filters |= filters or {}
    return env.get_template(file.name)
