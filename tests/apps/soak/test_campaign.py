"""The order of a soak, its names, and its table."""

import json

import pytest

from jaxtrain.apps.soak import campaign, targets
from jaxtrain.apps.soak.attempt import Result
from jaxtrain.apps.soak.config import SoakFlags
from jaxtrain.config import ConfigError, Failure


def names(flags, count):
    order = campaign.schedule(campaign.pairs(flags), flags.seed)
    return [next(order).name for _ in range(count)]


def test_a_seed_decides_the_order_and_where_each_fault_strikes():
    flags = SoakFlags(seed=3)
    first, again, other = names(flags, 60), names(flags, 60), names(SoakFlags(seed=4), 60)
    assert first == again != other and len(set(first)) == 60
    one = next(campaign.schedule(campaign.pairs(flags), 3))
    assert one.rng(3).random() == one.rng(3).random() != one.rng(4).random()


def test_a_round_has_every_fault_of_every_command_as_often_as_its_share():
    found = campaign.pairs(SoakFlags())
    size = sum(fault.share for _, fault in found)
    order = campaign.schedule(found, 0)
    for round_number in (1, 2):
        seen = [next(order) for _ in range(size)]
        for target, fault in found:
            mine = [one.number for one in seen if one.target == target and one.fault == fault]
            last = fault.share * round_number
            assert sorted(mine) == list(range(last - fault.share + 1, last + 1))
    stages = {"pretrain", "sft", "reward", "dpo", "ppo", "grpo", "distill"}
    by_fault = {}
    for target, fault in found:
        by_fault.setdefault(fault.name, set()).add(target.name)
    assert by_fault["other devices"] == stages == by_fault["one of two processes dies"]
    whole = {*(target.name for target in targets.TARGETS)}
    assert by_fault["bit flip"] == whole
    for name in ("kill -9 at an event", "kill -9 of a fresh process"):
        assert by_fault[name] == whole - {"lifecycle"}
    assert by_fault["kill -9 under load"] == {"serve", "collect_preferences"}


def test_a_command_that_fails_undisturbed_is_reported_and_the_others_are_attacked(tmp_path, monkeypatch):
    def built(place, target):
        if target.name == "sft":
            raise Failure("sft ended with status 1 without any fault")

    class Place:
        folder = here = tmp_path

    monkeypatch.setattr(campaign, "_built", built)
    monkeypatch.setattr(campaign.reference, "build_parents", lambda *_: None)
    monkeypatch.setattr(campaign.faults, "can_mount", lambda _: True)
    monkeypatch.setattr(
        campaign, "strike", lambda one, *_: Result(one.target.name, one.fault.name, one.number, "", "")
    )
    flags, results = SoakFlags(stages="sft,pretrain", attempts=3, workdir=str(tmp_path)), []
    campaign.run(flags, Place, results, lambda: False, lambda text: None)
    assert [one.target for one in results] == ["sft", *["pretrain"] * 3] and "status 1" in results[0].why
    (row,) = [row for row in campaign.outcomes(results, 0) if not row.held]
    assert row.fault == "undisturbed, sft" and row.detail == "launch/soak --seed=0 --stages=sft"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"stages": "pretrain,nothing"}, r"--stages=nothing: choose some of pretrain, sft"),
        ({"faults": "fire"}, r"--faults=fire: choose some of kill -9 at an event"),
        ({"stages": "serve", "faults": "bit flip"}, r"none of them fits --stages=serve"),
        ({"only": "pretrain"}, r"--only=pretrain: write STAGE:FAULT:NUMBER"),
        ({"only": "pretrain:fire:1"}, r"--only=fire: choose"),
        ({"only": "pretrain:bit flip:x"}, r"write STAGE:FAULT:NUMBER"),
    ],
)
def test_unknown_names_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        campaign.check(SoakFlags(**flags))


def test_the_table_counts_and_says_how_to_repeat_what_did_not_hold(tmp_path):
    results = [
        Result("ppo", "bit flip", 1, "bit 3", ""),
        Result("ppo", "bit flip", 2, "bit 4", "it differs"),
        Result("sft", "deletion", 1, "x", ""),
    ]
    rows = campaign.outcomes(results, 7)
    assert [(row.fault, row.times, row.held) for row in rows] == [
        ("bit flip, ppo", 2, 1),
        ("deletion, sft", 1, 1),
    ]
    text = campaign.table(rows, results)
    assert '--seed=7 --only="ppo:bit flip:2"' in text and "3     2" in text
    assert "did not hold: ppo, bit flip 2 (bit 4): it differs" in text

    class Place:
        folder = tmp_path / "abc"

    campaign.write(results, SoakFlags(workdir=str(tmp_path), seed=7), Place)
    stored = json.loads((tmp_path / "soak.json").read_text())
    assert (
        stored["seed"] == 7 and stored["injections"][1]["why"] == "it differs" and len(stored["table"]) == 2
    )
