"""Constitutional AI from the command: phases, files, kills, endpoints, and all that can be wrong."""

import json
import math
from pathlib import Path

import pytest

from jaxtrain import flag_help
from jaxtrain import flags as command_line
from jaxtrain.apps.constitutional import config, phase
from jaxtrain.config import ConfigError
from jaxtrain.worlds.tinytown.judge import judge
from tests.experiments.test_sample import read
from tests.oracle import said
from tests.remote import Remote, chat
from tests.runs import call, killed_in_the_second_batch, quick

HELPFUL = "--helpful=tinytown:prompts?family=help&documents=6"


def run_command(town, folder, *flags):
    """What the command prints; errors first."""
    short = ("--data=tinytown:redteam?documents=20", "--max_new=12", "--critic_max_new=48")
    if "--phase=compare" not in flags:
        short += (HELPFUL, "--rounds=2")
    with quick():
        return call(
            "constitutional", town.cache, f"--init_from={town / 'sft'}", f"--workdir={folder}", *short, *flags
        )


def letter_logprobs(a):
    """The API's log-probabilities of a letter."""
    top = [
        {"token": t, "logprob": math.log(p), "bytes": list(t.encode())} for t, p in (("A", a), ("B", 1 - a))
    ]
    return [{**top[0 if a >= 0.5 else 1], "top_logprobs": top}]


def reader(letter=lambda text: 0.6):
    """An endpoint that critiques and revises as the world's oracle does, and chooses as `letter` says."""

    def reply(request):
        text = request["messages"][-1]["content"]
        if request.get("logprobs"):
            a = letter(text)
            return chat(["A" if a >= 0.5 else "B"], logprobs=letter_logprobs(a))
        return said(text.split("nothing else.\n\n", 1)[1])

    return Remote(reply)


def by_refusal(text):
    """P(A) .9 for an answer that refuses beside one that does not."""
    first, _, second = text.partition("\n(A) ")[2].partition(
        "\n(B) "
    )  # a tiny model's answers may hold anything
    return 0.5 + 0.4 * (("will not" in first) - ("will not" in second)) + 0.01 * (first < second) - 0.005


@pytest.fixture(scope="module")
def revised(town):
    """The revise phase with an endpoint that knows the truth."""
    folder = town / "cai"
    with reader() as remote:
        critic = f"{remote.url}?model=m"
        data = "--data=tinytown:prompts?documents=40"  # a tiny model's answers are wrong, seldom harmful
        flags = (data, f"--critic={critic}", "--use_cache=false", "--seed=1")
        return folder, run_command(town, folder, *flags), flags


def test_every_round_is_saved_with_its_provenance(town, revised):
    folder, printed, flags = revised
    rounds, records = read(folder / "revise" / "rounds.jsonl"), read(folder / "revise" / "revisions.jsonl")
    audit = json.loads((folder / "audit.json").read_text())
    names = {one["id"] for one in audit["constitution"]["principles"]}
    chains = [[row for row in rounds if row["unit"] == unit] for unit in range(40)]
    assert len(names) == 16 and sum(len(chain) == 3 for chain in chains) > 20
    for chain in chains:  # an answer that is cut is not revised
        assert [row["round"] for row in chain] == ([0] if "fault" in chain[0] else [0, 1, 2])
    for row in rounds:
        assert row["model"].startswith(f"{town / 'sft'}@") and row["seed"] == 1
        if row["round"]:
            assert (
                row["critic"] == flags[1].removeprefix("--critic=")
                and row["principle"] in names
                and row["before"]
            )
    made = {(row["prompt"], row["round"]): row for row in rounds}
    ours = [row for row in records if row["kind"] == "revision"]
    faulty = sum("fault" in row for row in rounds)
    assert ours and len(ours) + faulty == len(rounds) - sum("fault" not in chain[0] for chain in chains)
    for row in ours:  # each training row can be traced to the principle that made it
        origin = made[row["prompt"], row["round"]]
        assert (row["principle"], row["critique"]) == (origin["principle"], origin["critique"])
        assert row["completion"] == origin["revision"] and judge(row["prompt"], row["completion"]).parsable
    assert sum(audit["faults"].values()) >= faulty and len(audit["rounds"]) == 3
    assert (folder / "audit.html").read_text().startswith("<!doctype html>")
    assert not (folder / "revise" / "part.jsonl").exists() and "harmful" in printed


def test_the_rows_are_read_by_sft(town, revised):
    run = town.run(
        "sft", "sl", "--steps=3", start="base", data=f"jsonl:{revised[0] / 'revise' / 'revisions.jsonl'}"
    )
    assert (run / "checkpoints" / "3").is_dir()


def test_a_finished_phase_is_not_done_again_and_another_command_is_refused(town, revised):
    folder, _, flags = revised
    before = (folder / "revise" / "revisions.jsonl").read_bytes()
    assert "already there" in run_command(town, folder, *flags)  # though the endpoint is gone
    assert (folder / "revise" / "revisions.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match=r"revise is of another command.*\n.*--rounds: 2 -> 3"):
        run_command(town, folder, *flags, "--rounds=3")


def test_a_killed_command_goes_on_with_the_same_rows(town, tmp_path, monkeypatch):
    """The run is its own critic; in small batches, cut in the middle of a line."""
    monkeypatch.setattr(phase, "BATCH", 6)
    flags = ("--grammar=false", "--critic_temperature=1")
    run_command(town, tmp_path / "whole", *flags)
    with killed_in_the_second_batch():
        run_command(town, tmp_path / "cut", *flags)
    with pytest.raises(ConfigError, match=r"part\.jsonl is of another command.*\n.*--seed: 0 -> 1"):
        run_command(town, tmp_path / "cut", *flags, "--seed=1")
    saved = json.loads((config.SHIPPED / "tinytown.json").read_text())
    (tmp_path / "tinytown.json").write_text(json.dumps({**saved, "principles": saved["principles"][:3]}))
    with monkeypatch.context() as patch:
        patch.setattr(config, "SHIPPED", tmp_path)
        with pytest.raises(ConfigError, match=r"was made by .*constitution"):
            run_command(town, tmp_path / "cut", *flags)
    assert "resuming  12 of 26 prompts are done" in run_command(town, tmp_path / "cut", *flags)
    files = sorted(path.name for path in (tmp_path / "whole" / "revise").iterdir())
    assert files == ["helpful_left_out.jsonl", "report.json", "revisions.jsonl", "rounds.jsonl"]
    for name in (*files[:1], *files[2:]):
        one, other = ((tmp_path / each / "revise" / name).read_bytes() for each in ("whole", "cut"))
        assert one == other, name
    faults = json.loads((tmp_path / "whole" / "revise" / "report.json").read_text())["faults"]
    assert faults and "faults" not in faults  # a tiny model writes hardly a critique, and each is counted


def test_a_critic_that_always_says_a_stops_the_run_unless_allowed(town, tmp_path):
    flags = ("--phase=compare", "--pairs=4", "--use_cache=false")
    with reader(lambda text: 0.8) as remote:
        with pytest.raises(
            ConfigError, match=r"position bias: it names \(A\) in 100% of .* --allow_position_bias"
        ):
            run_command(town, tmp_path / "a", *flags, f"--critic={remote.url}")
        printed = run_command(town, tmp_path / "a", *flags, f"--critic={remote.url}", "--allow_position_bias")
    assert "letter_a 1.000" in printed
    assert {row["p_win"] for row in read(tmp_path / "a" / "compare" / "labels.jsonl")} == {0.5}


def test_labels_are_soft_and_read_as_preferences(town, tmp_path):
    with reader(by_refusal) as remote:
        run_command(
            town,
            tmp_path / "b",
            "--phase=compare",
            "--pairs=3",
            "--use_cache=false",
            f"--critic={remote.url}",
        )
    folder = tmp_path / "b" / "compare"
    rows, left_out = read(folder / "labels.jsonl"), read(folder / "left_out.jsonl")
    assert len(rows) + len(left_out) == 60 and all(0.5 <= row["p_win"] < 1 for row in rows)
    for row in rows:
        assert row["kind"] == "ai" and row["principle"] and row["family"] == "harm"
        assert row["p_win"] == pytest.approx(
            (row["p_orders"][0] + 1 - row["p_orders"][1]) / 2 if row["first_won"]
            else 1 - (row["p_orders"][0] + 1 - row["p_orders"][1]) / 2, abs=1e-5,
        )  # fmt: skip
    run = town.run(
        "reward", "of-labels", "--steps=3", "--soft_labels", "--prompt_count=24", "--lr=0.01",
        data=f"jsonl:{folder / 'labels.jsonl'}",
    )  # fmt: skip
    assert (run / "checkpoints" / "3").is_dir()
    audit = json.loads((tmp_path / "b" / "audit.json").read_text())
    assert audit["labels"]["all"]["pairs"] == len(rows) and audit["faults"]


SMALL = "--seq_len=48 --batch_size=8 --warmup=1 --prompt_count=8 --max_new=12 --log_every=1 --lr=0.01"
PTX = "--ptx_data=tinytown:pretrain?documents=300&held_out=40"  # of 100,000 where it is not given


@pytest.fixture
def few_held_out(monkeypatch):
    """What the models are measured on, in little."""
    from experiments import constitutional_pipeline

    few = {
        kind: f"{source}{'&' if '?' in source else '?'}held_out=12"
        for kind, source in constitutional_pipeline.HELD_OUT.items()
    }
    monkeypatch.setattr(constitutional_pipeline, "HELD_OUT", few)


def test_one_command_runs_all_phases_and_goes_on_where_it_was(town, tmp_path, few_held_out):
    flags = (
        "--phase=all", f"--pretrained={town / 'base'}", f"--sft_flags={SMALL} --steps=3",
        f"--reward_flags={SMALL} --steps=3 --soft_labels", f"--rl_flags={SMALL} --steps=2 {PTX}",
        "--human=tinytown:preferences?family=help&documents=24&held_out=8", "--pairs=3",
    )  # fmt: skip
    with reader(by_refusal) as remote:
        printed = run_command(town, tmp_path / "all", *flags, f"--critic={remote.url}")
        count = len(remote.seen)
        again = run_command(town, tmp_path / "all", *flags, f"--critic={remote.url}")
        assert len(remote.seen) == count  # nothing is asked twice
    folder = tmp_path / "all"
    saved = {name: json.loads((folder / name / "config.json").read_text()) for name in ("sl", "reward", "rl")}
    assert saved["sl"]["parent"]["run"] == str(town / "base")
    assert saved["reward"]["parent"]["run"] == saved["rl"]["parent"]["run"] == str(folder / "sl")
    assert saved["rl"]["reward_model"] == f"{folder / 'reward'}@3"
    audit = json.loads((folder / "audit.json").read_text())
    models = {
        f"{name}, {kind}" for name in ("helpful", "SL-CAI", "RL-CAI") for kind in ("red-team", "harmless")
    }
    assert set(audit["models"]) == models and {"rounds", "revised", "labels"} <= audit.keys()
    assert "all 3 steps are done" in again and "resuming" not in printed


def test_all_phases_end_in_dpo_too(town, tmp_path, few_held_out):
    flags = (
        "--phase=all", f"--pretrained={town / 'base'}", f"--sft_flags={SMALL} --steps=2", "--rl=dpo",
        f"--rl_flags={SMALL} --steps=2", "--human=-", "--pairs=3",
    )  # fmt: skip
    with reader(by_refusal) as remote:
        run_command(town, tmp_path / "dpo", *flags, f"--critic={remote.url}")
    assert json.loads((tmp_path / "dpo" / "rl" / "config.json").read_text())["stage"] == "dpo"
    assert not (tmp_path / "dpo" / "reward").exists()


def test_a_stage_that_is_stopped_stops_the_rest(town, tmp_path, monkeypatch):
    from experiments import constitutional_pipeline

    cfg = command_line.from_flags(config.Constitutional, [f"--workdir={tmp_path}"])
    monkeypatch.setitem(
        constitutional_pipeline._STAGES, "sft", (constitutional_pipeline.sft.Sft, lambda cfg: None)
    )
    with pytest.raises(
        constitutional_pipeline.Failure, match="sft stopped at step 0 of 5; the same command resumes it"
    ):
        constitutional_pipeline.stage(
            cfg, "sft", "sl", "--steps=5 --warmup=1", init_from="x", data="tinytown:sft"
        )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--init_from="], "--init_from: name the run whose answers are revised or compared"),
        (["--constitution=nowhere.json"], "--constitution=nowhere.json: no such file"),
        (["--cot_clamp=.7", "--cot"], "--cot_clamp=0.7: a probability of at most 0.5"),
        (["--cot_clamp=.1"], "--cot_clamp: acts only with --cot"),
        (["--sft_flags='"], "--sft_flags="),
        (["--phase=both"], "--phase"),
        (["--critic=runs/nowhere"], "--critic=runs/nowhere"),
        (["--data=tinytown:nothing"], "--data=tinytown:nothing"),
        (["--phase=all", "--pretrained=runs/nowhere"], "runs/nowhere"),
    ],
)
def test_a_mistake_in_the_command_is_named(town, tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        run_command(town, tmp_path, *flags)


def test_an_endpoint_that_continues_pages_cannot_compare(town, tmp_path):
    with (
        Remote() as remote,
        pytest.raises(ConfigError, match="log-probabilities in a chat alone: --prompting=instruct"),
    ):
        run_command(town, tmp_path, "--phase=compare", "--prompting=base", f"--critic={remote.url}")


def test_help_shows_the_groups():
    text = flag_help.text(config.Constitutional, "run", full=True)
    for group in ("asked", "critic", "revising", "comparing", "training", "endpoint", "machine"):
        assert f"\n{group}:\n" in text
    assert Path(config.SHIPPED / "general.json").is_file()
