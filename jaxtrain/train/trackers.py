"""--track: experiment trackers that get a run's metrics beside metrics.jsonl: Weights & Biases, trackio, MLflow.

Each is a Tracker, with the names that TensorBoard has (metric_names.grouped). A tracker without a key or a server works
offline; one that fails is closed and named once, and the run goes on.
"""

import contextlib
import hashlib
import importlib.util
import io
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError, is_remote
from jaxtrain.files import paths
from jaxtrain.train import workdir
from jaxtrain.train.metric_names import grouped, is_training

PROJECT = "jaxtrain"
_PARAMS_AT_ONCE = 100  # MLflow's limit
_PARAM_CHARS = 500
_OTHER_CHARS = re.compile(r"[^\w\-. :/]")  # of a name, for MLflow


class TrackedRun(NamedTuple):
    """What a tracker shows of a run beside its metrics."""

    name: str
    id: str  # the same when the run resumes
    folder: Path  # for what is written offline
    flags: Mapping[str, Any]


class Tracker(NamedTuple):
    """An open tracker."""

    write: Callable[[int, Mapping[str, float]], None]  # (step, metrics by their grouped names)
    text: Callable[[int, str, str], None]  # (step, name, text)
    close: Callable[[], None]
    note: str  # where the metrics are, for people


def require(names: Sequence[str]) -> None:
    """Raises ConfigError where the package of a tracker is not installed."""
    for name in names:
        needs = ["sqlalchemy"] if name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI") else []
        for package in (name, *needs):
            if importlib.util.find_spec(package) is None:
                raise ConfigError(
                    f"--track={name}: needs the package {package}; install the extra: pip install 'jaxtrain[{name}]'"
                )


def tracked_run(path: Path, record: Mapping[str, Any]) -> TrackedRun:
    """The run of a workdir, `record` its config.json."""
    flags = {name: value for part in record["config"].values() for name, value in part.items()}
    digest = hashlib.blake2b(
        f"{paths.absolute(path)} {record['started']}".encode(), digest_size=4
    ).hexdigest()
    folder = Path() if is_remote(path) else path
    return TrackedRun(path.name, digest, folder, {"stage": record["stage"], **flags})


@contextlib.contextmanager
def open_writer(names: Sequence[str], path: Path, primary: bool) -> Iterator["TrackerWriter | None"]:
    """The writer of a run's trackers, closed at the end; None where there are none, or another process writes."""
    if not (names and primary):
        yield None
        return
    writer = TrackerWriter(names, tracked_run(path, workdir.read_run(path)))
    try:
        writer.open()  # here, since it takes seconds, which are none of a step
        yield writer
    finally:
        writer.close()


class TrackerWriter:
    """Sends lines of metrics to trackers. The methods are those of EventWriter."""

    def __init__(self, names: Sequence[str], run: TrackedRun):
        self._names, self._run = names, run
        self._open: dict[str, Tracker] = {}

    def open(self) -> None:
        """Opens the trackers; one that cannot be opened is named."""
        for name in self._names:
            self._guarded(name, lambda name=name: self._add(name))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of a line of metrics.jsonl."""
        training = is_training(values)
        named = {grouped(name, training): value for name, value in values.items()}
        self._each(lambda tracker: tracker.write(step, named))

    def text(self, step: int, name: str, text: str) -> None:
        """A text, such as a sample."""
        self._each(lambda tracker: tracker.text(step, name, text))

    def close(self) -> None:
        """Sends what is left, and ends the run in each tracker."""
        self._each(lambda tracker: tracker.close())
        self._open = {}

    def _each(self, use: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            self._guarded(name, lambda tracker=tracker: use(tracker))

    def _add(self, name: str) -> None:
        self._open[name] = tracker = _OPEN[name](self._run)
        _print(f"{name}: {tracker.note}")

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a service's own: it must not end the training
            self._open.pop(name, None)
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            _print(f"{name}: {first}; nothing more is sent to it, and metrics.jsonl has every line")


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _wandb(run: TrackedRun) -> Tracker:
    import wandb

    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    mode = os.environ.get("WANDB_MODE")
    with contextlib.redirect_stderr(io.StringIO()):  # its notices; what fails is raised
        if mode is None:
            mode = "online" if wandb.login(prompt=False) else "offline"
        opened = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=run.name, id=run.id, resume="allow", mode=mode,
            dir=run.folder, config=dict(run.flags), settings=quiet,
        )  # fmt: skip
    opened.define_metric("*", step_metric="step")
    if mode == "offline":
        note = f"no key, so that it is written offline: `wandb sync {Path(opened.dir).parent}` sends it"
    else:
        note = opened.url or mode
    return Tracker(
        write=lambda step, values: opened.log({"step": step, **values}),
        text=lambda step, name, text: opened.log({"step": step, name: wandb.Html(_preformatted(text))}),
        close=opened.finish,
        note=note,
    )


def _preformatted(text: str) -> str:
    import html

    return f"<pre>{html.escape(text)}</pre>"


def _trackio(run: TrackedRun) -> Tracker:
    import trackio

    def quietly(f: Callable, *args: Any, **options: Any) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return f(*args, **options)

    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    name = f"{run.name}-{run.id}"  # a run is known by its name
    opened = quietly(
        trackio.init, project=project, name=name, resume="allow", config=dict(run.flags), embed=False,
        auto_log_gpu=False, auto_log_cpu=False,
    )  # fmt: skip
    return Tracker(
        write=lambda step, values: quietly(opened.log, dict(values), step=step),
        text=lambda step, name, text: quietly(
            opened.log, {name: trackio.Markdown(f"```\n{text}\n```")}, step=step
        ),
        close=lambda: quietly(trackio.finish),
        note=f"run {name}: `trackio show --project {project}` shows it",
    )


def _mlflow(run: TrackedRun) -> Tracker:
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    base = paths.absolute(run.folder).parent
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{base / 'mlflow.db'}"
    where = None if os.environ.get("MLFLOW_TRACKING_URI") else (base / "mlflow").as_uri()
    client, title = MlflowClient(uri, uri), os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    experiment = client.get_experiment_by_name(title)
    number = experiment.experiment_id if experiment else client.create_experiment(title, where)
    known = client.search_runs([number], f"tags.`jaxtrain.id` = '{run.id}'")
    if known:
        id = known[0].info.run_id
        client.update_run(id, status="RUNNING")
    else:
        id = client.create_run(number, run_name=run.name, tags={"jaxtrain.id": run.id}).info.run_id
        params = [Param(name, str(value)[:_PARAM_CHARS]) for name, value in run.flags.items()]
        for first in range(0, len(params), _PARAMS_AT_ONCE):
            client.log_batch(id, params=params[first : first + _PARAMS_AT_ONCE])

    def write(step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        # A value that is not finite is none that its servers store.
        metrics = [
            Metric(_OTHER_CHARS.sub("_", name), float(value), now, step)
            for name, value in values.items()
            if math.isfinite(value)
        ]
        client.log_batch(id, metrics=metrics)

    return Tracker(
        write=write,
        text=lambda step, name, text: client.log_text(id, text, f"{name}/{step}.txt"),
        close=lambda: client.set_terminated(id),
        note=f"run {run.name} in {uri}",
    )


_OPEN: dict[str, Callable[[TrackedRun], Tracker]] = {"wandb": _wandb, "trackio": _trackio, "mlflow": _mlflow}
