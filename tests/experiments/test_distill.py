"""Distillation from the command to the files it leaves, with each kind of teacher."""

import json

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.stages import init_from
from tests.remote import Remote, chat
from tests.runs import MODEL, arrays, column, jsonl, rows, same_arrays

PROMPTS = "tinytown:prompts?documents=64"
STUDENT = f"--model={MODEL}"
SHORT = ("--steps=8", "--checkpoint_every=3", "--keep=9", "--lr=0.01", "--draws=2")
DIALOGS = "tinytown:sft?documents=64&held_out=32"


def teach(town, name, *flags, start="", data=PROMPTS):
    own = () if start else (STUDENT,)
    return town.run("distill", name, f"--teacher={town / 'sft'}", *own, *flags, start=start, data=data)


@pytest.fixture(scope="module")
def mixed(town):
    return teach(town, "distill-mixed", *SHORT, "--on_policy=0.5")


def test_a_student_trains_on_its_teachers_completions_and_comes_nearer(town, mixed):
    record = json.loads((mixed / "config.json").read_text())
    assert record["stage"] == "distill" and record["teacher"] == f"{town / 'sft'}@16"
    assert (
        record["data"]["tokenizer"]
        == json.loads((town / "sft" / "config.json").read_text())["data"]["tokenizer"]
    )
    assert column(mixed, "eval/divergence")[-1] < column(mixed, "divergence")[0] - 0.1
    said = town.said["distill-mixed"]
    assert "50% of the batches" in said and "completions of" in said
    assert "without an end left out" in said  # a teacher of 16 steps seldom ends


def test_the_teacher_writes_for_each_prompt_what_ends(mixed):
    written = [json.loads(line) for line in (mixed / "teacher" / "data.jsonl").read_text().splitlines()]
    assert 0 < len(written) <= 2 * 64 and all(row["ended"] and row["completion"] for row in written)
    # The template's own space is not the answer's; a teacher of 16 steps writes a second one now and then.
    assert sum(row["completion"].startswith(" ") for row in written) < len(written) / 2


def test_batches_are_the_students_own_as_often_as_on_policy_says(mixed):
    assert set(column(mixed, "on_policy")) == {0.0, 1.0}


def test_a_run_killed_goes_on_to_the_same_bits(town, mixed):
    flags = (f"--teacher={town / 'sft'}", STUDENT, *SHORT, "--on_policy=0.5")
    copy = town.resumed("distill", "distill-mixed", 3, *flags, start="", data=PROMPTS)
    same_arrays(mixed, copy, 8)
    assert rows(copy)[-1] == rows(mixed)[-1]


def test_a_student_that_is_its_teacher_starts_at_divergence_0(town):
    path = teach(town, "distill-self", "--steps=3", "--lr=0.001", start="sft", data=DIALOGS)
    assert abs(column(path, "divergence")[0]) < 1e-4


def test_a_table_of_the_teachers_log_probabilities_gives_the_same_as_the_teacher(town):
    """All 448 tokens of the vocabulary are the teacher itself, but for f32's rounding."""
    flags = ("--steps=4", "--lr=0.01", "--divergence=jsd", "--soft_temperature=2", "--hard_weight=0.2")
    live = teach(town, "distill-live", *flags, data=DIALOGS)
    table = teach(town, "distill-table", *flags, "--teacher_topk=448", data=DIALOGS)
    for name in ("loss", "divergence", "grad_norm"):
        np.testing.assert_allclose(column(table, name), column(live, name), rtol=2e-3)
    few = teach(town, "distill-few", *flags, "--teacher_topk=4", data=DIALOGS)
    assert column(few, "divergence")[0] < column(live, "divergence")[0]
    assert (
        "from the data" not in town.said["distill-few"] and "4 tokens a position" in town.said["distill-few"]
    )


def test_stored_completions_are_distilled_without_their_teacher(town, tmp_path):
    def one(i):
        text = "Just wash the bike."
        tokens = [{"token": c, "bytes": list(c.encode()), "logprob": -0.1, "top_logprobs": []} for c in text]
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        messages = [{"role": "user", "content": f"How do I wash bike {i}?"}]
        return {"input": messages, "choices": [choice | {"logprobs": {"content": tokens}}]}

    data = jsonl(tmp_path / "stored.jsonl", [one(i) for i in range(24)])
    flags = ("--teacher=data", "--steps=8", "--lr=0.01", "--eval_share=0.2", "--prompts=" + PROMPTS)
    path = town.run("distill", "distill-told", *flags, data=data)
    assert "stored completions" in town.said["distill-told"] and "cut elsewhere" in town.said["distill-told"]
    assert column(path, "loss")[-1] < column(path, "loss")[0] - 0.5


def test_an_endpoint_gets_each_request_once_and_is_distilled_by_its_log_probabilities(town):
    text = "Just wash the bike."

    def reply(request):
        assert request["top_logprobs"] == 20 and request["logprobs"]
        tokens = [
            {"token": c, "bytes": [*c.encode()], "logprob": -0.1, "top_logprobs": [
                {"token": c, "bytes": [*c.encode()], "logprob": -0.1}]}
            for c in text
        ]  # fmt: skip
        return chat([text] * request.get("n", 1), logprobs=tokens)

    with Remote(reply) as remote:
        flags = (f"--teacher={remote.url}", "--steps=6", "--lr=0.01", "--draws=2")
        path = town.run("distill", "distill-remote", *flags, data="tinytown:prompts?documents=20&held_out=6")
        sent = len(remote.seen)
        town.again("distill", "distill-remote", *flags, data="tinytown:prompts?documents=20&held_out=6")
        assert sent == 26 == len(remote.seen)  # a resumed run sends nothing again
    assert column(path, "loss")[-1] < column(path, "loss")[0] - 0.5
    said = town.said["distill-remote"]
    assert "tokens read" in said and "40 of 40 stored completions" in said
    assert json.loads((path / "teacher" / "data.jsonl").read_text().splitlines()[0])["model"].endswith(
        "model=m"
    )


def test_another_tokenizer_is_refused_with_a_way_out(town, tmp_path):
    from jaxtrain.data.tokenizer import ByteTokenizer

    other = tmp_path / "other"
    other.mkdir()
    ByteTokenizer().save(other / "tokenizer")
    (other / "config.json").write_text((town / "sft" / "config.json").read_text())
    with pytest.raises(ConfigError, match=r"tokenizer is not the student's.*/run sample .*--out.*/run sft "):
        town.run("distill", "distill-other", f"--teacher={other}", data=DIALOGS)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--teacher: name the model to learn from"),
        (("--teacher=x", "--hard_weight=2"), "a share"),
        (("--teacher=x", "--jsd_beta=0.2"), "acts only with --divergence=jsd"),
        (("--teacher=data", "--soft_temperature=2"), "log-probabilities are at temperature 1"),
        (("--teacher=data", "--on_policy=0.5"), "at every step"),
        (("--teacher=data", "--teacher_topk=3"), "leave it out"),
        (("--teacher=x", "--teacher_topk=3", "--on_policy=1"), "at every step"),
        (("--teacher=data", "--completions=teacher"), "only those that are stored"),
        (("--teacher=data", "--draws=2"), "nothing is sampled"),
        (("--teacher=x", "--timeout=3"), "--timeout: acts only with an endpoint"),
    ],
)
def test_flags_that_cannot_be_are_refused(town, flags, message):
    with pytest.raises(ConfigError, match=message):
        town.run("distill", "distill-refused", *flags, data=DIALOGS)


def test_what_goes_on_from_a_student_has_its_parameters(mixed):
    start = init_from.load_run(str(mixed))
    assert start.lineage["stage"] == "distill" and any("embed" in path for path in arrays(mixed, 8))
