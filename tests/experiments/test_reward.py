"""Reward models from the command to the files they leave."""

import functools
import json
import math
import re

import numpy as np
import pytest

from experiments import reward
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from jaxtrain.data import chat
from jaxtrain.measures import agreement
from jaxtrain.models import reward as models
from jaxtrain.stages import init_from, reward_model, session
from tests.runs import arrays, column, jsonl, quick, rows, same_arrays

FLAGS = ("--steps=8", "--checkpoint_every=5", "--keep=9", "--lr=0.01", "--members=2", "--prompt_count=24")


@pytest.fixture(scope="module")
def whole(town):
    return town.run("reward", "rm", *FLAGS)


def test_a_run_learns_and_tells_how_well_its_scores_agree(town, whole):
    lines = [row for row in rows(whole) if "loss" in row]
    names = {f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
    assert {"loss", *names, "grad_norm", "lr"} <= lines[0].keys() and len(lines) == 8
    assert np.mean(column(whole, "loss")[-3:]) < np.mean(column(whole, "loss")[:3])
    held = next(row for row in rows(whole) if "eval/accuracy" in row)
    assert {"eval/ece", "eval/length_correlation", "eval/gold_accuracy"} <= held.keys()
    assert any(name.startswith("eval/accuracy/longer_") for name in held)
    assert {"eval/accuracy/ben", "eval/gold_accuracy/ben"} <= held.keys()
    end = town.said["rm"].partition("finished 8 steps")[2]
    assert f"{held['eval/accuracy']:.4f} with the labels, calibration error {held['eval/ece']:.4f}" in end
    assert f"{held['eval/gold_accuracy']:.4f}" in end and not (whole / "samples").exists()
    found = json.loads((whole / "config.json").read_text())
    assert found["stage"] == "reward" and found["parent"]["origin"] == f"{town / 'sft'}@16"


def test_a_resumed_run_goes_on_to_the_same_bits(town, whole):
    again = town.resumed("reward", "rm", 5, *FLAGS)
    assert rows(again) == rows(whole)
    saved = same_arrays(whole, again, 8)
    assert {"['extra']['gain']", "['extra']['bias']"} <= saved.keys()
    said = town.again("reward", "rm", *FLAGS)
    assert (
        said.startswith("all 8 steps are done")
        and f"accuracy {column(whole, 'eval/accuracy')[-1]:.4f}" in said
    )


def test_a_mixture_with_weights_ends_with_normalised_rewards(town):
    source = "tinytown:preferences?documents=48&held_out=24"
    run = town.run("reward", "rm-mixed", *FLAGS, data=f"{source}*0.7,{source}&slip=.2*0.3")
    assert arrays(run, 8)["['extra']['gain']"].tolist() != [1, 1]


def test_prompts_that_cannot_be_read_stop_a_run_before_its_first_step(town):
    with pytest.raises(ConfigError, match=r"--prompts: no file matches .*none.jsonl"):
        town.run("reward", "rm-no-prompts", *FLAGS, f"--prompts=jsonl:{town.folder}/none.jsonl")
    assert not (town / "rm-no-prompts").exists()


def test_rewards_of_reference_completions_have_mean_0_and_variance_1(town, whole, tmp_path):
    """Scored again with what the checkpoint holds; before the last step gain and bias are those of no change."""
    held, early = arrays(whole, 8), arrays(whole, 5)
    assert early["['extra']['gain']"].tolist() == [1, 1] and early["['extra']['bias']"].tolist() == [0, 0]
    cfg = command_line.from_flags(reward.Reward, list(town.flags("reward", "--dry_run", *FLAGS)))
    start = init_from.resolve(cfg, needed=True)
    template = chat.load_template(cfg.data.template, start.tokenizer)
    with quick():
        run = session.start_session(
            cfg,
            tmp_path,
            session.make_plan(cfg),
            start,
            start.tokenizer,
            {},
            heads=functools.partial(models.build, members=cfg.loss.members),
        )
        scores = reward_model.scores_fn(run)
        params = {
            "trunk": _tree(held, "['params']['trunk']"),
            "score": {name: held[f"['params']['score']['{name}']"] for name in ("weight", "bias")},
        }
        batches = reward_model._reference_completions(
            cfg, run, template, reward_model._reference_prompts(cfg, template)
        )
    found = [scores(params, batch) for batch in batches]
    found = np.concatenate(found, 1)[..., 0].astype(np.float64)
    assert found.shape == (2, 24)
    rewards = held["['extra']['gain']"][:, None] * found + held["['extra']['bias']"][:, None]
    np.testing.assert_allclose(rewards.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(rewards.var(1), 1, rtol=1e-4)
    assert not np.allclose(found[0], found[1])
    np.testing.assert_allclose(agreement.score_normalisation(found)[0], held["['extra']['gain']"], rtol=1e-5)


def _tree(flat, prefix):
    out = {}
    for path, leaf in flat.items():
        if path.startswith(prefix):
            *names, last = path.removeprefix(prefix)[2:-2].split("']['")
            here = out
            for name in names:
                here = here.setdefault(name, {})
            here[last] = leaf
    return out


def test_members_see_bootstraps_of_their_own(whole):
    """All start from one trunk: its moments differ by member as soon as the rows that each sees do."""
    held = arrays(whole, 5)
    kernels = [leaf for path, leaf in held.items() if "trunk" in path and path.endswith("['q']['kernel']")]
    assert len(kernels) == 3 and all(not np.array_equal(leaf[0], leaf[1]) for leaf in kernels)


class Rows:
    """Batches of eight rows, always in the same order."""

    def iterate(self, first):
        for i in range(first, 100):
            yield {"index": np.arange(8) + 8 * i}


def test_a_row_weighs_the_same_for_a_member_whenever_it_comes():
    batches = reward_model.ensemble_batches(Rows(), 5, 3)
    drawn = batches(0)
    all_of = np.concatenate([drawn(None)["weight"] for _ in range(60)])
    assert all_of.shape == (480, 5) and abs(all_of.mean() - 1) < 0.1 and abs(all_of.var() - 1) < 0.15
    correlation = np.corrcoef(all_of.T)[~np.eye(5, dtype=bool)]
    assert abs(correlation).max() < 0.2
    later = batches(7)(None)
    assert np.array_equal(later["weight"], all_of[56:64])
    assert "index" not in later and "weight" not in reward_model.ensemble_batches(Rows(), 1, 3)(0)(None)


RANKED = [
    {"prompt": f"What is {i}?", "completions": ["A number.", "Who knows?", "No."], "ranking": [1, 2, 2]}
    for i in range(24)
]


def test_rankings_with_ties_go_through_the_command(town, tmp_path):
    data = jsonl(tmp_path / "a.jsonl", RANKED)
    said = town.again(
        "reward", "unused", "--steps=6", "--loss=plackett_luce", "--eval_share=0.25", "--dry_run", data=data
    )
    first = dict(re.findall(r"^  ([\w/]+) +([\d.-]+)$", said.partition("first step")[2], re.M))
    said = " ".join(said.split())
    ties = re.findall(
        r"format ranked: (\d+) of \1 records used, in \1 rows; [\w, ]+ completion \1 pairs are tied", said
    )
    assert len(ties) == 2 and sum(map(int, ties)) == 24  # train and held out
    chosen, rejected, margin = (float(first[f"rewards/{n}"]) for n in ("chosen", "rejected", "margins"))
    assert margin == pytest.approx(chosen - rejected, abs=2e-4)
    # Scores that hardly differ: the best is one of three, and each of those that tie one of two.
    assert float(first["loss"]) == pytest.approx(math.log(3) + 2 * math.log(2), abs=0.02)


def test_responses_a_and_b_go_through_the_command(town, tmp_path):
    """A word that is always preferred is learnt, whichever side it stands on; ties are dropped and counted."""
    pairs = [("Yes, it is.", "No, not now."), ("No, not now.", "Yes, it is.")]
    records = [
        {
            "prompt": f"Is it {i}?",
            "response_a": pairs[i % 2][0],
            "response_b": pairs[i % 2][1],
            "preferred": ("a", "b", "tie")[i % 2 if i % 8 else 2],
            "reason": "It says so.",
        }
        for i in range(48)
    ]
    flags = (
        "--steps=16",
        "--ties=drop",
        "--eval_share=0.25",
        "--lr=0.01",
        "--members=2",
        "--prompt_count=24",
    )
    run = town.run("reward", "ab", *flags, data=jsonl(tmp_path / "a.jsonl", records))
    said = " ".join(town.said["ab"].split())
    assert "format responses" in said and "rows dropped: nothing but ties" in said
    assert column(run, "eval/accuracy")[-1] == 1.0


def test_a_reward_model_is_no_start_for_a_language_model(town, whole):
    with pytest.raises(ConfigError, match="a reward model; name the run of a language model"):
        town.run("sft", "none", start="rm")


REFUSED = {
    "--sample_every=5": "a reward model generates nothing",
    "--ensemble=min": "acts only with --members above 1",
    "--price=1": r"--price=1\.0 acts only with --ensemble=penalised",
    "--loss=plackett_luce --flat": "--flat=True acts only with --loss=logistic or hinge",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_flags_that_cannot_be_are_refused(town, flags):
    with pytest.raises(ConfigError, match=REFUSED[flags]):
        town.run("reward", "refused", *flags.split())
    assert not (town / "refused").exists()
