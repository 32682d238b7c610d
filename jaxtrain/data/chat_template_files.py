"""Chat templates in the files of a tokenizer, as model repositories have them.

chat_template.jinja, and further ones in additional_chat_templates/NAME.jinja; chat_template.json; or chat_template in
tokenizer_config.json: a text, an object of names, or a list of {"name", "template"}. The first of these that is there
counts; the one of the name `default` is the default one.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError

_DEFAULT = "chat_template.jinja"
_NO_NAME = "default"
_FURTHER = "additional_chat_templates"
_JSON = ("chat_template.json", "tokenizer_config.json")


def read(folder: Path) -> tuple[str, dict[str, str]]:
    """(the default template or an empty text, the others by name); raises ConfigError for a broken file."""
    path = folder / _DEFAULT
    try:
        named = {_NO_NAME: path.read_text(encoding="utf-8")} if path.is_file() else {}
        for path in (folder / name for name in _JSON if not named):
            if path.is_file():
                named = _named(json.loads(path.read_text(encoding="utf-8")).get("chat_template") or {})
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: its chat template cannot be read ({type(error).__name__}: {error}); write the template "
            f"as text to {_DEFAULT} beside it"
        ) from error
    named |= {
        one.stem: one.read_text(encoding="utf-8") for one in sorted((folder / _FURTHER).glob("*.jinja"))
    }
    return named.pop(_NO_NAME, ""), named


def save(folder: str | os.PathLike[str], default: str, named: Mapping[str, str]) -> None:
    """Writes the files that `read` reads."""
    for name, source in (({_NO_NAME: default} if default else {}) | dict(named)).items():
        path = Path(folder) / (_DEFAULT if name == _NO_NAME else f"{_FURTHER}/{name}.jinja")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


def _named(content: Any) -> dict[str, str]:
    if isinstance(content, str):
        return {_NO_NAME: content}
    named = content if isinstance(content, dict) else {one["name"]: one["template"] for one in content}
    if wrong := [name for name, source in named.items() if not isinstance(source, str)]:
        raise TypeError(f"{wrong[0]} is not text")
    return {
        re.sub(r"[^\w.-]", "_", name): source for name, source in named.items()
    }  # they become names of files
