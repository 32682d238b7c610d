"""Writes tests/devices/golden.json anew for the compilers that are here: python -m tests.devices.golden [CHIP...]"""

import json
import sys

from tests.devices import cases

TABLES = {
    "v5e:2x2": tuple(cases.STAGES),
    "v5p:2x2x1": ("pretrain", "ppo", "sample"),
    "v6e:2x2": ("pretrain", "ppo", "sample"),
    "h100:4": ("pretrain", "sample", *cases.OF_GPU),
}


def main(chips: list[str]) -> None:
    """Compiles the stages of the table for these chips, or for all, and prints what changed."""
    table = json.loads(cases.GOLDEN.read_text()) if cases.GOLDEN.exists() else {}
    for chip, names in {chip: TABLES[chip] for chip in chips or TABLES}.items():
        if why := cases.missing(chip):
            print(f"{chip}: left as it is: {why}")
            continue
        own = table.setdefault(cases.release(chip), {})
        before = own.get(chip, {})
        names = (*dict.fromkeys((*names, *before)),)  # what the table has of others is compiled anew, too
        stages = cases.compiled([cases.request(name, chip) for name in names])
        own[chip] = {name: cases.memory(stage) for name, stage in zip(names, stages, strict=True)}
        for name, programs in own[chip].items():
            for program, sizes in programs.items():
                if (was := before.get(name, {}).get(program)) != sizes:
                    print(f"{chip} {name} {program}: {was} -> {sizes}")
        cases.GOLDEN.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
