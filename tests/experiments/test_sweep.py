"""A sweep of tiny runs by its command: trained, ranked, and not trained again."""

import json

import pytest

from jaxtrain.config import ConfigError, Failure
from jaxtrain.files import processes
from tests.runs import MODEL, call, quick


@pytest.fixture
def in_process(monkeypatch):
    """Training commands run in this process, which saves starts of Python; those that ran."""
    commands = []

    def run(self, command, **options):
        commands.append(command)
        module, *flags = command[command.index("-m") + 1 :]
        call(module.removeprefix("experiments."), *flags)
        return 0

    monkeypatch.setattr(processes.ChildProcesses, "call", run)
    return commands


def test_a_grid_is_trained_ranked_and_resumed(bench, tmp_path, in_process):
    common = (
        f"{bench.corpus} {bench.cache} --model={MODEL} --seq_len=32 --batch_size=8 --eval_batches=1 "
        "--tokenizer=bpe:300 --eval_share=0.2 --steps=3 --warmup=0"
    )
    flags = ("--grid=lr=1e-6|0.02", f"--common={common}", f"--out={tmp_path / 'sweep'}", "--jobs=1")
    with quick():
        said = call("sweep", *flags)
    assert "2 combinations, 2 runs, 0 of them finished before" in said
    assert "--lr=0.02" in said.splitlines()[-1] and said.splitlines()[-1].startswith(
        "best  ./launch/run pretrain"
    )
    result = json.loads((tmp_path / "sweep" / "result.json").read_text())
    assert [one["flags"]["lr"] for one in result["trials"]] == ["0.02", "1e-6"]
    assert (tmp_path / "sweep" / "report.html").is_file() and len(in_process) == 2
    again = call("sweep", *flags)
    assert "2 runs, 2 of them finished before" in again and len(in_process) == 2
    assert again.splitlines()[-1] == said.splitlines()[-1]
    with pytest.raises(Failure, match=r"no run has the metric perplexity"):
        call("sweep", *flags, "--rank_by=perplexity")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), r"--grid: name flags"),
        (("--grid=lr=1|2", "--rank_by=eval/thing"), r"--rank_by=eval/thing: say whether more is better"),
        (("--grid=lr=1|2", "--rank_by="), r"--rank_by: name a metric"),
        (("--grid=lr=1|2", "--common=--data='a"), r"--common=--data='a: No closing quotation"),
        (("--grid=lr=1|2", "--trials_seed=1"), r"--trials_seed: acts only with --trials"),
        (("--grid=lr=1|2", "--command=serve"), r"--command=serve: choose one of"),
    ],
)
def test_wrong_flags_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        call("sweep", *flags)
