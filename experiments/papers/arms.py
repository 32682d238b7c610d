"""Shared by the papers' experiments on data: the same training on several corpora, and the results."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import source_spec
from jaxtrain.files import atomic
from jaxtrain.train import metrics


@dataclasses.dataclass(frozen=True)
class CorpusTrial(config.Group):
    # fmt: off
    workdir: str = config.arg("auto", "Folder of the runs and result.json; the same command resumes. auto: runs/NAME")
    model: str = config.arg("tinytown-1m", "Model of every run (models/zoo.py)")
    documents: int = config.arg(20_000, "Documents of the corpus before it is filtered", low=500)
    held_out: int = config.arg(800, "Clean documents that the loss is measured on", low=20)
    vocab: int = config.arg(1024, "Size of the BPE that all runs share", low=300)
    seq_len: int = config.arg(128, "Tokens in a row (T)", low=16)
    batch_size: int = config.arg(8, "Rows in a batch (B)", low=1)
    steps: int = config.arg(700, "Training steps of each run: all see as many tokens", low=20)
    lr: float = config.arg(4e-3, "Peak learning rate", low=0)
    seed: int = config.arg(0, "Seed of the corpus, and of every run", low=0)
    cache_dir: str = config.arg(config.CACHE_DIR, "Where prepared data sets and compiled programs are kept")
    # fmt: on


def folder_of(trial: CorpusTrial, name: str) -> Path:
    """The experiment's folder. Raises ConfigError where it holds the runs of other flags."""
    chosen = Path("runs") / name if trial.workdir == "auto" else Path(trial.workdir).expanduser()
    folder, file = chosen.absolute(), chosen.absolute() / "trial.json"
    flags = dataclasses.asdict(trial) | {"workdir": ""}
    if file.exists() and json.loads(file.read_text()) != flags:
        raise ConfigError(f"--workdir={chosen}: it holds runs of other flags; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(file, config.dumps(flags) + "\n")
    return folder


def write_corpus(path: Path, texts: Iterable[str]) -> Path:
    """Writes a JSONL file of texts; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(atomic.json_line({"text": text}) for text in texts)
    return path


def shared_tokenizer(folder: Path, texts: Sequence[str], size: int) -> Path:
    """The tokenizer of all runs, a BPE of the texts, so that their losses are of the same tokens."""
    from jaxtrain.data.tokenizer import train_bpe

    if not (folder / "tokenizer").exists():
        train_bpe(texts, size).save(folder / "tokenizer")
    return folder / "tokenizer" / "tokenizer.json"


def train(
    trial: CorpusTrial, folder: Path, corpora: Mapping[str, Iterable[str]], clean: Sequence[str]
) -> dict[str, Path]:
    """Pretrains one model on each corpus, all for as many tokens; returns the runs' folders. `clean` is held out."""
    from experiments import pretrain
    from jaxtrain.train import stop

    held_out = write_corpus(folder / "data" / "clean.jsonl", clean)
    runs = {}
    tokenizer = None
    for name, texts in corpora.items():
        path = write_corpus(folder / "data" / f"{name}.jsonl", texts)
        tokenizer = tokenizer or shared_tokenizer(folder, [*clean], trial.vocab)
        runs[name] = folder / name
        cfg = pretrain.Pretrain(
            model=config.Model(model=trial.model),
            data=config.Corpus(
                data=source_spec.of_path("jsonl", path),
                eval_data=source_spec.of_path("jsonl", held_out),
                tokenizer=str(tokenizer),
                seq_len=trial.seq_len,
                batch_size=trial.batch_size,
                cache_dir=trial.cache_dir,
            ),
            optim=config.Optim(lr=trial.lr, warmup=min(50, trial.steps // 10)),
            run=config.Run(
                workdir=str(runs[name]), steps=trial.steps, seed=trial.seed, eval_every=0, eval_batches=0,
                sample_every=0, checkpoint_every=0,
            ),
        )  # fmt: skip
        if not (runs[name] / "checkpoints" / str(trial.steps)).exists():
            print(f"training on {name}", flush=True)
            with contextlib.redirect_stdout(io.StringIO()):  # the table sums up the metrics of all runs
                pretrain.main(cfg)
            stop.raise_if_stopped(f"in {name}: the same command goes on with it")
    return runs


def clean_loss(run: Path) -> tuple[float, float]:
    """(nats a token, bits a byte) of the held-out clean documents at a run's end."""
    rows, _ = metrics.read_rows(run / metrics.FILE)
    last = [row for row in rows if "eval/loss" in row][-1]
    return last["eval/loss"], last["eval/bits_per_byte"]


def write_result(
    folder: Path,
    title: str,
    runs: Mapping[str, Path],
    result: dict[str, Any],
    table: Sequence[tuple[str, str]],
) -> None:
    """Writes result.json and report.html, and prints the table."""
    from jaxtrain.files import terminal

    files = folder / "result.json", folder / "report.html"
    atomic.write_text(files[0], config.dumps(result) + "\n")
    atomic.write_text(files[1], page(title, runs, table))
    print("\n".join(terminal.lines([*table, *(("result", str(file)) for file in files)])))


def page(title: str, runs: Mapping[str, Path], table: Sequence[tuple[str, str]]) -> str:
    """The HTML page of an experiment: its table, and the loss of its runs over their steps, which cost the same."""
    from jaxtrain.files import charts, html

    rows = {name: metrics.read_rows(run / metrics.FILE)[0] for name, run in runs.items()}

    def chart(heading: str, metric: str, note: str = "") -> charts.Chart | None:
        there = {name: [row for row in each if metric in row] for name, each in rows.items()}
        lines = [
            charts.Line(name, [row["step"] for row in each], [row[metric] for row in each])
            for name, each in there.items()
        ]
        return charts.line_chart(heading, lines, x="step", units=["nats a token"], note=note)

    own = "of each run on its own corpus, so that lines are not compared: copies are easy to predict, and junk is not"
    drawn = [chart("Training loss", "loss", own), chart("Loss on the clean held-out documents", "eval/loss")]
    template = html.template(Path(__file__).parent / "pages" / "experiment.html.jinja")
    return template.render(title=title, table=table, charts=[one for one in drawn if one])


def verdict(passed: bool) -> str:
    """A claim's outcome as text."""
    return "as expected" if passed else "NOT as expected"
