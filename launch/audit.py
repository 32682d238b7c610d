#!/usr/bin/env python3
"""Says which packages of launch/cpu.lock have known vulnerabilities.

  launch/audit.py                by launch/advisories.json, without the network
  launch/audit.py --update       asks the package index, and writes that file; more arguments go to pip-audit

Without that file there is nothing to compare with: one line says so, and the exit status is 0. It is 1 where a package
has an advisory that IGNORED does not name. --update needs the extra: launch/setup.sh audit.
"""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.M)
IGNORED: dict = {}  # advisory -> why it does not concern this project


def pins(lock: Path) -> list:
    """(name, version) of each package of a lock; a package may have a version for each Python."""
    return sorted(set(PIN.findall(lock.read_text(encoding="utf-8"))))


def ask(packages: list, options: list) -> list:
    """pip-audit's answer for each package. Raises ValueError where it has none."""
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        while packages:
            # It refuses two versions of a package in one file.
            once = dict(reversed(packages))
            packages = [pin for pin in packages if once[pin[0]] != pin[1]]
            (names := Path(folder, "pins.txt")).write_text("".join(f"{n}=={v}\n" for n, v in once.items()))
            ran = subprocess.run(
                [sys.executable, "-m", "pip_audit", "--requirement", str(names), "--no-deps", "--disable-pip",
                 "--progress-spinner=off", "--format=json", *options],
                capture_output=True, text=True,
            )  # fmt: skip
            if ran.returncode not in (0, 1) or not ran.stdout.startswith("{"):
                raise ValueError(
                    f"pip-audit ended with status {ran.returncode}\n{ran.stderr.strip()[-2000:]}"
                )
            answers += json.loads(ran.stdout)["dependencies"]
    if unknown := [f"{one['name']}: {one['skip_reason']}" for one in answers if "skip_reason" in one]:
        rest = f" (and {len(unknown) - 1} more)" * (len(unknown) > 1)
        raise ValueError(f"no answer for {unknown[0]}{rest}; is the index within reach?")
    return [{key: one[key] for key in ("name", "version", "vulns")} for one in answers]


def report(packages: list, advisories: Path) -> int:
    """Prints what the file says of the packages, and returns the exit status."""
    if not advisories.is_file():
        print(f"audit skipped: there is no {advisories.name}; launch/audit.py --update writes it")
        return 0
    known = {(one["name"], one["version"]): one["vulns"] for one in json.loads(advisories.read_text())}
    missing = [f"{name} {version}" for name, version in packages if (name, version) not in known]
    hits = [(pin, one) for pin in packages for one in known.get(pin, ())]
    bad = [(pin, one) for pin, one in hits if one["id"] not in IGNORED]
    for (name, version), one in bad:
        print(f"{name} {version}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no release'}")
    print(
        f"audit of {len(packages)} packages: advisories: {len(bad)}, ignored: {len(hits) - len(bad)}", end=""
    )
    print(f"; not in {advisories.name}: {', '.join(missing)}" if missing else "")
    return int(bool(bad))


def main(argv: list, lock: Path = HERE / "cpu.lock", advisories: Path = HERE / "advisories.json") -> int:
    if argv and argv[0] != "--update":
        print(__doc__)
        return 0 if argv[0] in ("-h", "--help") else 2
    packages = pins(lock)
    if argv:
        if not importlib.util.find_spec("pip_audit"):
            print("launch/audit.py --update needs pip-audit: launch/setup.sh audit", file=sys.stderr)
            return 2
        try:
            answers = ask(packages, argv[1:])
        except ValueError as error:
            print(f"launch/audit.py: {error}", file=sys.stderr)
            return 1
        advisories.write_text(json.dumps(answers, indent=1) + "\n")
    return report(packages, advisories)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
