"""A run's completions and episodes as a page: turns with their rewards, filtered by reward, length and tool errors."""

import dataclasses
import sys
from pathlib import Path

from jaxtrain import config, flags
from jaxtrain.config import ConfigError


@dataclasses.dataclass(frozen=True)
class EpisodesOf(config.Group):
    # fmt: off
    run: str = config.arg("", "The run whose rollouts are shown: of ppo, grpo or online_dpo. It may also stand first, "
        "without --run=")
    out: str = config.arg("", "The page's file. By default episodes.html in the run's folder")
    most: int = config.arg(5000, "Most completions on the page, the newest ones; the others are counted", low=1)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class EpisodesPage:
    shown: EpisodesOf = config.group(EpisodesOf)


def main(cfg: EpisodesPage) -> None:
    """Writes the page, and prints where it is and what could not be read."""
    from jaxtrain.files import atomic
    from jaxtrain.rl import episodes_page
    from jaxtrain.train import run_list

    flags_of = cfg.shown
    if not flags_of.run:
        raise ConfigError("--run: name the run whose rollouts are to be shown, such as runs/grpo")
    run = run_list.resolve(Path(flags_of.run).expanduser(), "run")
    if not run.is_dir():
        raise ConfigError(f"--run={flags_of.run}: there is no such folder; ./launch/run runs lists your runs")
    episodes = episodes_page.read(run, flags_of.most)
    out = Path(flags_of.out).expanduser() if flags_of.out else run / "episodes.html"
    if out.is_dir():
        raise ConfigError(f"--out={out}: a folder; name the page's file, such as {out / 'episodes.html'}")
    atomic.write_text(out, episodes_page.page(run, episodes))
    if episodes.damaged:
        first = "; ".join(episodes.damaged[:3])
        print(
            f"{len(episodes.damaged)} completions cannot be read and are left out: {first}", file=sys.stderr
        )
    older = f", the newest of {episodes.total:,}" if len(episodes.rows) < episodes.total else ""
    print(f"{len(episodes.rows):,} completions{older}: {out}")


def with_flag(argv: list[str]) -> list[str]:
    """The arguments with a run that stands first as --run."""
    return [f"--run={argv[0]}", *argv[1:]] if argv and not argv[0].startswith("-") else argv


if __name__ == "__main__":
    sys.argv[1:] = with_flag(sys.argv[1:])
    flags.launch(EpisodesPage, main, "./launch/run episodes")
