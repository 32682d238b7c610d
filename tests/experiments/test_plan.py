"""./launch/run plan has the flags of the stage that it plans, refuses what cannot be at once, and prints a report."""

import importlib
import subprocess
import sys

import pytest

from experiments import plan
from jaxtrain import flags
from jaxtrain.apps.plan import compiler, topologies
from jaxtrain.config import ConfigError, leaves
from tests.devices import cases


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "dpo", "ppo", "grpo", "distill"])
def test_a_stages_own_flags_are_taken(stage):
    own = getattr(importlib.import_module(f"experiments.{stage}"), stage.capitalize())
    cfg = flags.from_flags(plan.command, [f"--stage={stage}", "--chip=v5e:2x2", "--batch_size=24"])
    planned = {field.name: value for part, field, value in leaves(cfg) if part != "plan"}
    given = {field.name: value for _, field, value in leaves(own())}
    assert planned == {**given, "batch_size": 24}


@pytest.mark.parametrize("argv", [["--stage=nope"], ["--stage", "nope", "--kl_coef=1"]])
def test_a_stage_that_is_not_there_is_refused_with_the_list(argv):
    with pytest.raises(ConfigError, match="--stage=nope: choose one of pretrain, sft, reward, dpo"):
        flags.from_flags(plan.command, argv)


def test_the_flags_follow_the_stage():
    cfg = flags.from_flags(plan.command, ["--stage", "ppo", "--kl_coef=0.5"])
    assert cfg.loss.kl_coef == 0.5
    with pytest.raises(ConfigError, match="kl_coef"):
        flags.from_flags(plan.command, ["--kl_coef=0.5"])


def test_a_wrong_plan_is_refused_before_jax_is_imported():
    script = (
        "import sys\nfrom experiments import plan\nfrom jaxtrain import flags, config\n"
        "cfg = flags.from_flags(plan.command, ['--stage=ppo', '--chip=v5e:4x4', '--mesh=fsdp:3'])\n"
        "try:\n    plan.main(cfg)\nexcept config.ConfigError as error:\n    print(error)\n"
        "print('jax' in sys.modules)"
    )
    out = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert "--mesh=fsdp:3 takes 3 devices, --chip=v5e:4x4 has 16" in out
    assert out.endswith("False\n")


def test_no_chip_is_refused():
    with pytest.raises(ConfigError, match="--chip: name the devices"):
        plan.main(flags.from_flags(plan.command, []))


def test_the_report_is_printed(monkeypatch, capsys):
    made = []
    monkeypatch.setattr(topologies, "require", lambda topology: None)
    monkeypatch.setattr(compiler, "compile_one", made.append)
    monkeypatch.setattr("jaxtrain.apps.plan.report.lines", lambda stage: ["a report"])
    plan.main(flags.from_flags(plan.command, ["--stage=dpo", "--chip=v5e:2x2", "--beta=0.3", "--exact"]))
    (request,) = made
    assert capsys.readouterr().out == "a report\n"
    assert (request.stage, request.chip, request.exact, request.cfg.loss.beta) == (
        "dpo",
        "v5e:2x2",
        True,
        0.3,
    )


@pytest.mark.slow
@pytest.mark.skipif(bool(cases.missing("v5e:2x2")), reason=cases.missing("v5e:2x2"))
def test_a_plan_for_a_slice_says_what_fits(capsys):
    argv = [f"--model={cases.MODEL}", "--chip=v5e:2x2", "--mesh=fsdp:-1", "--seq_len=128"]
    plan.main(flags.from_flags(plan.command, argv))
    out = capsys.readouterr().out
    assert "on v5e:2x2: 4 devices, 1 host, mesh fsdp:4, 8 rows of 128 tokens" in " ".join(out.split())
    assert "FITS" in out and "train step" in out
