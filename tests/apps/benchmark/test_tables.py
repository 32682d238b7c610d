"""Arithmetic and marks of the page, on results written by hand."""

from pathlib import Path

import pytest

from jaxtrain.apps.benchmark import results, tables
from jaxtrain.config import ConfigError

ROOT = Path(__file__).parents[3]
SECONDS = {"median": 0.1, "low": 0.09, "high": 0.12, "repeats": 5}


def training(flops_per_s, rows=16, **extra):
    record = {
        "rows": rows,
        "length": 2048,
        "documents": 1,
        "flags": {},
        "seconds": SECONDS,
        "peak_memory": 2**34,
    }
    return {**record, "flops_per_s": flops_per_s, "tokens_per_s": flops_per_s / 1e9, **extra}


def part(status="complete", **records):
    return {"run": 0, "status": status, "note": "", "seconds": 12.0, "load": {}, "results": records}


@pytest.fixture
def found():
    errors = {"output": 2e-3, "dq": 3e-3, "dk": 4e-3, "dv": 3e-3, "seconds": SECONDS}
    attention = {"auto": "cudnn", "reason": "", "good": True, "kernels": {"cudnn": errors}}
    decoding = {"rows": 1, "flags": {}, "bytes_a_step": 2.0e9, "tokens_per_s": 800.0, "step_seconds": SECONDS}
    run = {
        "started": "2026-01-01",
        "command": "launch/gpu_check",
        "git": {"commit": "a" * 40, "dirty": False},
    }
    run |= {"gpus": [{"driver_version": "580.1"}], "versions": {"jax": "0.11.2"}}
    return {
        "runs": [run],
        "parts": {
            "device": part(
                device={"kind": "NVIDIA H100 80GB HBM3", "nominal_flops": 1000e12},
                matmul={"flops_per_s": 800e12},
                copy={"bytes_per_s": 50e9},
            ),
            "attention": part(**{"packed | odd": attention}),
            "pretrain_125m": part(**{"125M defaults": training(400e12)}),
            "sweep": part(
                **{
                    "125M --batch_size=32": training(500e12, rows=32),
                    "125M --remat=none": {**training(1.0), "error": "RESOURCE_EXHAUSTED: out | more"},
                }
            ),
            "decode": part(**{"batch 1": decoding}),
            "decode_graphs": part(**{"batch 1": {**decoding, "bytes_a_step": 4.0e9}}),
            "torch_pretrain": part(**{"125M eager": training(200e12)}),
            "torch_decode": part(**{"batch 1": {"error": "OutOfMemoryError: x"}}),
        },
    }


def test_mfu_is_of_the_published_and_of_the_measured_peak(found):
    record = found["parts"]["pretrain_125m"]["results"]["125M defaults"]
    assert tables.mfu(found, record) == (0.4, 0.5)
    del found["parts"]["device"]
    assert tables.mfu(found, record) == (None, None)


def test_decode_is_a_share_of_the_copy_s_rate(found):
    record = found["parts"]["decode"]["results"]["batch 1"]
    assert tables.share_of_copy(found, record) == pytest.approx(2e9 / 0.1 / 50e9)  # 40 %


def test_the_best_setting_counts_and_torch_stands_beside_its_own_shape(found):
    assert tables.best(found, "pretrain_125m")[0] == "125M --batch_size=32"
    assert tables.best(found, "pretrain_125m", (16, 2048, 1))[0] == "125M defaults"
    assert tables.best(found, "pretrain_1.3b") is None
    text, step = tables.section(found), "100.0 (90.0 to 120.0)"
    shares = "50 % | 62 % | 16.0 GiB | 45 %: reached"
    assert f"| pretrain 125M --batch_size=32 | 32 x 2048 | 500,000 | {step} | {shares} |" in text
    shares = "40 % | 50 % | 16.0 GiB | "
    assert f"| pretrain 125M defaults | 16 x 2048 | 400,000 | {step} | {shares} |" in text
    assert "| pretrain 125M eager | 400,000 | 200,000 | 2.00 |" in text
    assert "| decode batch 1 | 800.0 | OutOfMemoryError: x | – |" in text
    assert "| batch 1 | 800.0 | 100.0 (90.0 to 120.0) | 40 % | 60 %: not reached |" in text
    assert "| batch 1, loops in CUDA graphs | 800.0 | 100.0 (90.0 to 120.0) | 80 % |  |" in text
    assert "RESOURCE_EXHAUSTED: out |" in text and "more" not in text
    assert "attention, packed \\| odd: cudnn" in text and "gradients 4.0e-03 | right |" in text


def test_the_summary_says_aims_and_what_is_wrong(found):
    lines = tables.summary(found)
    assert lines[:3] == [
        "pretrain_125m: MFU 50 % (aim 45 %: reached)",
        "pretrain_1.3b: MFU – (aim 55 %: not measured)",
        "decode, batch 1: 40 % of the copy's rate (aim 60 %: not reached)",
    ]
    assert tables.wrong(found) == []
    found["parts"]["attention"]["results"]["packed | odd"]["good"] = False
    found["parts"]["ppo"] = part("stopped") | {"note": "it was not done"}
    found["parts"]["dpo_1.3b"] = part("left out")
    assert tables.wrong(found) == ["attention: wrong: packed | odd", "ppo: stopped: it was not done"]
    assert "**wrong**" in tables.section(found)


def test_the_section_takes_its_place_on_the_page(tmp_path, found):
    page = tmp_path / "page.md"
    page.write_text(f"# A\n\n{tables.BEGIN}\nold\n{tables.END}\n\n## B\n")
    tables.write_page(page, found)
    first = page.read_text()
    tables.write_page(page, found)
    assert page.read_text() == first and "old" not in first
    assert first.startswith(f"# A\n\n{tables.BEGIN}\n") and first.endswith(f"{tables.END}\n\n## B\n")
    page.write_text(f"{tables.END} {tables.BEGIN}")
    for bad in (page, tmp_path / "none.md"):
        with pytest.raises(ConfigError, match="--page="):
            tables.require_marks(bad)


def test_the_docs_have_what_the_results_say():
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert tables.section(results.read(ROOT / "docs" / "results_gpu.json")) in page
