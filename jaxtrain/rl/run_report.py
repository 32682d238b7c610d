"""What an on-policy run leaves and prints once it is over: which step was best, what its metrics say, its curves."""

from jaxtrain import config
from jaxtrain.files import atomic
from jaxtrain.rl import curves, diagnosis
from jaxtrain.rl.config import WatchedStageConfig
from jaxtrain.stages import run_summary
from jaxtrain.stages.session import Session, print_lines
from jaxtrain.train import best_checkpoint, metrics, workdir


def write(cfg: WatchedStageConfig, session: Session) -> None:
    """Writes curves.html into the workdir, and prints the best step and the diagnosis."""
    if not session.primary:
        return
    rows, _ = metrics.read_rows(session.path / metrics.FILE)
    folder = session.path / workdir.CHECKPOINTS
    steps = workdir.saved_steps(folder)
    best = best_checkpoint.resume(cfg.run.keep_best, folder, steps)
    name = f"{session.path.parent.name}/{session.path.name}"
    values = config.to_dict(cfg)
    charts = curves.charts(rows, best and best.step, diagnosis.updates_of(values))
    atomic.write_text(session.path / curves.FILE, curves.page(charts, name))
    said = run_summary.metrics_say(diagnosis.diagnose(rows, values))
    lines = [
        *best_lines(best, steps, str(session.path)),
        *(said or ["what the metrics say: nothing stands out"]),
    ]
    print_lines([*lines, f"curves: {session.path / curves.FILE}"], True)


def best_lines(best: best_checkpoint.BestCheckpoint | None, steps: list[int], path: str) -> list[str]:
    """The best checkpoint and the last one, in words; empty without --keep_best."""
    if best is None:
        return []
    if best.step is None:
        return [f"no checkpoint was evaluated by {best.metric} yet, so that there is no {path}@best"]
    rest = "it is the last one" if best.step == steps[-1] else f"the last one is step {steps[-1]}"
    return [
        f"best checkpoint: step {best.step}, {best.metric} {best.value:.4g}; {rest}: {path}@best names it"
    ]
