"""Readers of records besides those of training, as the attack by malformed records calls them: filter_data,
train_classifier, and evaluate's --people.
"""

import contextlib
import importlib
import io
import json
from pathlib import Path

from jaxtrain import flags
from jaxtrain.data import filtered, preferences_db, source_spec
from jaxtrain.data.bad_records import Skips
from jaxtrain.data.read_limits import DEFAULT

# Steps that are slow to start, and those that leave nothing of records of a few words.
_OFF = ("heuristics", "repetition", "near")


def _run(name: str, config: str, *given: str) -> None:
    """Runs a command in this process. Raises what its main raises."""
    command = importlib.import_module(f"experiments.{name}")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        command.main(flags.from_flags(getattr(command, config), list(given)))


def filter_data(data: str, policy: str, cache_dir: str) -> None:
    """Filters the records. Raises AssertionError unless those that were read are kept or rejected."""
    out = Path(cache_dir) / "out"
    out.parent.mkdir(parents=True, exist_ok=True)
    common = (f"--data={data}", f"--on_bad_record={policy}", f"--cache_dir={cache_dir}")
    _run("filter_data", "Filter", *common, f"--out={out}", "--workers=1", *(f"--{step}=off" for step in _OFF))
    report = filtered.read_report(out)
    kept = sum(len((out / one["file"]).read_bytes().splitlines()) for one in report["files"])
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_bytes().splitlines()]
    dropped = sum(line["action"] == "drop" for line in lines)
    if (report["kept"], report["rejected"], report["read"]) != (kept, dropped, kept + dropped):
        raise AssertionError(f"{report['read']} documents read, {kept} kept, {dropped} rejected")


def train_classifier(data: str, policy: str, cache_dir: str) -> None:
    """Trains a classifier on the records' labels."""
    folder = Path(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    common = (f"--data={data}", f"--on_bad_record={policy}", f"--cache_dir={cache_dir}")
    _run("train_classifier", "TrainClassifier", *common, "--label_field=label", "--epochs=1",
         f"--out={folder / 'classifier.npz'}")  # fmt: skip


def people(data: str, policy: str, cache_dir: str) -> None:
    """Reads votes as evaluate does. Raises AssertionError for one that could not be counted."""
    skips = Skips(policy)
    for path in source_spec.files(source_spec.parse(data)[0]):
        for vote in preferences_db.votes(path, Path(cache_dir), DEFAULT, skips):
            if not len(vote.texts) == len(vote.ranks) == len(vote.models) >= 2:
                raise AssertionError(f"a vote on {vote.texts} of {vote.models}")
    folder = Path(cache_dir) / "people"
    folder.mkdir(parents=True, exist_ok=True)
    skips.save(folder)
