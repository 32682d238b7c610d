"""What a run tells: means, speed, metrics.jsonl across kills, TensorBoard events, progress on any stream."""

import io
import json
import math
import os
import pty
import random
import re
import resource
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxtrain.train import metrics
from jaxtrain.train.metric_names import TIMES
from jaxtrain.train.metrics import (
    FILE,
    UNREADABLE,
    MetricMean,
    MetricWriter,
    SpeedMeter,
    TrainingProgress,
    peak_flops,
)
from jaxtrain.train.tensorboard import FOLDER


def lines(workdir) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / FILE).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def pair(total: float, count: float) -> tuple[np.float32, np.float32]:
    return np.float32(total), np.float32(count)


def test_a_mean_is_of_all_that_was_counted():
    """Not the mean of the steps' means: (6 + 2) / (3 + 5), where the means are 2 and 0.4."""
    mean = MetricMean()
    mean.add({"loss": pair(6, 3), "acc": pair(0, 0)})
    mean.add({"loss": pair(2, 5)})
    taken = mean.take()
    assert taken["loss"] == 1.0 and math.isnan(taken["acc"])
    mean.add({"loss": pair(1, 2)})
    assert mean.take() == {"loss": 0.5} and mean.take() == {}


def test_a_mean_goes_on_after_a_restart():
    whole, first = MetricMean(), MetricMean()
    steps = [{"loss": pair(draw, 3)} for draw in np.random.default_rng(0).normal(size=10)]
    for step in steps:
        whole.add(step)
    for step in steps[:4]:
        first.add(step)
    second = MetricMean(json.loads(json.dumps(first.sums)))
    for step in steps[4:]:
        second.add(step)
    assert second.take() == whole.take()


def test_speed_counts_neither_compilation_nor_pauses():
    now = 0.0

    def clock() -> float:
        return now

    speed = SpeedMeter(flops=8e12, peak=16e12, clock=clock)
    assert speed.take() == {} and speed.total() == {}
    now = 30.0  # compilation and the first step
    speed.step(1000)
    assert speed.take() == {}
    for _ in range(4):
        now += 2.0
        speed.step(1000)
    with speed.pause():
        now += 100.0
    now += 2.0
    speed.step(1000)
    want = {"tokens_per_s": 500.0, "step_time": 2.0, "flops_per_s": 4e12, "mfu": 0.25}
    assert speed.take() == want and speed.take() == {}
    now += 4.0
    speed.step(1000)
    assert speed.take()["tokens_per_s"] == 250.0
    assert speed.total()["step_time"] == pytest.approx(14 / 6)
    assert "mfu" not in SpeedMeter(1.0, None, clock)._rates(1, 1, 1.0)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA L40S", 362e12),
        ("cpu", None),
        ("", None),
        ("NVIDIA L400", None),
        ("TPU v40", None),
    ],
)
def test_the_peak_of_a_device(kind, peak):
    assert peak_flops(kind) == peak


def write(workdir, start: int, stop: int) -> str:
    with MetricWriter(workdir, start) as writer:
        for step in range(start + 1, stop + 1):
            writer.write(step, {"loss": 1 / step, "skipped": step % 3, "tokens_per_s": random.random()})
            if step % 4 == 0:
                writer.write(step, {"eval/loss": np.float32(step)})
        return writer.note


def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path):
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    assert write(tmp_path / "whole", 0, 12) == ""
    write(tmp_path / "resumed", 0, 10)
    note = write(tmp_path / "resumed", 6, 12)
    assert note == "metrics.jsonl: 5 lines after step 6 dropped, these steps run again"
    assert lines(tmp_path / "resumed") == lines(tmp_path / "whole")
    assert lines(tmp_path / "whole")[0] == {"step": 1, "loss": 1.0, "skipped": 1}
    assert write(tmp_path / "resumed", 0, 12).startswith(
        "metrics.jsonl: 15 lines dropped: the run had saved no step"
    )
    assert lines(tmp_path / "resumed") == lines(tmp_path / "whole"), "a fresh start leaves nothing of the old"
    assert sorted(p.name for p in (tmp_path / "whole").iterdir()) == [FILE, FOLDER]


def test_numbers_that_json_lacks_become_null(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(1, {"loss": np.float32("nan"), "norm": math.inf, "n": np.int64(3), "x": -math.inf})
    (row,) = (tmp_path / FILE).read_text().splitlines()
    assert "NaN" not in row and "Infinity" not in row
    assert lines(tmp_path) == [{"step": 1, "loss": None, "norm": None, "n": 3.0, "x": None}]


@pytest.mark.parametrize(
    "tail", [b'{"step": 3, "lo', b"\x00" * 40, b"\xff\xfe\n", b"[1]\n", b'{"loss": 1}\n']
)
def test_a_torn_line_is_moved_aside_and_said(tmp_path, tail):
    write(tmp_path, 0, 3)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + tail)
    with MetricWriter(tmp_path, 3) as writer:
        assert writer.note == "metrics.jsonl: 1 unreadable lines moved to metrics.jsonl.unreadable, line 4"
    assert (tmp_path / FILE).read_bytes() == whole
    assert (tmp_path / UNREADABLE).read_bytes() == tail.rstrip(b"\n") + b"\n"


def test_rows_are_read_around_what_is_damaged(tmp_path):
    write(tmp_path, 0, 9)
    file = tmp_path / FILE
    good = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(
        b"".join([*good[:2], b"\xff\n", good[2], b"[" * 9999 + b"\n", good[3], b'{"step": 5, "lo'])
    )
    rows, torn = metrics.read_rows(file)
    assert rows == [json.loads(line) for line in good[:4]] and torn == [3, 5]
    assert metrics.line_numbers(torn) == "lines 3, 5" and metrics.line_numbers([7]) == "line 7"
    assert metrics.line_numbers(range(1, 9)) == "lines 1, 2, 3, 4, 5 and 3 more"
    assert metrics.read_rows(tmp_path / "none") == ([], [])


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
    write(tmp_path, 0, 3)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:-1])
    assert write(tmp_path, 3, 3) == "" and (tmp_path / FILE).read_bytes() == whole


def test_only_the_primary_process_writes(tmp_path):
    with MetricWriter(tmp_path, 0, primary=False) as writer:
        writer.write(1, {"loss": 1.0})
        writer.text(1, "sample", "a")
    assert list(tmp_path.iterdir()) == []


def events(folder) -> list:
    """(step, tag, value) of all events, read back from their records: length, its CRC, the event, its CRC."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("events*")):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            found += [(event.step, "session", event.session_log.status)] * event.HasField("session_log")
            found += [(event.step, value.tag, value) for value in event.summary.value]
    return found


def test_tensorboard_holds_scalars_and_samples(tmp_path):
    sample = "Once *upon*\n<b>a</b> time"
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(5, {"loss": 2.5, "lr": 0.1, "rewards/chosen": math.inf, "mfu": 0.5})
        writer.text(5, "samples/0", sample)
    found = {tag: (step, value) for step, tag, value in events(tmp_path / FOLDER)}
    assert found["train/loss"][0] == 5 and found["train/loss"][1].simple_value == 2.5
    assert (
        math.isinf(found["train/rewards/chosen"][1].simple_value) and found["time/mfu"][1].simple_value == 0.5
    )
    (text,) = [value for tag, (_, value) in found.items() if tag.startswith("samples/0")]
    assert text.tensor.string_val[0].decode() == "    Once *upon*\n    <b>a</b> time\n"


def test_tensorboard_forgets_what_runs_again(tmp_path):
    write(tmp_path, 0, 6)
    write(tmp_path, 4, 6)
    assert [(step, status) for step, tag, status in events(tmp_path / FOLDER) if tag == "session"] == [(5, 1)]


KILLED = """
import sys, pathlib
from jaxtrain.train.metrics import MetricWriter
with MetricWriter(pathlib.Path(sys.argv[1]), int(sys.argv[2])) as writer:
    for step in range(int(sys.argv[2]) + 1, 10**9):
        writer.write(step, {"loss": 1 / step, "text": 1e-300 * step})
        if step % 50 == 0: print(step, flush=True)
"""


def test_kill_while_writing_loses_no_line(tmp_path):
    """Every line written before the kill is there, and a resumed file has each step once."""
    start = 0
    for _ in range(3):
        ask = [sys.executable, "-c", KILLED, str(tmp_path), str(start)]
        with subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) as process:
            told = int(process.stdout.readline())
            time.sleep(random.random() / 20)
            process.send_signal(signal.SIGKILL)
            told = max([told, *map(int, process.stdout)])
        start = told - 7
        MetricWriter(tmp_path, start).close()
        assert [row["step"] for row in lines(tmp_path)] == list(range(1, start + 1))


def test_a_full_disk_is_named(tmp_path):
    script = KILLED.replace("import sys", "import resource, sys", 1).replace(
        "with MetricWriter",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (900, resource.RLIM_INFINITY))\nwith MetricWriter",
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), "0"], capture_output=True, text=True)
    assert done.returncode == 1 and "cannot append to the metrics" in done.stderr
    assert str(tmp_path / FILE) in done.stderr and resource.getrlimit(resource.RLIMIT_FSIZE)[0] < 0
    with MetricWriter(tmp_path, 2) as writer:
        assert writer.note
    assert [row["step"] for row in lines(tmp_path)] == [1, 2]


def plain(total: int, every: int = 1, start: int = 0) -> list[str]:
    stream = io.StringIO()
    with TrainingProgress(total, start, stream=stream) as bar:
        for step in range(start + every, total + 1, every):
            bar.update(step, {"loss": 1.5, "tokens_per_s": 123456.0, "mfu": 0.0412, "skipped": 2})
    return stream.getvalue().splitlines()


def test_plain_lines_widen_and_end_with_the_last_step():
    shown = plain(30)
    assert shown[0] == "step 1/30  loss 1.500  123k tok/s  MFU 4.1%  skipped 2  ETA -"
    assert shown[1] == "step 2/30  loss 1.500  123k tok/s  MFU 4.1%  skipped 2  ETA 0:00:00"
    assert [line.split()[1] for line in shown[:25]] == [f"{n}/30" for n in range(1, 26)]
    shown = plain(1_000_000, 10)
    assert 150 < len(shown) < 300 and shown[-1].startswith("step 1000000/1000000")
    assert plain(1000, 10, start=990)[-1].startswith("step 1000/1000"), "a resumed run has its lines too"


def test_updates_without_values_print_nothing_and_hidden_ones_neither():
    stream = io.StringIO()
    with TrainingProgress(10, stream=stream) as bar:
        bar.update(1)
    with TrainingProgress(10, show=False, stream=stream) as bar:
        bar.update(10, {"loss": 1.0})
        bar.print("text")
    assert stream.getvalue() == ""


def test_what_a_model_writes_cannot_move_the_cursor():
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    with TrainingProgress(10, stream=stream) as bar:
        bar.print("a\tb\n\x1b[2J\r\x07 [red]é\ud800")
    assert buffer.getvalue() == b"a\tb\n\\x1b[2J\\r\\x07 [red]\\xe9\\ud800\n"


TERMINAL = """
import time
from jaxtrain.train.metrics import TrainingProgress
values = {"loss": 2.5, "tokens_per_s": 123456.0, "mfu": 0.412, "grad_norm": 1.0, "lr": 0.001}
with TrainingProgress(1000) as bar:
    for step in range(100, 1001, 100):
        bar.update(step, values)
        time.sleep(0.11)
    bar.print("[red] sample :smile: " + "word " * 30)
    print("a stray print")
"""


def on_terminal(columns: int, term: str = "xterm") -> str:
    """What TERMINAL writes to a terminal of this width."""
    parent, child = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "LINES": "24", "TERM": term}
    with subprocess.Popen([sys.executable, "-c", TERMINAL], stdout=child, stderr=child, env=env) as process:
        os.close(child)
        written = b""
        while select.select([parent], [], [], 30)[0]:
            try:
                written += os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
    os.close(parent)
    assert process.returncode == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize(("columns", "shown", "left_out"), [
    (100, ["loss 2.500", "123k tok/s", "MFU 41%", "grad_norm 1.000", "lr 0.001000"], []),
    (60, ["loss 2.500", "123k tok/s", "MFU 41%"], ["grad_norm", "lr"]),
    (30, [], ["loss", "tok/s"]),
])  # fmt: skip
def test_the_bar_fits_its_terminal(columns, shown, left_out):
    written = on_terminal(columns)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written).replace("\r", "\n")
    bare = [line for line in text.split("\n") if "/1000" in line]
    assert len(bare) > 5 and all(len(line.rstrip()) <= columns for line in bare)
    last = bare[-1]
    assert last.startswith("1000/1000") and "ETA 0:00:00" in last and "━━━━" in last
    assert all(field in last for field in shown) and not any(field in last for field in left_out)
    flat = written.replace("\r\n", "")
    assert "[red] sample :smile: word" in flat and "a stray print" in written


def test_a_dumb_terminal_gets_plain_lines():
    written = on_terminal(60, "dumb")
    assert "\x1b" not in written and "step 100/1000  loss 2.500" in written
