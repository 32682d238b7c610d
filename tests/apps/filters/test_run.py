"""Nothing is lost and nothing is counted twice, whatever comes in and whenever the run is killed."""

import os
import shutil
from pathlib import Path

import pytest

from jaxtrain.apps.filters import run, steps
from jaxtrain.config import ConfigError
from jaxtrain.data import filtered, source_spec, sources
from tests.apps.filters import filtering
from tests.data.corpus import prose, text


def test_a_run_that_fails_in_mid_shard_goes_on_and_counts_nothing_twice(tmp_path, monkeypatch):
    source, flags = prose(tmp_path / "a.jsonl", 100), ("--shard=20",)
    whole = filtering.run(source, tmp_path / "whole", *flags)
    opened, read = steps.FilterPipeline._open, []

    def fails(self, name, record):
        read.append(name)
        if record["n"] == 67 and len(read) == 68:
            raise OSError("the machine went away")
        return opened(self, name, record)

    monkeypatch.setattr(steps.FilterPipeline, "_open", fails)
    with pytest.raises(OSError, match="went away"):
        filtering.run(source, tmp_path / "out", *flags)
    assert not filtered.read_report(tmp_path / "out")
    again = filtering.run(source, tmp_path / "out", *flags)
    assert len(read) == 68 + 40, "three finished shards are not read again"
    assert again[1:] == whole[1:]
    assert again[0]["fingerprint"] == whole[0]["fingerprint"]


@pytest.mark.parametrize("step", ["_write_rejected", "_link_kept"])
def test_a_kill_at_the_end_loses_nothing(tmp_path, monkeypatch, step):
    source = prose(tmp_path / "a.jsonl", 60)
    real = getattr(run, step)

    def killed(*args):
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, step, killed)
        with pytest.raises(KeyboardInterrupt):
            filtering.run(source, tmp_path / "out", "--shard=20")
    report, _, _ = filtering.run(source, tmp_path / "out", "--shard=20")
    assert report["read"] == 60


def test_training_reads_what_was_kept_with_its_fingerprint(tmp_path):
    source = prose(tmp_path / "a.jsonl", 40)
    report, kept, _ = filtering.run(source, tmp_path / "out", "--shard=15")
    cfg = filtering.config(source, tmp_path / "x").dialogs_config(f"filtered:{tmp_path}/out")
    records = sources.whole(source_spec.parse(cfg.data)[0], cfg)
    assert [one for _, block in records.blocks() for one in block] == kept
    source_spec.check_sources(cfg.data, cfg, "data")
    filtering.run(source, tmp_path / "other", "--shard=15", "--max_chars=60")
    other = filtering.config(source, tmp_path / "x").dialogs_config(f"filtered:{tmp_path}/other")
    assert sources.whole(source_spec.parse(other.data)[0], other).fingerprint != records.fingerprint
    part = tmp_path / "out" / report["files"][0]["file"]
    part.write_bytes(part.read_bytes().replace(b"whale", b"snail"))
    with pytest.raises(ConfigError, match=r"filtered:.*changed since it was written; filter again"):
        sources.whole(source_spec.parse(cfg.data)[0], cfg)
    with pytest.raises(ConfigError, match=r"holds no report.json.*filter_data"):
        source_spec.check_sources(f"filtered:{tmp_path}", cfg, "data")


def test_a_run_that_keeps_nothing_has_a_report_and_training_refuses_it(tmp_path):
    source = prose(tmp_path / "a.jsonl", 5)
    report, kept, _ = filtering.run(source, tmp_path / "out", "--max_chars=1")
    assert report["read"] == 5 and not kept
    with pytest.raises(ConfigError, match="accepted no document"):
        filtered.files_of(str(tmp_path / "out"), "data", tmp_path)


STOPPED = (
    "--shard=20", "--decontaminate_ngram=5", "--document_seconds=300", "--heuristics=off", "--repetition=off",
    "--junk=off", "--harm=off", "--spam=off",
)  # fmt: skip


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(source, flags, the folder of a run that was killed before its last phase, the result of one that was not)."""
    folder = tmp_path_factory.mktemp("stopped")
    texts = [text(i) * 2 for i in range(20)]
    source = filtering.source(
        folder, [*texts, texts[4], texts[5] + " once more", "", "bob@corp.com " + text(40)]
    )
    evals = filtering.source(folder, [text(3)], "evals.jsonl")
    flags = (*STOPPED, f"--decontaminate={evals}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        with pytest.MonkeyPatch.context() as killing, pytest.raises(KeyboardInterrupt):
            killing.setattr(run, "finish", killed)
            filtering.run(source, folder / "out", *flags)
        shutil.copytree(folder / "out", folder / "left")
        whole = filtering.run(source, folder / "out", *flags)
    dropped = {name for name, one in whole[0]["steps"].items() if one["dropped"]}
    assert dropped == {"read", "decontamination", "exact", "near"}
    return source, flags, folder, whole


def killed(*_):
    raise KeyboardInterrupt


def again(stopped, monkeypatch, harm, state="left"):
    """The result of the same command after `harm` to a copy of the folder in that state; it is that of a whole run."""
    source, flags, folder, whole = stopped
    shutil.rmtree(folder / "out")
    shutil.copytree(folder / state, folder / "out")
    harm(folder / "out")
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    result = filtering.run(source, folder / "out", *flags)
    assert result[1:] == whole[1:] and result[0]["fingerprint"] == whole[0]["fingerprint"]
    return result


def flipped(place):
    """Flips a bit of the byte at a share of the file."""

    def flip(path):
        body = bytearray(path.read_bytes())
        body[int(place * (len(body) - 1))] ^= 4
        path.write_bytes(body)

    return flip


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("plan.json", flipped(0.5), "plan.json is damaged"),
        ("plan.json", halved, "plan.json is damaged"),
        ("plan.json", Path.unlink, "plan.json is missing: made anew"),
        ("evals/ngrams.npy", flipped(0), "ngrams.npy differs"),
        ("broken/000000/tally.json", halved, "tally.json has"),
        ("check/000000/ends.npy", flipped(0), "ends.npy differs"),
        ("check/000001/kept.jsonl", flipped(1), "kept.jsonl differs"),
        ("exact/000000/first.npy", Path.unlink, "first.npy is missing"),
        ("pairs/000001/0001.npy", flipped(1), "0001.npy differs"),
        ("near/000000/kind.npy", flipped(1), "kind.npy differs"),
        ("write/000000/rejected.jsonl", halved, "rejected.jsonl has"),
        ("write/000001/checksums.json", flipped(0.5), "checksums.json is damaged"),
        ("write/000001/checksums.json", Path.unlink, ""),
    ],
)
def test_a_damaged_file_of_an_unfinished_run_is_made_anew(stopped, monkeypatch, capsys, name, harm, said):
    again(stopped, monkeypatch, lambda out: harm(out / "work" / name))
    assert said in capsys.readouterr().err


def test_tasks_of_another_plan_are_not_taken(stopped, monkeypatch, capsys):
    """A plan that is lost is made anew of the flags: of other flags no finished task is taken."""
    source, flags, folder, _ = stopped
    again(stopped, monkeypatch, lambda out: None)
    assert "made anew" not in capsys.readouterr().err
    other = (*flags, "--near_similarity=0.6", "--exact=off")
    shutil.rmtree(folder / "out")
    fresh = filtering.run(source, folder / "out", *other)
    shutil.rmtree(folder / "out")
    shutil.copytree(folder / "left", folder / "out")
    (folder / "out" / "work" / "plan.json").unlink()
    result = filtering.run(source, folder / "out", *other)
    assert "work/check/000000: it is of another plan" in capsys.readouterr().err
    assert result[1:] == fresh[1:] and "exact" not in result[0]["steps"]


@pytest.mark.parametrize("step", ["rmtree", "write_report", "write_page"])
def test_a_kill_in_the_last_phase_leaves_nothing_behind(stopped, monkeypatch, step):
    source, flags, *_ = stopped

    def harm(out):
        module = {"rmtree": shutil, "write_report": filtered, "write_page": run.report}[step]
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, step, killed)
            filtering.run(source, out, *flags)
        if step == "rmtree":
            assert filtered.read_report(out)
            (out / "work" / "plan.json").unlink()  # a part of the folder is gone

    again(stopped, monkeypatch, harm)


def test_the_results_of_a_finished_run_are_compared(stopped, monkeypatch, capsys):
    folder = stopped[2]
    again(stopped, monkeypatch, lambda out: None)
    shutil.rmtree(folder / "finished", ignore_errors=True)
    shutil.copytree(folder / "out", folder / "finished")
    page = (folder / "out" / "report.html").read_bytes()
    capsys.readouterr()
    again(stopped, monkeypatch, lambda out: halved(out / "report.html"), "finished")
    assert "report.html is not the page of the report: made anew" in capsys.readouterr().err
    assert (folder / "out" / "report.html").read_bytes() == page
    for name in ("kept/000000.jsonl", "rejected.jsonl", "report.json"):
        for harm in (flipped(0), flipped(0.5), flipped(1), halved, Path.unlink):
            with pytest.raises(ConfigError, match=name.rpartition("/")[2]):
                again(stopped, monkeypatch, lambda out, name=name, harm=harm: harm(out / name), "finished")
