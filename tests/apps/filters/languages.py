"""Good texts in many languages and forms, of a kind that rules made for English prose take for bad ones."""

import json
from pathlib import Path

TEXTS: dict[str, str] = json.loads((Path(__file__).parent / "languages.json").read_text(encoding="utf-8"))
