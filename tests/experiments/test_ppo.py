"""PPO from the command to the files it leaves: identities, resuming, every kind of value function, bad input."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments import dpo
from jaxtrain import flags as command_line
from jaxtrain.models import transformer
from jaxtrain.rl import advantages
from jaxtrain.stages import init_from, session, weights
from jaxtrain.train import parallel
from jaxtrain.train.loop import TrainingError
from tests.experiments.test_reward import FLAGS as REWARD
from tests.runs import arrays, call, quick, rows, same_arrays

FLAGS = (
    "--steps=10", "--checkpoint_every=3", "--keep=9", "--lr=3e-3", "--schedule=constant", "--epochs=2",
    "--minibatches=2", "--kl_coef=0.1", "--kl_target=0.5", "--kl_horizon=64", "--ptx_weight=0.3", "--ema=0.8",
    "--ptx_data=tinytown:sft?documents=60&held_out=20",
)  # fmt: skip
SHORT = (
    "--steps=3",
    "--lr=3e-3",
    "--epochs=2",
    "--minibatches=2",
    "--ptx_weight=0",
)  # an iteration, without its last update
SHAPE = SHORT[2:]


@pytest.fixture(scope="module")
def judge(town):
    return f"--reward_model={town.run('reward', 'rm', *REWARD)}"


@pytest.fixture(scope="module")
def whole(town, judge):
    return town.run("ppo", "ppo", judge, *FLAGS)


def updates(workdir):
    return [row for row in rows(workdir) if "loss" in row]


def rollouts(workdir):
    """{updates done before: rows} of samples/rollouts."""
    files = sorted((workdir / "samples" / "rollouts").iterdir())
    return {int(file.stem): [json.loads(line) for line in file.read_text().splitlines()] for file in files}


def test_an_iteration_starts_at_the_policy_that_sampled_and_the_first_at_the_reference(whole):
    found = updates(whole)
    first = found[0]
    assert first["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert [first[f"policy/{name}"] for name in ("approxkl_avg", "clipfrac_avg")] == pytest.approx(
        [0, 0], abs=1e-6
    )
    assert first["objective/kl"] == pytest.approx(0, abs=1e-4)
    for step in (4, 8):
        assert found[step]["policy/approxkl_avg"] == pytest.approx(0, abs=1e-6)
        assert found[step + 1]["policy/approxkl_avg"] > 1e-5 and abs(found[step]["objective/kl"]) > 1e-3
    assert {
        "loss/policy_avg",
        "loss/value_avg",
        "ptx_loss",
        "val/explained_var",
        "judge/gold",
    } <= first.keys()


def test_the_price_of_kl_follows_its_target(whole):
    """16 completions an iteration over a horizon of 64: at most a twentieth each."""
    found, coef = updates(whole), 0.1
    for first in (0, 4, 8):
        here = found[first : first + 4]
        assert [row["objective/kl_coef"] for row in here] == pytest.approx([coef] * len(here), rel=1e-5)
        kl = np.mean([row["kl"] for row in rollouts(whole)[first]])
        coef *= 1 + np.clip(kl / 0.5 - 1, -0.2, 0.2) * 16 / 64
    assert len({row["objective/kl_coef"] for row in found}) == 3


def test_each_completion_is_kept_and_some_are_shown(whole, town):
    found = rollouts(whole)
    assert list(found) == [0, 4, 8]
    for kept in found.values():
        assert len(kept) == 16
        assert all(
            row.keys() == {"prompt", "completion", "tokens", "ended", "score", "kl", "gold"} for row in kept
        )
    row = updates(whole)[0]
    assert len({row["score"] for row in found[0]}) > 8
    means = {name: np.mean([row[name] for row in found[0]]) for name in ("score", "gold", "kl")}
    assert means["gold"] == pytest.approx((row["judge/gold"] + updates(whole)[1]["judge/gold"]) / 2, abs=1e-4)
    said = town.said["ppo"]
    assert "rollouts/00000008.jsonl" in said and "16 completions of 16 prompts, 4 updates" in said
    table = said.partition("completions of the last iteration")[2].partition("answers at step")[0]
    assert f"{found[8][0]['score']:.2f}" in table and f"{found[8][0]['kl']:.2f}" in table
    after = said.partition("what training changed")[2]
    assert all(name in after for name in ("harmful → refuses", "terse → detailed", "alike", "spelling"))
    last = rows(whole)[-1]
    assert {"before/gold", "after/gold", "before/alike", "after/alike", "judge/gold"} <= last.keys()


def killed(town, name, step, mark="killed"):
    """What a run killed between update `step` and the next checkpoint leaves."""
    copy = town / f"{name}-{mark}-{step}"
    shutil.copytree(town / name, copy)
    for later in (
        *copy.glob("checkpoints/[0-9]*"),
        *copy.glob("rollouts/*"),
        *copy.glob("samples/rollouts/*"),
    ):
        if int(later.stem) > step:
            shutil.rmtree(later) if later.is_dir() else later.unlink()
    return copy


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_killed_in_the_middle_of_an_iteration_goes_on_to_the_same_bits(town, whole, judge, step):
    copy = killed(town, "ppo", step)
    assert f"resuming from step {step} " in town.again("ppo", copy.name, judge, *FLAGS)
    assert rows(copy) == rows(whole) and rollouts(copy) == rollouts(whole)
    saved = same_arrays(whole, copy, 10)
    assert any("average" in path for path in saved) and any("['value']['trunk']" in path for path in saved)


def test_a_run_without_a_rollout_goes_back_and_comes_to_the_same_bits(town, whole, judge):
    """A flipped bit in the one of step 9, none for step 6: it goes on from step 3, which has its own."""
    copy = killed(town, "ppo", 9)
    files = [copy / "rollouts" / f"{first:08d}.npz" for first in (0, 4, 8)]
    bits = bytearray(files[2].read_bytes())
    bits[len(bits) // 2] ^= 16
    files[2].write_bytes(bits)
    files[1].unlink()
    with pytest.warns(UserWarning) as told:
        said = town.again("ppo", copy.name, judge, *FLAGS)
    texts = [str(one.message) for one in told]
    for step, file, why in ((9, files[2], "damaged"), (6, files[1], "missing")):
        start = f"training cannot go on from {copy / 'checkpoints' / str(step)}: {file} is {why}"
        assert any(text.startswith(start) and "Falling back to the step before" in text for text in texts)
    assert f"{copy / 'checkpoints' / '6'} is of an attempt" in "".join(texts)
    assert "resuming from step 3 " in said
    assert rows(copy) == rows(whole) and rollouts(copy) == rollouts(whole)
    same_arrays(whole, copy, 10)


def test_a_run_without_any_rollout_starts_again(town, whole, judge):
    copy = killed(town, "ppo", 3, "alone")
    shutil.rmtree(copy / "rollouts")
    with pytest.warns(UserWarning) as told:
        said = town.again("ppo", copy.name, judge, *FLAGS)
    assert "No older step is left: the run starts again from its first step" in str(told[0].message)
    assert "resuming" not in said and (copy / "checkpoints" / "3.aside").is_dir()
    assert rows(copy) == rows(whole)
    same_arrays(whole, copy, 10)


def test_a_policy_that_is_not_the_one_that_sampled_stops_the_run(town, whole, judge, monkeypatch):
    real = advantages.annotate_logps

    def shifted(*settings):
        look = real(*settings)
        return lambda *given: (found := look(*given)) | {"old_logps": found["old_logps"] + 0.1}

    monkeypatch.setattr(advantages, "annotate_logps", shifted)
    with pytest.raises(
        TrainingError, match=r"must have val/ratio = 1 ± 0\.001, by construction, and has 0\.90"
    ):
        town.run("ppo", "shifted", judge, *FLAGS)


def policy_of(workdir, step, branch="['opt_state']['average']"):
    """The policy's parameters in a checkpoint, by path."""
    prefix = f"{branch}['policy']"
    found = {path.partition(prefix)[2]: x for path, x in arrays(workdir, step).items() if prefix in path}
    assert found
    return found


def starting(town, name):
    """The whole parameters that DPO would start from."""
    start = init_from.load_run(str(town / name))
    cfg = command_line.from_flags(dpo.Dpo, list(town.flags("dpo", "--dry_run", start=name)))
    with quick():
        plan = session.make_plan(cfg)
        model = transformer.build(start.arch, transformer.execution(cfg.model, "cpu"))
        params = weights.load_params(plan, start, model, 0)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(params)}


def test_what_goes_on_from_a_run_has_its_policy(town, whole):
    wanted = policy_of(whole, 10)
    found = starting(town, "ppo")
    assert found.keys() == wanted.keys() and all(np.array_equal(found[path], x) for path, x in wanted.items())
    town.run("sft", "after", "--steps=3", "--lr=0", start="ppo")
    child = {
        path.partition("['params']")[2]: x
        for path, x in arrays(town / "after", 3).items()
        if "['params']" in path
    }
    assert child.keys() == wanted.keys() and all(np.array_equal(child[path], x) for path, x in wanted.items())
    assert not np.array_equal(wanted["['embed']"], policy_of(whole, 10, "['params']")["['embed']"])


def test_adapters_start_at_the_reference_and_values_at_the_reward_model(town, judge):
    run = town.run("ppo", "ppo-lora", judge, *SHORT, "--lora_rank=2", "--lora_targets=attention/q")
    first, *_, last = updates(run)
    assert first["objective/kl"] == pytest.approx(0, abs=1e-4) and first["val/ratio"] == pytest.approx(
        1, abs=1e-5
    )
    assert last["policy/approxkl_avg"] > 0
    held = {path for path in arrays(run, 3) if path.startswith("['params']")}
    assert {path for path in held if "['score']" in path} == {
        "['params']['value']['score']['weight']", "['params']['value']['score']['bias']",
    }  # fmt: skip
    assert all("['q']['kernel']" in path for path in held if "['score']" not in path) and len(held) == 6
    found, base = starting(town, "ppo-lora"), starting(town, "sft")
    assert found.keys() == base.keys()
    assert {path for path in base if not np.array_equal(base[path], found[path])} == {
        "['layers']['attention']['q']['kernel']"
    }


def test_values_may_start_as_the_policy(town):
    run = town.run("ppo", "ppo-policy", "--reward=gold", "--value=policy", "--value_lr=1e-9", *SHORT)
    start, held = starting(town, "sft"), arrays(run, 3)
    for path, x in start.items():
        np.testing.assert_allclose(held[f"['params']['value']['trunk']{path}"], x, atol=1e-6)
    assert not np.allclose(held["['params']['policy']['embed']"], start["['embed']"], atol=1e-4)
    # The head starts at 0, so all values are about 0: what the returns vary by is left.
    assert updates(run)[0]["val/explained_var"] == pytest.approx(0, abs=1e-5)
    assert updates(run)[0]["objective/scores"] == updates(run)[0]["judge/gold"]


def test_values_may_be_a_head_on_the_policy_and_an_iteration_may_end_early(town, tmp_path):
    """The distance of an iteration's first update is 0, that of its second is not: each iteration has two."""
    run = town.run(
        "ppo",
        "ppo-head",
        "--reward=gold",
        "--value=head",
        "--stop_kl=1e-9",
        *SHORT,
        "--checkpoint_every=1",
        "--keep=9",
    )
    held = arrays(run, 3)
    assert {path for path in held if "['params']['value']" in path} == {
        "['params']['value']['score']['weight']", "['params']['value']['score']['bias']",
    }  # fmt: skip
    assert list(rollouts(run)) == [0, 2]
    assert held["['extra']['approxkl']"] == pytest.approx(updates(run)[2]["policy/approxkl_avg"], abs=1e-7)
    copy = killed(town, "ppo-head", 2)
    town.again(
        "ppo",
        copy.name,
        "--reward=gold",
        "--value=head",
        "--stop_kl=1e-9",
        *SHORT,
        "--checkpoint_every=1",
        "--keep=9",
    )
    assert rows(copy) == rows(run) and same_arrays(run, copy, 3)


def test_every_plan_learns_the_same(town, whole, judge):
    make = parallel.make
    flags = town.flags("ppo", f"--workdir={town / 'ppo-mesh'}", judge, "--steps=3", *FLAGS[1:])
    # Undone before quick()'s own patch is, or that one would stay.
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "make", lambda run: make(run, jax.devices()[:2]))
        call("ppo", *flags, "--parallel=mesh", "--mesh=fsdp:2")
    wanted, found = updates(whole)[:3], updates(town / "ppo-mesh")
    for one, other in zip(wanted, found, strict=True):
        assert one.keys() == other.keys()
        for name, x in one.items():
            assert other[name] == pytest.approx(x, rel=1e-4, abs=1e-4), name
