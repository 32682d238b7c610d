"""Preference optimisation from the command to the files it leaves: identities, reference, resuming, bad input."""

import json
import math
import re

import jax
import numpy as np
import pytest

from experiments import dpo
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from jaxtrain.data import chat, preferences
from jaxtrain.files import checksums
from jaxtrain.stages import init_from, reference, session
from jaxtrain.train.loop import TrainingError
from tests.runs import column, jsonl, quick, rows, same_arrays

FLAGS = ("--steps=8", "--checkpoint_every=3", "--keep=9", "--lr=1e-3")
NAMES = {
    "loss",
    *(f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")),
    *(f"logps/{name}" for name in ("chosen", "rejected")),
}


def tables(town):
    return set((town / "cache" / "reference").glob("*/logps.npy"))


@pytest.fixture(scope="module")
def earlier(town):
    """The tables that runs of other files left in the cache."""
    return tables(town)


@pytest.fixture(scope="module")
def whole(town, earlier):
    return town.run("dpo", "dpo", *FLAGS, "--sample_every=4")


def prepared(town, folder, *flags, **options):
    """(run, data, told) of a command's flags, as its main makes them; `told` says where the reference comes from."""
    cfg = command_line.from_flags(dpo.Dpo, list(town.flags("dpo", "--dry_run", *flags, **options)))
    start = init_from.resolve(cfg, needed=True)
    template = chat.load_template(cfg.data.template, start.tokenizer)
    plan = session.make_plan(cfg)
    data = preferences.prepare(
        cfg.data, seed=cfg.run.seed, tokenizer=start.tokenizer, template=template, local_rows=plan.local_rows,
        kind="pairs", ties="drop", soft=False,
    )  # fmt: skip
    run = session.start_session(cfg, folder, plan, start, data.tokenizer, data.fingerprints)
    return run, data, reference.reference_columns(cfg, run, data, "sigmoid", cfg.loss.settings()).table


def test_a_mixture_with_weights_is_sampled_from_without_them(town):
    rows_of = [[{"prompt": f"{n} {i}?", "chosen": "yes", "rejected": "no"} for i in range(24)] for n in "ab"]
    a, b = (jsonl(town.folder / f"mixed-{n}.jsonl", rows) for n, rows in zip("ab", rows_of, strict=True))
    mixed = town.run("dpo", "dpo-mixed", "--steps=3", data=f"{a}*0.7,{b}*0.3")
    answers = [json.loads(line) for line in (mixed / "samples" / "00000003.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in answers] == [f"a {i}?" for i in range(8)]


def test_prompts_that_cannot_be_read_are_named_before_the_reference_is_computed(town, monkeypatch):
    monkeypatch.setattr(reference, "reference_columns", lambda *args: pytest.fail("computed"))
    with pytest.raises(ConfigError, match=r"--prompts: no file matches .*none.jsonl"):
        town.run("dpo", "dpo-no-prompts", "--steps=3", f"--prompts=jsonl:{town.folder}/none.jsonl")


def test_a_run_starts_at_its_reference_and_leaves_it(whole, town):
    lines = [row for row in rows(whole) if "loss" in row]
    assert NAMES | {"grad_norm", "lr"} <= lines[0].keys() and len(lines) == 8
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert [lines[0][name] for name in sorted(NAMES - {"loss"}) if name.startswith("rewards")] == [0.0] * 4
    assert lines[0]["logps/chosen"] < -1 and lines[-1]["rewards/margins"] > 0.01
    held = next(row for row in rows(whole) if "eval/loss" in row)
    assert {f"eval/{name}" for name in NAMES} <= held.keys()
    assert len(column(whole, "judge/gold")) == 2 and len(column(whole, "completions/mean_length")) == 2
    found = json.loads((whole / "config.json").read_text())
    assert found["parent"]["run"] == str(town / "sft") and found["parent"]["origin"].endswith("sft@16")
    assert found["data"].keys() == {"data", "eval_data", "tokenizer", "template", "grain"}
    assert len(found["reference"]) == 16 and "finished 8 steps" in town.said["dpo"]
    assert "rows computed" in town.said["dpo"]
    assert (whole / "samples" / "00000008.jsonl").read_text().count("\n") == 8


def test_the_reference_is_what_the_start_says_of_each_row_to_the_bit(town, earlier, whole, tmp_path):
    """In batches of other rows in another order, with the program that the policy goes through."""
    (file,) = tables(town) - earlier
    table = np.load(file)
    with quick():
        run, data, told = prepared(town, tmp_path)
        assert table.shape == (len(data.rows), 2)
        assert told == [("reference", f"log-probabilities of {len(table)} rows from the cache")]
        params, logps = session.initial_params(run, 0), reference.logps_fn(run)
        seen = set()
        for i in range(5):
            batch = data.train.batch(i)
            assert np.array_equal(logps(params, (), batch), table[batch["index"]])
            seen.update(batch["index"].tolist())
        assert len(seen) > 30 and sorted(seen) != list(range(len(seen)))
        moved = jax.tree.map(lambda x: 1.001 * x, params)
        assert not np.array_equal(logps(moved, (), batch), table[batch["index"]])


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ((), {"start": "base"}),
        (("--template=hh",), {}),
        ((), {"data": "tinytown:preferences?documents=64&held_out=24"}),
    ],
    ids=["model", "template", "data"],
)
def test_another_model_template_or_data_have_a_reference_of_their_own(town, whole, tmp_path, flags, options):
    before = tables(town)
    with quick():
        for how in ("computed", "from the cache"):
            _, data, told = prepared(town, tmp_path, *flags, **options)
            assert told == [("reference", f"log-probabilities of {len(data.rows)} rows {how}")]
    (file,) = tables(town) - before
    assert not any(np.array_equal(np.load(file), np.load(other)) for other in before)


def test_a_dry_run_shows_the_identities_and_leaves_nothing(town, whole):
    said = town.again("dpo", "unused", "--steps=3", "--dry_run")
    assert "from the cache" in said and not (town / "unused").exists()
    first = dict(re.findall(r"^  ([\w/]+) +([\d.]+)$", said.partition("first step")[2], re.M))
    assert (first["loss"], first["rewards/margins"], first["rewards/accuracies"]) == (
        "0.6931",
        "0.0000",
        "0.0000",
    )


def test_a_resumed_run_goes_on_to_the_same_bits_and_does_not_load_its_parent(town, whole):
    parent = town / "sft" / "checkpoints"
    away = parent.rename(town / "away")
    try:
        again = town.resumed("dpo", "dpo", 3, *FLAGS, "--sample_every=4")
    finally:
        away.rename(parent)
    assert rows(again) == rows(whole)
    assert any("opt_state" in path for path in same_arrays(whole, again, 8))
    assert town.again("dpo", "dpo", *FLAGS, "--sample_every=4").startswith("all 8 steps are done")


@pytest.mark.parametrize("loss", ["bco_pair", "kto"])
def test_losses_that_look_beyond_a_row_resume_to_the_same_bits(town, loss):
    flags = ("--steps=5", "--checkpoint_every=3", "--keep=9", "--lr=1e-3", f"--loss={loss}")
    run = town.run("dpo", loss, *flags)
    again = town.resumed("dpo", loss, 3, *flags)
    assert rows(run) == rows(again)
    saved = same_arrays(run, again, 5)
    assert NAMES - {"rewards/margins", "rewards/accuracies"} <= rows(run)[0].keys()
    if loss == "bco_pair":
        pairs = np.array(
            [[row["rewards/chosen"], row["rewards/rejected"]] for row in rows(run) if "loss" in row]
        )
        assert saved["['extra']['shift']"] == pytest.approx(pairs.mean(), abs=1e-6)
        assert saved["['extra']['pairs']"] == 5 * 8
    else:
        assert not any("extra" in path for path in saved)
    if loss == "kto":
        assert column(run, "kl")[0] == 0.0 and column(run, "loss")[0] == pytest.approx(0.5, abs=1e-6)


def test_a_table_of_another_reference_stops_the_run(town, whole):
    kept = {file: file.read_bytes() for file in tables(town)}
    for file in kept:
        np.save(file, np.load(file) + np.array([0.5, -0.5], np.float32))
        checksums.write(file.parent)
    try:
        with pytest.raises(TrainingError, match=r"must have rewards/margins = 0 ± 0\.001.*has -0\.1"):
            town.run("dpo", "tampered", "--steps=3")
        with pytest.raises(TrainingError, match="must have rewards/margins"):
            town.run("dpo", "tampered", "--steps=3", "--dry_run")
        assert not (town / "tampered" / "checkpoints").exists()
    finally:
        for file, content in kept.items():
            file.write_bytes(content)
            checksums.write(file.parent)


ASKED = {"prompt": "What is a cart?", "chosen": "A thing with wheels.", "rejected": "No."}
PAIRS = [ASKED | {"prompt": f"What is {i}?"} for i in range(20)]
TUTORIAL = {"prompt": "Hi?", "response_a": "Yo.", "response_b": "No.", "preferred": "c", "reason": "It is."}
BAD = {
    "preferred is neither": (
        [TUTORIAL] * 3,
        r"a\.jsonl:\d: unknown preference: preferred is 'c', not a, b or tie",
    ),
    "an empty completion": ([ASKED | {"chosen": " "}] * 3, r"a\.jsonl:\d: empty completion: chosen"),
    "equal completions": (
        [ASKED | {"rejected": ASKED["chosen"]}] * 3,
        r"no comparison left of \d records: \d records dropped: chosen and rejected are the same",
    ),
    "everything too long": (
        [ASKED | {"chosen": "very " * 200}] * 3,
        r"no comparison left of \d records: \d rows dropped: their completions do not fit --seq_len",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_comparisons_are_named_and_leave_no_half_made_run(town, tmp_path, kind):
    records, message = BAD[kind]
    with pytest.raises(ConfigError, match=message):
        town.run("dpo", "bad", "--eval_share=0.5", data=jsonl(tmp_path / "a.jsonl", records))
    assert not (town / "bad").exists()


def test_what_is_skipped_and_dropped_is_counted(town, tmp_path):
    odd = [{**ASKED, "chosen": ""}, {**ASKED, "rejected": ASKED["chosen"]}, {**ASKED, "chosen": "so " * 99}]
    data = jsonl(tmp_path / "a.jsonl", [*PAIRS, *odd])
    held_out = f"--eval_data={jsonl(tmp_path / 'b.jsonl', PAIRS)}"
    said = town.again("dpo", "unused", "--steps=3", "--on_bad_record=skip", "--dry_run", held_out, data=data)
    said = " ".join(said.split())
    assert "20 of 23 records used, in 20 rows" in said
    assert "1 record dropped: chosen and rejected are the same" in said
    assert "1 row dropped: their completions do not fit --seq_len" in said
    assert "empty completion" in said and "1 bad record skipped" in said


REFUSED = {
    "no start": (
        (),
        {"start": ""},
        "--init_from: name the run to start from, such as runs/pretrain, or hf:DIR",
    ),
    "a flag that does nothing": (
        ("--label_smoothing=0.1", "--loss=hinge"),
        {},
        "--label_smoothing=0.1 does nothing",
    ),
    "gamma": (("--gamma=2",), {}, "--gamma=2.0 acts only with --loss=simpo, and it is sigmoid"),
    "a divergence": (("--divergence=js", "--loss=ipo"), {}, "--divergence=js does nothing in loss=ipo"),
    "targets": (("--lora_rank=2", "--lora_targets=mlp,head"), {}, "'head' finds none of layers/attention/"),
    "rank": (("--dora",), {}, "--dora: acts only with --lora_rank above 0"),
    "two sources of prompts": (
        ("--prompts=tinytown:prompts,tinytown:prompts",),
        {},
        "--prompts=.*: name one source",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_flags_that_cannot_be_are_refused(town, kind):
    flags, options, message = REFUSED[kind]
    with pytest.raises(ConfigError, match=message):
        town.run("dpo", "refused", *flags, **options)
    assert not (town / "refused").exists()
