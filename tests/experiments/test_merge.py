"""Merges of runs of one Tinytown model: written, loaded by commands, and as good as the runs."""

import json

import numpy as np
import pytest

import jaxtrain
from jaxtrain.config import ConfigError
from tests.runs import call, column, quick

STILL = ("--steps=1", "--lr=0", "--weight_decay=0", "--warmup=0")  # evaluates what it starts from


@pytest.fixture(scope="module")
def seeds(town):
    """Three runs of the same fine-tuning with other seeds."""
    return [
        town / "sft",
        *(town.run("sft", f"seed{i}", *town.SFT, f"--seed={i}", start="base") for i in (1, 2)),
    ]


@pytest.fixture(scope="module")
def soup(town, seeds):
    folder = town / "soup"
    with quick():
        said = call("export", f"--merge={','.join(map(str, seeds))}", f"--to=hf:{folder}")
    assert (
        said
        == f"exported the merge, linear of sft*{1 / 3:g}, seed1*{1 / 3:g}, seed2*{1 / 3:g}, to {folder}\n"
    )
    return folder


def test_a_soup_is_at_least_as_good_as_the_mean_of_its_runs(town, seeds, soup):
    started = town.run("sft", "from-soup", *STILL, start=f"hf:{soup}")
    losses = [column(seed, "eval/loss")[-1] for seed in seeds]
    assert len(set(losses)) == 3
    assert column(started, "eval/loss")[-1] <= np.mean(losses) + 1e-3
    assert json.loads((started / "config.json").read_text())["parent"]["origin"] == f"hf:{soup}"


def test_a_merge_is_loaded_by_the_commands_that_answer(town, soup):
    with quick():
        said = call(
            "sample", f"--init_from=hf:{soup}", "--prompt=How do I paint a boat?", "--temperature=0", "--max_new=12",
            town.cache,
        )  # fmt: skip
        model = jaxtrain.load(f"hf:{soup}", cache_dir=str(town / "cache"))
        assert said.strip() == model.chat("How do I paint a boat?", temperature=0.0, max_new=12)
    card = (soup / "README.md").read_text()
    assert "- Merge: linear of sft*0.333333, seed1*0.333333, seed2*0.333333\n" in card and "# soup" in card


def test_adapters_are_merged_and_task_vectors_add_up(town, adapted):
    """θ₀ + 1 · (θ − θ₀) is θ, for a run that trained adapters over θ₀; half of it lies in between."""
    names = {}
    for scale in ("1", "0.5"):
        names[scale] = town / f"task{scale}"
        with quick():
            call(
                "export", f"--merge={adapted}*0.5,{town / 'sft'}@6*1e-9", "--merge_method=task",
                f"--merge_scale={scale}", f"--merge_base={town / 'sft'}", f"--to=hf:{names[scale]}",
            )  # fmt: skip
    with quick():
        base, tuned, half, quarter = (
            jaxtrain.load(name).loaded.params["layers"]["mlp"]["up"]["kernel"]
            for name in (str(town / "sft"), str(adapted), f"hf:{names['1']}", f"hf:{names['0.5']}")
        )
        moved = np.asarray(tuned - base)
        assert abs(moved).max() > 1e-3
        np.testing.assert_allclose(half - base, 0.5 * moved, atol=1e-6)
        np.testing.assert_allclose(quarter - base, 0.25 * moved, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--merge=runs/a,runs/b", "--init_from=runs/c"), "--merge=runs/a,runs/b and --init_from=runs/c both decide"),
        (("--merge=runs/a,runs/b", "--merge_density=0.5"), "--merge_density=0.5 acts only with --merge_method=ties"),
        (("--init_from=runs/a", "--merge_method=ties"), "--merge_method, --merge_base: act only"),
        (("--merge=runs/a,runs/b", "--adapter"), "--adapter and --merge"),
        (("--merge=runs/nowhere,runs/b",), "--merge"),
    ],
)  # fmt: skip
def test_wrong_flags_are_refused(town, flags, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        call("export", *flags, f"--to=hf:{town / 'never'}")
    assert not (town / "never").exists()
