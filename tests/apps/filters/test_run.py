"""Nothing is lost and nothing is counted twice, whatever comes in and whenever the run is killed."""

import base64
import gzip
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxtrain.apps.filters import executors, plan, run, spam, steps
from jaxtrain.apps.filters.types import Finding
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data import filtered, source_spec, sources
from tests.apps.filters import filtering
from tests.apps.filters.filtering import QUIET, only
from tests.data.corpus import prose, text, write


def test_every_document_is_kept_or_listed_with_its_reason(tmp_path):
    world = "tinytown:pretrain?documents=3000&originals=200&dup=.1&near_dup=.05&junk=.05&spam=.05&pii=.05"
    report, kept, lines = filtering.run(world, tmp_path / "out", "--shard=1100")
    assert report["read"] == 3000 and report["changed"] > 100
    assert {line["step"] for line in lines} >= {"junk", "pii", "spam", "exact", "near"}
    for line in lines:
        assert {"id", "action", "step", "rule", "score", "part", "span", "record"} <= set(line)
    masked = [line for line in lines if line["action"] == "mask"]
    assert all(
        line["record"]["planted"] in line["record"]["text"] for line in masked if line["record"]["planted"]
    )
    assert not any(record["planted"] and record["planted"] in record["text"] for record in kept)
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!")


def test_precision_and_recall_of_labelled_defects(tmp_path):
    """Exact, since the labels are. Near duplicates of this world are true ones, but by chance more than by plan."""
    world = "tinytown:pretrain?documents=6000&originals=400&dup=.1&near_dup=.05&junk=.05&spam=.05&pii=.05"
    report, _, _ = filtering.run(world, tmp_path / "out")
    measured = report["measured"]
    assert set(measured) == {"quality", "spam", "pii", "exact", "near"}
    for name, one in measured.items():
        assert one["labelled"] > 200, name
        least = 0.98 if name == "pii" else 0.95
        assert one["precision"] >= least and one["recall"] >= least, (name, one)


FORMATS = {
    "completion": {"prompt": "Whom do I ask?", "completion": "Write to ann@example.com."},
    "messages": {
        "messages": [
            {"role": "user", "content": "I am bob@example.com."},
            {"role": "assistant", "content": "Hello."},
        ]
    },
    "preference": {
        "prompt": "Hi",
        "chosen": "Call 202-555-0123 to ask.",
        "rejected": "Mail ann@example.com.",
    },
    "text": {"text": "My server is 203.0.113.7."},
}


@pytest.mark.parametrize("name", FORMATS)
def test_personal_data_is_masked_in_every_format(tmp_path, name):
    record = {**FORMATS[name], "n": 1}
    _, kept, lines = filtering.run(write(tmp_path / "a.jsonl", [record]), tmp_path / "out", *only("pii"))
    assert kept != [record] and lines[0]["record"] == record and lines[0]["action"] == "mask"
    found = [lines[0], *lines[0].get("others", [])]
    shown = json.dumps(kept)
    for one in found:
        value = record
        for key in re.findall(r"\w+", one["part"]):
            value = value[int(key) if key.isdigit() else key]
        hidden = value[slice(*one["span"])]
        assert hidden not in shown and one["replacement"] in shown
    assert len(found) == (2 if name == "preference" else 1)


def test_what_is_only_read_or_avoided_is_not_judged(tmp_path):
    advert = "BUY A LAMP NOW!!! Only $90 today!!! Visit www.lamp90.example"
    rows = [
        {"prompt": advert, "completion": "This is an advertisement."},
        {"prompt": "Sell me a lamp.", "completion": advert},
        {"prompt": "Sell me a lamp.", "chosen": "No.", "rejected": advert},
        {"prompt": "Sell me a lamp.", "chosen": advert, "rejected": "No."},
    ]
    for more, dropped in (((), [1, 3]), (("--judged=all",), [0, 1, 2, 3])):
        out = tmp_path / f"out{len(more)}"
        _, _, lines = filtering.run(write(tmp_path / "a.jsonl", rows), out, *only("spam"), *more)
        assert [rows.index(line["record"]) for line in lines] == dropped
        assert {line["step"] for line in lines} == {"spam"}


def test_broken_lines_and_encodings_are_kept_to_the_byte(tmp_path):
    bad = [
        b'{"text": "caf\xe9"}',
        b"\x00\xff\xfe binary \x80 junk",
        b'{"text": "cut',
        b"[1, 2]",
        b'"\xc3\xa9"',
    ]
    good = [json.dumps({"text": text(i)}).encode() for i in range(3)]
    odd = [
        rb'{"text": "half \ud800 pair"}',
        b'{"text": ""}',
        b'{"text": " \\n"}',
        b'{"title": "x"}',
        b'{"text": 5}',
    ]
    data = b"\n".join([*good, *bad, *odd]) + b"\n"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    report, kept, lines = filtering.run(f"jsonl:{tmp_path}/a.jsonl.gz", tmp_path / "out", *QUIET)
    assert report["read"] == 13 and len(kept) == 3
    raw = {
        base64.b64decode(line["record"]["line_base64"]).rstrip(b"\n")
        if "line_base64" in line["record"]
        else line["record"]["line"].encode()
        for line in lines
        if set(line["record"]) <= {"line", "line_base64"}
    }
    assert raw == set(bad)
    assert {line["rule"] for line in lines} == {
        "invalid_utf-8", "not_json", "not_a_json_object_but_list", "not_a_json_object_but_str", "half_surrogate_pair",
        "empty", "no_text",
    }  # fmt: skip
    assert [line["record"] for line in lines if line["rule"] == "half_surrogate_pair"] == [
        {"text": "half \ud800 pair"}
    ]


def test_a_huge_line_is_judged_or_rejected_whole(tmp_path):
    huge = "the white whale swam on. " * 4_200_000  # 105 MB
    rows = [{"text": huge, "n": 0}, {"text": "a short one", "n": 1}]
    source = write(tmp_path / "a.jsonl", rows)
    report, kept, lines = filtering.run(source, tmp_path / "out")
    assert [record["n"] for record in kept] == [1]
    assert lines[0]["rule"] == "too_long" and lines[0]["score"] == len(huge) and lines[0]["record"] == rows[0]
    assert report["steps"]["read"]["rules"] == {"too_long": 1}


def test_a_document_that_makes_an_expression_slow_is_bounded(tmp_path, monkeypatch):
    bomb = re.compile(r"(a+)+$")
    monkeypatch.setattr(
        spam, "check", lambda settings: lambda text: [Finding("bomb", 1)] if bomb.search(text) else []
    )
    source = filtering.source(tmp_path, ["fine b", "a" * 40 + "b", "b fine"])
    began = time.perf_counter()
    _, kept, lines = filtering.run(source, tmp_path / "out", *only("spam"), "--document_seconds=0.3")
    assert time.perf_counter() - began < 20
    assert [record["n"] for record in kept] == [0, 2]
    assert [(line["step"], line["rule"], line["record"]["n"]) for line in lines] == [("spam", "too_slow", 1)]


def test_documents_that_share_words_with_an_evaluation_set_go(tmp_path):
    question = "Which of the great whales did the old captain of the ship hunt around the cape"
    evals = write(tmp_path / "eval.jsonl", [{"prompt": question, "answer": "x"}, {"prompt": "too short"}])
    texts = [
        "Some other text. " + question.upper().replace(" ", ", ") + "? The white one.",
        "Which of the great whales did the old captain of the ship see",
        "Nothing of the kind is said in this text about anything that is in the other one at all.",
    ]
    more = (f"--decontaminate={evals}", *QUIET)
    report, kept, lines = filtering.run(filtering.source(tmp_path, texts), tmp_path / "out", *more)
    assert [record["n"] for record in kept] == [1, 2]
    assert lines[0]["rule"] == "ngram_13" and lines[0]["score"] == len(question.split()) - 12
    assert texts[0][slice(*lines[0]["span"])].startswith("WHICH, OF, THE, GREAT")
    assert report["evals"] == {"documents": 2, "too_short": 1, "ngrams": len(question.split()) - 12}
    report, kept, _ = filtering.run(
        filtering.source(tmp_path, texts), tmp_path / "out8", *more, "--decontaminate_ngram=8"
    )
    assert [record["n"] for record in kept] == [2]
    with pytest.raises(
        ConfigError, match=r"none of its 2 documents has 50 words.*lower --decontaminate_ngram"
    ):
        filtering.run(filtering.source(tmp_path, texts), tmp_path / "no", *more, "--decontaminate_ngram=50")


def test_a_run_that_fails_in_mid_shard_goes_on_and_counts_nothing_twice(tmp_path, monkeypatch):
    source, flags = prose(tmp_path / "a.jsonl", 100), ("--shard=20",)
    whole = filtering.run(source, tmp_path / "whole", *flags)
    opened, done = steps.FilterPipeline._opened, []

    def fails(self, name, record):
        done.append(name)
        if record["n"] == 67 and len(done) == 68:
            raise OSError("the machine went away")
        return opened(self, name, record)

    monkeypatch.setattr(steps.FilterPipeline, "_opened", fails)
    with pytest.raises(OSError, match="went away"):
        filtering.run(source, tmp_path / "out", *flags)
    assert not filtered.read_report(tmp_path / "out")
    again = filtering.run(source, tmp_path / "out", *flags)
    assert len(done) == 68 + 40, "three finished shards are not read again"
    assert again[1:] == whole[1:]
    assert again[0]["fingerprint"] == whole[0]["fingerprint"]


@pytest.mark.parametrize("step", ["_joined", "_kept"])
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


def test_a_check_that_raises_names_the_document_and_step(tmp_path, monkeypatch):
    monkeypatch.setattr(spam, "check", lambda settings: lambda text: [][1])
    with pytest.raises(Failure, match=r"a\.jsonl#0: the step spam failed: IndexError"):
        filtering.run(filtering.source(tmp_path, ["x"]), tmp_path / "out", *only("spam"))


def test_the_same_command_shows_the_report_and_another_is_refused(tmp_path):
    source = prose(tmp_path / "a.jsonl", 30)
    first = filtering.run(source, tmp_path / "out")
    assert filtering.run(source, tmp_path / "out") == first
    with pytest.raises(ConfigError, match=r"(?s)--out=.*--spam: drop -> off.*Name a new folder"):
        filtering.run(source, tmp_path / "out", "--spam=off")
    prose(tmp_path / "a.jsonl", 31)
    with pytest.raises(ConfigError, match=r"(?s)the data"):
        filtering.run(source, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not empty"):
        filtering.run(source, tmp_path / "mine")


def test_training_reads_what_was_kept_with_its_fingerprint(tmp_path):
    source = prose(tmp_path / "a.jsonl", 40)
    report, kept, _ = filtering.run(source, tmp_path / "out", "--shard=15")
    cfg = filtering.config(source, tmp_path / "x").source.reading(f"filtered:{tmp_path}/out")
    records = sources.whole(source_spec.parse(cfg.data)[0], cfg)
    assert [one for _, block in records.blocks() for one in block] == kept
    source_spec.check_sources(cfg.data, cfg, "data")
    filtering.run(source, tmp_path / "other", "--shard=15", "--max_chars=60")
    other = filtering.config(source, tmp_path / "x").source.reading(f"filtered:{tmp_path}/other")
    assert sources.whole(source_spec.parse(other.data)[0], other).fingerprint != records.fingerprint
    part = tmp_path / "out" / report["files"][0]["file"]
    part.write_bytes(part.read_bytes().replace(b"whale", b"snail"))
    with pytest.raises(ConfigError, match=r"filtered:.*changed since it was written; filter again"):
        sources.whole(source_spec.parse(cfg.data)[0], cfg)
    with pytest.raises(ConfigError, match=r"holds no report.json.*filter_data"):
        source_spec.check_sources(f"filtered:{tmp_path}", cfg, "data")


def test_where_nothing_is_kept_the_books_are_right_and_training_says_so(tmp_path):
    source = prose(tmp_path / "a.jsonl", 5)
    report, kept, _ = filtering.run(source, tmp_path / "out", "--max_chars=1")
    assert report["read"] == 5 and not kept
    with pytest.raises(ConfigError, match="kept no document"):
        filtered.files_of(str(tmp_path / "out"), "data", tmp_path)


def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_later(tmp_path):
    source = filtering.source(tmp_path, [text(i) * 40 for i in range(60)])
    made = plan.open_run(filtering.config(source, tmp_path / "out", "--shard=20", *QUIET))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(
            ConfigError, match=r"--out: no space left while writing .*check.*Nothing half-written"
        ):
            executors.execute(made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not run.done(made, "check", 0)
    report, kept, _ = filtering.run(source, tmp_path / "out", "--shard=20", *QUIET)
    assert report["read"] == 60 == len(kept)


def _start(tmp_path, source, out, *more):
    command = [
        sys.executable, "-P", "-m", "experiments.filter_data", f"--data={source}", f"--out={out}",
        f"--cache_dir={tmp_path / 'cache'}", *more,
    ]  # fmt: skip
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found]


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_kill_9_in_mid_shard(tmp_path, victim):
    source, flags = prose(tmp_path / "a.jsonl", 12_000), ("--shard=300", "--workers=2")
    out = tmp_path / "out"
    with _start(tmp_path, source, out, *flags) as process:
        until = time.monotonic() + 120
        while sum(run_dir.is_dir() for run_dir in out.glob("work/check/0*")) < 2:
            assert time.monotonic() < until and process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        workers = _children(process.pid)
        if victim == "worker":
            at_work = [pid for pid in workers if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            os.kill(at_work[0], signal.SIGKILL)
        else:
            os.kill(process.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    if victim == "worker":
        assert process.returncode == 1 and b"the same command goes on" in said, said
    until = time.monotonic() + 30
    while any(map(_alive, workers)):
        assert time.monotonic() < until, "the workers outlive their parent"
        time.sleep(0.1)
    assert filtered.read_report(out) is None
    with _start(tmp_path, source, out, *flags) as process:
        said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    report, kept, lines = filtering.books(out)
    assert report["read"] == 12_000
    whole = filtering.run(source, tmp_path / "whole", "--shard=300")
    assert (kept, lines) == whole[1:]


@pytest.mark.slow
def test_ray_does_the_same(tmp_path):
    pytest.importorskip("ray")
    pytest.importorskip("datatrove")
    source = prose(tmp_path / "a.jsonl", 900)
    whole = filtering.run(source, tmp_path / "whole", "--shard=200")
    with _start(
        tmp_path, source, tmp_path / "out", "--shard=200", "--executor=ray", "--workers=2"
    ) as process:
        out, err = process.communicate(timeout=400)
    assert process.returncode == 0, (out + err).decode()
    assert filtering.books(tmp_path / "out")[1:] == whole[1:]


@pytest.mark.slow
def test_slurm_scripts_run_each_phase_after_the_one_before(tmp_path, monkeypatch):
    pytest.importorskip("datatrove")
    programs, asked = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    # A scheduler of one machine: it runs the tasks of a job at once, in order, and prints the job's number.
    (programs / "sbatch").write_text(
        f"""#!/bin/bash
for last; do :; done
cat "$last" >> {asked}; echo "## $*" >> {asked}
n=$(ls {tmp_path}/jobs 2>/dev/null | wc -l); mkdir -p {tmp_path}/jobs; touch {tmp_path}/jobs/$n
tasks=$(sed -n 's/#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$last")
export SLURM_NODELIST=here
for i in $(seq 0 "$tasks"); do SLURM_ARRAY_TASK_ID=$i bash "$last" >> {tmp_path}/log 2>&1 || exit 1; done
echo "Submitted batch job $((1000 + n))"
"""
    )
    (programs / "srun").write_text('#!/bin/bash\nshift 3\nexec "$@"\n')
    (programs / "scontrol").write_text("#!/bin/bash\necho here\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    source = prose(tmp_path / "a.jsonl", 300)
    whole = filtering.run(source, tmp_path / "whole", "--shard=100")
    flags = ("--shard=100", "--executor=slurm", "--slurm_partition=cpu", "--slurm_time=01:00:00")
    with _start(tmp_path, source, tmp_path / "out", *flags) as process:
        out, err = process.communicate(timeout=400)
    assert process.returncode == 0, (out + err).decode()
    script = asked.read_text()
    for line in (
        "--partition=cpu",
        "--time=01:00:00",
        "--mem-per-cpu=4G",
        "--array=0-2",
        "--job-name=filter-check",
    ):
        assert f"#SBATCH {line}" in script
    assert "--dependency=afterok:1000" in script
    log = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
    assert filtering.books(tmp_path / "out")[1:] == whole[1:], log[-2000:]
