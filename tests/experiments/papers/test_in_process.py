"""Experiments that train within their own process, whole at their tiniest: results are JSON, judged and drawn."""

import json
from types import SimpleNamespace

import pytest

from experiments.papers import (
    dpo_frontier,
    dpo_temperature,
    dpo_variants,
    overoptimization,
    reward_proxies,
    rm_ensembles,
)
from experiments.papers.review_models import LmSize
from jaxtrain import config
from jaxtrain.apps.papers import figures

TINY = LmSize(1, 16, 2, 16, steps=60, batch=32)  # some of what it says are reviews
SEED = 3


def finished(module, cfg, folder):
    """What `measure` returns after its way through result.json; every check has numbers, and the figure is drawn."""
    values = json.loads(config.dumps(module.measure(cfg, SimpleNamespace(seed=SEED))))
    checks = module.judge(cfg, [values])
    assert checks and all(check.criterion and check.numbers for check in checks)
    figures.write(folder, lambda figure: module.draw(cfg, [values], figure))
    return values


def test_ensembles(tmp_path, monkeypatch):
    monkeypatch.setattr(rm_ensembles, "SIZE", TINY)
    monkeypatch.setattr(rm_ensembles, "COUNTS", (1, 4, 16))
    monkeypatch.setattr(reward_proxies, "STEPS", 3)
    flags = rm_ensembles.EnsembleFlags(samples=8_192, pairs=10, members=2, hidden=4)
    values = finished(rm_ensembles, rm_ensembles.RmEnsembles(ensemble=flags), tmp_path)
    assert len(values["single"]) == 2 and {len(curve) for curve in values["rules"].values()} == {3}
    # Best of 1 chooses nothing: the mean of the true reward, which is normalised.
    assert [curve[0] for curve in values["rules"].values()] == pytest.approx([0, 0, 0], abs=1e-9)


@pytest.mark.slow
def test_overoptimization(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        overoptimization, "SIZES", {"cpu": overoptimization.SIZES["cpu"]._replace(lm=TINY, rl_batch=8)}
    )
    monkeypatch.setattr(overoptimization, "COUNTS", (1, 4, 16))
    monkeypatch.setattr(overoptimization, "PAIRS", (250, 1_000))
    monkeypatch.setattr(overoptimization, "PROXIES", {"linear": reward_proxies.LINEAR})
    monkeypatch.setattr(reward_proxies, "STEPS", 3)
    flags = overoptimization.OveroptimizationFlags(samples=2_048, rm_seeds=1, iterations=10)
    values = finished(overoptimization, overoptimization.Overoptimization(over=flags), tmp_path)
    (rl,) = values["rl"]["linear"]
    assert rl["iteration"] == [0, 5, 10] and len(values["bon"]["linear"]["250"]["gold"]) == 3
    assert f"seed {SEED}  " in capsys.readouterr().out


@pytest.mark.slow
def test_the_frontier(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dpo_frontier, "SIZES", {"cpu": dpo_frontier.SIZES["cpu"]._replace(lm=TINY)})
    few = {
        dpo_frontier.DPO: (0.1,),
        dpo_frontier.PREFERRED: (0,),
        dpo_frontier.PPO: (3,),
        dpo_frontier.PPO_GT: (3,),
    }
    monkeypatch.setattr(dpo_frontier, "RUNS", {"small": few})
    flags = dpo_frontier.FrontierFlags(prompts=8, held_out=4, samples=2, steps=20, every=10)
    values = finished(dpo_frontier, dpo_frontier.DpoFrontier(frontier=flags), tmp_path)
    assert [one["step"] for one in values["points"][dpo_frontier.DPO]] == [10, 20]
    assert values["first"]["kl"] == 0 and len(values["points"][dpo_frontier.PPO]) >= 1
    assert f"seed {SEED}  DPO 0.1: reward" in capsys.readouterr().out


@pytest.mark.slow
def test_temperatures(tmp_path, monkeypatch):
    monkeypatch.setattr(dpo_temperature, "SIZE", TINY)
    flags = dpo_temperature.TemperatureFlags(prompts=8, held_out=8, steps=2, iterations=1)
    values = finished(dpo_temperature, dpo_temperature.DpoTemperature(policies=flags), tmp_path)
    assert {len(wins) for wins in values["wins"].values()} == {5} and values["at_1"]["first policy"][
        "kl"
    ] == 0


@pytest.mark.slow
def test_variants(tmp_path, monkeypatch):
    monkeypatch.setattr(dpo_variants, "SIZE", TINY)
    monkeypatch.setattr(dpo_variants, "NOISE", (0.0, 0.3))
    flags = dpo_variants.VariantsFlags(prompts=8, held_out=64, steps=20, draws=2)
    values = finished(dpo_variants, dpo_variants.DpoVariants(variants=flags), tmp_path)
    assert values["by"].keys() == dpo_variants.VARIANTS.keys()
    assert values["by"]["cDPO"]["0.0"] == values["by"]["DPO"]["0.0"]
    assert values["by"]["IPO"]["0.0"]["kl"] != values["by"]["IPO"]["0.3"]["kl"]
