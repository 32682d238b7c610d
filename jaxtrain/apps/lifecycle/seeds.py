"""The seeds of a lifecycle: what --seed and --seeds mean, and the folder of each seed's stages."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxtrain import config
from jaxtrain.apps.lifecycle import plan
from jaxtrain.apps.lifecycle.plan import LifecycleStep
from jaxtrain.config import ConfigError
from jaxtrain.files import atomic
from jaxtrain.train import workdir

FILE, FOLDER = "seeds.json", "seed-"
MOST = 99  # seeds of one report


def parse(seed: str, seeds: str) -> list[int]:
    """The seeds of --seed=S, or of --seeds=N (0 to N - 1) or --seeds=S,S,... Raises ConfigError."""
    if not seeds:
        return [_seed(seed, f"--seed={seed}")] if seed else [0]
    what, parts = f"--seeds={seeds}", [part.strip() for part in seeds.split(",")]
    numbers = [_seed(part, what) for part in parts]
    if len(numbers) == 1:
        (count,) = numbers
        if not 1 <= count <= MOST:
            raise ConfigError(
                f"{what}: one number is how many seeds, 1 to {MOST}; a seed alone is --seed={count}"
            )
        return [*range(count)]
    if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
        raise ConfigError(f"{what}: {_text(twice)} stands there twice; name each seed once")
    if len(numbers) > MOST:
        raise ConfigError(f"{what}: {len(numbers)} seeds; at most {MOST}")
    return numbers


def _seed(text: str, what: str) -> int:
    if not re.fullmatch(r"[0-9]+", text) or len(text) > 10 or int(text) > config.SEED_MAX:
        raise ConfigError(
            f"{what}: {text!r} is not a seed; write whole numbers from 0 to {config.SEED_MAX:,}"
        )
    return int(text)


def _text(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds))


def folders(
    root: Path, seeds: Sequence[int], several: bool, steps: Sequence[LifecycleStep], jitter: float
) -> dict[int, Path]:
    """{seed: folder of its stages}, made where they are missing: `root` itself, or with --seeds folders in it.

    Raises ConfigError where `root` is a run, or its stages have other seeds or another --jitter; nothing is changed
    then.
    """
    wanted = f"--seeds={_text(seeds)}" if several else f"--seed={_text(seeds)}"
    remedy = "name another --workdir, or the seeds of this one"
    if (root / workdir.CONFIG).exists():
        raise ConfigError(
            f"--workdir={root} is the folder of one run; name another, for the runs of all stages"
        )
    record = _read(root)
    alone = _trained(root, steps)
    if record is not None and (not several or set(record) != set(seeds)):
        raise ConfigError(f"{wanted}: --workdir={root} is of --seeds={_text(record)}; {remedy}")
    if alone is not None and (several or alone[0] != seeds[0]):
        raise ConfigError(f"{wanted}: --workdir={root} is of --seed={alone[0]}; {remedy}")
    places = {seed: root / f"{FOLDER}{seed}" for seed in seeds} if several else {seeds[0]: root}
    for place in places.values():
        trained = _trained(place, steps)
        if trained and trained[1] is not None and trained[1] != jitter:
            raise ConfigError(
                f"--jitter={jitter:g}: the stages in {place} have --jitter={trained[1]:g}; name another --workdir"
            )
    if several:
        root.mkdir(parents=True, exist_ok=True)
        atomic.write_sealed(root / FILE, {"seeds": [*seeds]})
    return {seed: plan.open_folder(place) for seed, place in places.items()}


def _read(root: Path) -> list[int] | None:
    """The seeds of a folder of several; None where it has none. A damaged record is moved aside, with a line."""
    there = sorted(
        int(entry.name.removeprefix(FOLDER))
        for entry in (root.iterdir() if root.is_dir() else ())
        if entry.is_dir() and re.fullmatch(FOLDER + "[0-9]+", entry.name)
    )
    file = root / FILE
    if not file.exists():
        return there or None
    try:
        return [int(seed) for seed in atomic.read_sealed(file)["seeds"]]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        aside = file.with_name(f"{FILE}.damaged")
        file.replace(aside)
        print(
            f"{file} is damaged ({error}): moved to {aside.name}; the seeds are those of the folders, {_text(there)}",
            file=sys.stderr,
            flush=True,
        )
        return there or None


def _trained(place: Path, steps: Sequence[LifecycleStep]) -> tuple[int, float | None] | None:
    """(seed, --jitter) of the stages in a folder, jitter None where none says it; None where there is no stage.

    A stage whose config.json is damaged says nothing here: its own command refuses it.
    """
    seed = jitter = None
    for step in steps:
        try:
            groups = workdir.read_run(place / step.name, "--workdir")["config"]
            seed = groups["run"]["seed"] if seed is None else seed
            if plan.starts_fresh(step) and jitter is None:
                jitter = groups["model"].get("jitter", 0.0)
        except (ConfigError, LookupError, TypeError, AttributeError):
            continue
    return None if seed is None else (seed, jitter)
