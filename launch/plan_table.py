#!/usr/bin/env python3
"""Runs the plan commands in the tables of a page, and writes what they print into the rest of their rows.

  launch/plan_table.py docs/devices.md [WORDS]

A row is `| COMMAND | ... |`, where COMMAND is `./launch/run plan ...` in code. With WORDS, only rows that have them
all. The page is written after each row. Exit status 1 where a command fails. Needs Python 3.8 and nothing else.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| `(\./launch/run plan [^`]*)` \|.*$", re.M)


def cells(command: str) -> str:
    """What a command prints as a row. Raises CalledProcessError where it fails."""
    ran = subprocess.run(
        [*shlex.split(command), "--row"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return ran.stdout.strip().splitlines()[-1]


def main(argv: list) -> int:
    if len(argv) < 2 or argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv[1:] else 2
    page, words, failed = Path(argv[1]), argv[2:], 0
    commands = [c for c in ROW.findall(page.read_text(encoding="utf-8")) if all(word in c for word in words)]
    for number, command in enumerate(commands, 1):
        print(f"{number} of {len(commands)}: {command}", file=sys.stderr, flush=True)
        try:
            found = cells(command)
        except subprocess.CalledProcessError as error:
            print(f"plan_table: exit status {error.returncode}: {command}", file=sys.stderr)
            failed += 1
            continue
        start = f"| `{command}` |"
        lines = page.read_text(encoding="utf-8").splitlines()
        lines = [f"{start} {found} |" if line.startswith(start) else line for line in lines]
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
