"""Synthetic data from the command: runs and endpoints, files and counts, kills, and all that can be wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from experiments.synthesize import main
from jaxtrain import config
from jaxtrain import flags as command_line
from jaxtrain.apps.synthesis import run
from jaxtrain.apps.synthesis.config import Synthesize
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data import chat as chat_templates
from jaxtrain.data.tokenizer import load as load_tokenizer
from jaxtrain.files.journal import Journal
from jaxtrain.inference import judges, local
from jaxtrain.inference.config import EndpointFlags, MachineFlags
from jaxtrain.inference.llm import Completion, Request, user_messages
from jaxtrain.inference.llm_judge import JudgePair
from jaxtrain.inference.request_cache import RequestCache
from jaxtrain.stages import init_from
from jaxtrain.train import parallel
from jaxtrain.worlds.tinytown.judge import gold
from tests.experiments.test_reward import FLAGS as REWARD
from tests.experiments.test_sample import load, read
from tests.remote import Remote, chat, fault
from tests.runs import ROOT, call, jsonl, killed_in_the_second_batch, quick

QUESTIONS = "tinytown:prompts?documents=60"


def run_command(town, out, *flags):
    """What the command prints with the cache and the file; errors first."""
    with quick():
        return call("synthesize", town.cache, f"--out={out}", "--max_new=16", *flags)


def timeless(rows):
    return [
        {**row, "provenance": {k: v for k, v in row["provenance"].items() if k != "time"}} for row in rows
    ]


@pytest.fixture(scope="module")
def judged(town):
    """Rows of the tiny run, judged by the world."""
    out = town / "judged.jsonl"
    flags = (
        f"--source={QUESTIONS}", f"--generator={town / 'sft'}", "--prompting=base", "--samples=2", "--count=12",
        "--answer_temperature=1", "--judge=gold", "--min_score=-1", "--near=1",
    )  # fmt: skip
    return out, flags, run_command(town, out, *flags)


def test_a_run_answers_given_questions_and_the_world_judges_them(town, judged):
    out, _, printed = judged
    rows, rejected = read(out), read(out.with_name("judged.rejected.jsonl"))
    report = json.loads(out.with_name("judged.report.json").read_text())
    assert report["kept"] == len(rows) and report["made"] == len(rows) + len(rejected)
    assert sum(report["rejected"].values()) == len(rejected) and set(report["diversity"]) >= {
        "distinct_2", "self_bleu", "embedding_spread",
    }  # fmt: skip
    assert 0 < len(rows) <= 12 and rejected
    for row in rows:
        assert -1 <= row["score"] == pytest.approx(gold(row["prompt"], row["completion"]), abs=1e-6)
        assert row["provenance"]["parents"][0].startswith("tinytown:prompts record ")
        assert row["provenance"]["expert"].startswith(str(town / "sft"))
    for row in rejected:
        if row["reason"].startswith("score"):
            assert row["score"] < -1
    assert f"{len(rows)} of {len(rows) + len(rejected)} made" in printed
    assert not out.with_name("judged.jsonl.part").exists()


def test_a_reward_model_judges_as_it_does_elsewhere(town, tmp_path):
    town.run("reward", "rm", *REWARD)
    out = tmp_path / "liked.jsonl"
    flags = (
        f"--source={QUESTIONS}",
        f"--generator={town / 'sft'}",
        "--prompting=base",
        "--count=6",
        "--near=1.1",
    )
    run_command(town, out, *flags, f"--judge={town / 'rm'}", "--min_score=-50", "--max_new=24")
    rows = read(out)
    with quick():
        rm = judges.reward_model_judge(town / "rm", None, MachineFlags(cache_dir=town.cache[12:]))
        best = rm.compare(
            [JudgePair(user_messages(rows[0]["prompt"]), rows[0]["completion"], "no")], 0
        ).values[0]
        settings, plan = config.Scores(reward_model=str(town / "rm")), parallel.make(config.Run())
        scorer = judges.models.load(settings, f"{town / 'rm'}@8", plan, config.Model())
        template = chat_templates.load_template("auto", load_tokenizer(town / "sft" / "tokenizer"))
        for row in rows[:2]:
            prompt, (answer,), _ = template.encode_completions(
                user_messages(row["prompt"]), [row["completion"]]
            )
            tokens = np.concatenate([prompt, answer])[None, None]
            places = np.arange(tokens.size)[None, None]
            batch = {"tokens": tokens, "segments": np.ones_like(tokens), "positions": places,
                     "length": np.array([[tokens.size]])}  # fmt: skip
            raw = np.asarray(scorer.scorer.scores(scorer.params, batch))[:, 0, 0]
            assert row["score"] == pytest.approx((scorer.gain * raw + scorer.bias).mean(), abs=1e-3)
    assert best in (0.0, 1.0) and len({row["score"] for row in rows}) > 1
    with pytest.raises(ConfigError, match="a reward model reads no rubric"):
        run_command(town, tmp_path / "b.jsonl", *flags, f"--judge={town / 'rm'}", "--votes=3")


def test_the_rows_are_data_of_other_stages(town, judged):
    run = town.run("sft", "of-rows", "--steps=3", data=f"jsonl:{judged[0]}")
    assert (run / "checkpoints" / "3").is_dir()


def test_a_killed_command_goes_on_with_the_same_rows(town, judged, tmp_path, monkeypatch):
    """In small batches, cut in the middle of a line."""
    _, flags, _ = judged
    monkeypatch.setattr(run, "BATCH", 4)
    run_command(town, tmp_path / "whole.jsonl", *flags)
    out = tmp_path / "cut.jsonl"
    with killed_in_the_second_batch():
        run_command(town, out, *flags)
    assert not out.exists()
    with pytest.raises(ConfigError, match=r"cut\.jsonl\.part is of another command.*\n.*--seed: 0 -> 1"):
        run_command(town, out, *flags, "--seed=1")
    assert "resuming" in run_command(town, out, *flags)
    for name in ("{}.jsonl", "{}.rejected.jsonl"):
        one, other = (read(tmp_path / name.format(each)) for each in ("whole", "cut"))
        assert timeless(one) == timeless(other)
    counts = [json.loads((tmp_path / f"{one}.report.json").read_text()) for one in ("whole", "cut")]
    assert counts[0]["judge"] == counts[1]["judge"] and counts[0]["rejected"] == counts[1]["rejected"]
    assert counts[0]["spent"] == counts[1]["spent"]
    assert sum(model["requests"] for model in counts[0]["spent"].values()) >= 6


def test_a_base_run_asks_and_answers(town, tmp_path):
    out = tmp_path / "own.jsonl"
    flags = (
        "--topics=How do I,-",
        f"--examples={QUESTIONS}",
        "--shots=2",
        "--count=6",
        "--near=1.1",
        "--tries=8",
    )
    printed = run_command(town, out, f"--generator={town / 'base'}", *flags)
    rows = read(out) + read(out.with_name("own.rejected.jsonl"))
    asked = [row for row in rows if row["provenance"]["topic"] == "How do I" and row["prompt"]]
    assert asked and all(row["prompt"].startswith("How do I") for row in asked)
    assert {len(row["provenance"]["parents"]) for row in rows} == {2}
    assert all("\n" not in str(row["prompt"]) for row in rows) and "Human: " in printed


def test_a_run_replies_as_sampling_does_and_knows_its_log_probabilities(town):
    """Replies do not depend on what else is asked; the log-probabilities are those of the forward pass."""
    with quick():
        llm = local.open_llm(
            str(town / "sft"), "generator", EndpointFlags(), MachineFlags(cache_dir=town.cache[12:]), 12
        )
        one = Request(user_messages("How do I wash a bike?"), samples=2, seed=3, max_new=12, top_logprobs=4)
        others = [
            Request(user_messages("How do"), seed=1, raw=True), one._replace(seed=4, samples=1, temperature=0.0), one,
            Request(user_messages("What is 3 + 4?"), seed=9, max_new=3),
        ]  # fmt: skip
        alone, among = llm.generate([one])[0], llm.generate(others)
        assert [reply.text for reply in among[2]] == [reply.text for reply in alone]
        vectors = llm.embed(["How do I wash a bike?", "How do I wash a bike?", "What is 3 + 4?"])
    assert among[3][0].finish_reason == "length" and alone[0].text != alone[1].text
    tokenizer, logps = load(town / "sft")
    template = chat_templates.load_template("auto", tokenizer)
    prompt = template.encode_prompt(one.messages).tolist()
    (greedy,) = among[1]
    wanted = logps(prompt)[-1]
    first = greedy.logprobs[0]
    assert first.logprob == pytest.approx(wanted.max(), abs=1e-3) == pytest.approx(first.top[0][1], abs=1e-3)
    assert [value for _, value in first.top] == pytest.approx(np.sort(wanted)[::-1][:4], abs=1e-3)
    assert first.token == first.top[0][0] == tokenizer.decode([int(wanted.argmax())])
    assert (
        np.allclose(vectors[0], vectors[1])
        and not np.allclose(vectors[0], vectors[2])
        and vectors.shape[1] == 32
    )


def test_a_prompt_without_room_is_counted(town, tmp_path):
    """The tiny model's context has no bound; one with a bound refuses what fills it and answers the rest."""
    short = init_from.load_run(str(town / "sft"))._replace(
        arch=replace(init_from.load_run(str(town / "sft")).arch, max_len=40)
    )
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(local.init_from, "load_run", lambda text, flag, causal: short)
        llm = local.open_llm("sft", "generator", EndpointFlags(), MachineFlags(cache_dir=town.cache[12:]), 12)
        completions = llm.generate(
            [Request(user_messages("word " * 60)), Request(user_messages("What is 3 + 4?"), samples=2)]
        )
    assert (
        completions[0] == [Completion("", "refused")] and len(completions[1]) == 2 and llm.usage.refused == 1
    )


def expert(request):
    """A party that writes lists, answers with the seed, and scores: the long questions well."""
    text = request["messages"][-1]["content"]
    if "JSON list" in text:
        return json.dumps([f"Why {request['seed'] % 97} {i}?" + " Really?" * (i % 2) for i in range(3)])
    return f"Good.\nScore: {8 if 'Really?' in text else 3}" if "Rubric:" in text else f"So {request['seed']}."


def remotely(remote, tmp_path, *flags, kind="qa", out="far.jsonl"):
    url = f"{remote.url}?model=m"
    return call(
        "synthesize", f"--kind={kind}", f"--generator={url}", f"--out={tmp_path / out}",
        f"--cache_dir={tmp_path / 'cache'}", "--retries=1", *flags,
    )  # fmt: skip


TOPICS = ("--topics=tea,sea", "--per_ask=3", "--count=4", "--near=1")


def test_an_endpoint_makes_rows_that_it_judges_too(tmp_path):
    with Remote(expert) as remote:
        judge = f"--judge={remote.url}?model=m"
        printed = remotely(remote, tmp_path, *TOPICS, judge, "--price_in=1", "--price_out=10")
        rows = read(tmp_path / "far.jsonl")
        assert len(rows) == 4 and all("Really?" in row["prompt"] and row["score"] == 8 for row in rows)
        rejected = read(tmp_path / "far.rejected.jsonl")
        assert {row["reason"].split(":")[0] for row in rejected} <= {"score", "duplicate", "surplus"}
        sent = len(remote.seen)
        spent = (
            f"{sent} requests, {10 * sent:,} tokens read, {5 * sent:,} written, cost {60 * sent / 1e6:.4f}"
        )
        assert spent in " ".join(printed.split()) and "first prompt" in printed
        again = remotely(remote, tmp_path, *TOPICS, judge, out="again.jsonl")
        assert len(remote.seen) == sent and f"{sent:,} answers from the cache" in " ".join(again.split())
        assert timeless(read(tmp_path / "again.jsonl")) == timeless(rows)


def test_hardly_more_is_asked_than_wanted(tmp_path):
    with Remote(expert) as remote:
        remotely(remote, tmp_path, "--topics=tea,sea", "--count=30", "--near=1.1")
        lists = [
            request for _, request, _ in remote.seen if "JSON list" in request["messages"][-1]["content"]
        ]
    assert len(lists) <= 11 and len(remote.seen) <= 11 + 33, (
        "a list has three questions, of which all are kept"
    )
    assert run._batch_units(room=100, rows=0, drafts=0, limit=400, each=10) == 10
    assert run._batch_units(room=50, rows=9, drafts=99, limit=400, each=1) == run.BATCH
    assert run._batch_units(room=2, rows=9, drafts=39, limit=400, each=4) == 2
    assert run._batch_units(room=100, rows=0, drafts=397, limit=400, each=4) == 1


def test_a_dry_run_tells_the_cost_and_asks_nothing(tmp_path):
    with Remote(expert) as remote:
        printed = remotely(
            remote, tmp_path, *TOPICS, "--dry_run", "--price_in=2", "--price_out=4", "--max_new=100"
        )
        assert not remote.seen and not (tmp_path / "far.jsonl").exists() and not list(tmp_path.glob("*.part"))
    text = " ".join(printed.split())
    prompt = "Write 3 questions about tea"
    assert f'first prompt "{prompt}' in text
    asked = json.loads(text.split("first prompt ")[1].split(" questions 2;")[0])
    questions = -(-len(asked) // 4)
    answers = -(-len("You are an expert on tea. Answer correctly, completely and clearly.") // 4) + 32
    read_in, written = 2 * questions + 4 * answers, 6 * 100
    assert f"questions 2; about {2 * questions:,} tokens read, at most 200 written" in text
    cost = (2 * read_in + 4 * written) / 1e6
    assert f"cost at most {cost:,.4f} if no row is rejected, {4 * cost:,.4f} with --tries=4" in text


@pytest.mark.parametrize("kind", ["reasoning", "conversation", "augment"])
def test_other_kinds_at_an_endpoint(tmp_path, kind):
    data = jsonl(tmp_path / "d.jsonl", [{"prompt": f"Why {i}?", "completion": f"So {i}."} for i in range(3)])

    def reply(request):
        text = request["messages"][-1]["content"]
        if "JSON list" in text:
            return '["Why so?"]' if "Why 0?" in text else '["For what reason?", "Whence?"]'
        step = request["messages"][0]["content"].startswith("Think step by step")
        return (
            chat([f"One.\nAnswer: {i % 3}" for i in range(request.get("n", 1))])
            if step
            else f"Hm {request['seed']}?"
        )

    flags = {"reasoning": ["--agreement=0.4"], "conversation": ["--turns=2"], "augment": ["--near=0.9"]}[kind]
    with Remote(reply) as remote:
        remotely(remote, tmp_path, f"--source={data}", "--count=3", *flags, kind=kind)
    rows = read(tmp_path / "far.jsonl")
    assert len(rows) == 3
    if kind == "reasoning":
        assert [(row["prompt"], row["agreement"]) for row in rows] == [(f"Why {i}?", 0.4) for i in range(3)]
    elif kind == "conversation":
        assert all(
            len(row["messages"]) == 4 and row["messages"][0]["content"] == f"Why {i}?"
            for i, row in enumerate(rows)
        )
    else:
        assert [(row["prompt"], row["completion"]) for row in rows] == [
            ("Why so?", "So 0."), ("For what reason?", "So 1."), ("Whence?", "So 1."),
        ]  # fmt: skip


def test_an_endpoint_that_fails_half_way_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "BATCH", 1)
    flags = (*TOPICS, "--concurrency=1")
    with Remote(expert) as remote:
        remotely(remote, tmp_path, *flags, out="whole.jsonl")
        whole = len(remote.seen)
    with Remote(expert) as remote:
        count = iter(range(100))
        remote.reply = lambda request: expert(request) if next(count) < 5 else fault("never")
        with pytest.raises(Failure, match="answered with an error: never"):
            remotely(remote, tmp_path, *flags)
        remote.reply, before = expert, 5
        del remote.seen[:]
        printed = remotely(remote, tmp_path, *flags)
        assert "resuming" in printed and len(remote.seen) == whole - before
    one, other = (timeless(read(tmp_path / f"{name}.jsonl")) for name in ("whole", "far"))
    assert [row["prompt"] for row in one] == [row["prompt"] for row in other]
    one, other = (spent(tmp_path / f"{name}.report.json") for name in ("whole", "far"))
    assert one == other == dict(one, requests=whole, tokens_in=10 * whole, tokens_out=5 * whole, cached=0)


def spent(report):
    """What the one model of a report took."""
    (counts,) = json.loads(report.read_text())["spent"].values()
    return counts


@pytest.mark.parametrize("stored", [1, 4, 7])
def test_responses_of_a_process_that_was_killed_count_once(tmp_path, monkeypatch, stored):
    """Killed after a response is in the cache, before its batch is in the journal; then a new run of the same rows."""
    put, puts = RequestCache.put, iter(range(100))

    def killed(self, key, response):
        put(self, key, response)
        if next(puts) == stored - 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "BATCH", 1)
    with Remote(expert) as remote:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(RequestCache, "put", killed)
            remotely(remote, tmp_path, *TOPICS, "--concurrency=1")
        remotely(remote, tmp_path, *TOPICS, "--concurrency=1")
        sent = len(remote.seen)
        took = spent(tmp_path / "far.report.json")
        assert (took["requests"], took["tokens_in"], took["cached"]) == (sent, 10 * sent, 0)
        remotely(remote, tmp_path, *TOPICS, "--concurrency=1", out="again.jsonl")
        took = spent(tmp_path / "again.report.json")
        assert (took["requests"], took["tokens_in"], took["cached"]) == (0, 0, sent) and len(
            remote.seen
        ) == sent


def test_a_kill_after_the_rows_are_written_leaves_a_command_that_ends(tmp_path, monkeypatch):
    with Remote(expert) as remote:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Journal, "remove", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
            remotely(remote, tmp_path, *TOPICS)
        files = {path.name: path.read_bytes() for path in tmp_path.glob("far.*") if path.suffix != ".part"}
        sent = len(remote.seen)
        assert "resuming" in remotely(remote, tmp_path, *TOPICS) and len(remote.seen) == sent
        assert {path.name: path.read_bytes() for path in tmp_path.glob("far.*")} == files
        with pytest.raises(ConfigError, match=r"far\.jsonl: it exists already"):
            remotely(remote, tmp_path, *TOPICS)


def test_a_key_that_is_refused_is_a_mistake_of_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-key")
    with Remote(expert) as remote:
        remote.next = [(401, fault("Incorrect API key provided"))] * 40
        with pytest.raises(
            ConfigError, match=r"refused the key \(401\).*--api_key_env=OPENAI_API_KEY is set"
        ):
            remotely(remote, tmp_path, *TOPICS)
    assert b"wrong-key" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_no_row_left_is_a_failure_that_says_where_they_are(tmp_path):
    message = r"no row is left: .*far\.rejected\.jsonl says why"
    with Remote(expert) as remote, pytest.raises(Failure, match=message):
        remotely(remote, tmp_path, *TOPICS, "--min_chars=999")
    assert {row["reason"] for row in read(tmp_path / "far.rejected.jsonl")} == {
        "short: fewer than 999 characters"
    }
    assert not (tmp_path / "far.jsonl").exists() and not list(tmp_path.glob("*.part"))


def test_a_process_that_is_killed_goes_on(tmp_path):
    """kill -9 while the endpoint is slow; the second process asks only for what the first had no answer to."""
    with Remote(expert) as remote:
        remote.slow = 0.15
        command = [
            sys.executable, "-P", "-m", "experiments.synthesize", "--kind=qa", f"--generator={remote.url}?model=m",
            f"--out={tmp_path / 'far.jsonl'}", f"--cache_dir={tmp_path / 'cache'}", "--topics=tea,sea", "--per_ask=3",
            "--count=60", "--near=1.1", "--concurrency=2",
        ]  # fmt: skip
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as first:
            end = time.monotonic() + 60
            while len(remote.seen) < 12 and time.monotonic() < end:
                time.sleep(0.02)
            first.send_signal(signal.SIGKILL)
        killed, remote.slow = len(remote.seen), 0.0
        assert 12 <= killed < 140
        subprocess.run(
            command, env=env, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60
        )
        asked = [json.dumps(request, sort_keys=True) for _, request, _ in remote.seen]
        assert len(asked) - len(set(asked)) <= 2, "those under way when it died"
    assert len(read(tmp_path / "far.jsonl")) == 60


REFUSED = {
    "no model": ("--topics=a", "--generator: name a run"),
    "no topic": ("--generator=x", "--topics, --source: name one of them"),
    "both": ("--generator=x --topics=a --source=tinytown:prompts", "name one of them"),
    "nothing to rephrase": ("--generator=x --kind=augment", "--source: topics of new"),
    "topics to rephrase": ("--generator=x --kind=augment --topics=a", "--topics: --kind=augment rephrases"),
    "another file": ("--generator=x --topics=a --out=a.txt", r"write FOLDER/NAME\.jsonl"),
    "no folder": ("--generator=x --topics=a --out=no/where/a.jsonl", "in an existing folder"),
    "no file of topics": ("--generator=x --topics=no.txt", r"--topics=no\.txt: no such file"),
    "empty topics": ("--generator=x --topics=,", "there is no topic"),
    "turns of qa": ("--generator=x --topics=a --turns=3", "--turns=3 acts only with --kind=conversation"),
    "agreement of qa": ("--generator=x --topics=a --agreement=0.9", "acts only with --kind=reasoning"),
    "score of nobody": ("--generator=x --topics=a --min_score=1", "--min_score: acts only with --judge"),
    "votes of gold": ("--generator=x --topics=a --judge=gold --votes=3", "--votes: acts only where a model"),
    "rubric of a function": ("--generator=x --topics=a --judge=m:f --rubric=b", "--rubric: acts only where a model"),
    "lengths": ("--generator=x --topics=a --min_chars=9 --max_chars=3", "--max_chars=3: below"),
    "shots of nothing": ("--generator=x --topics=a --shots=2", "--shots: acts only with --examples"),
    "examples of a talk": ("--generator=x --topics=a --kind=conversation --examples=tinytown:prompts", "--examples: "),
    "samples of a talk": ("--generator=x --topics=a --kind=conversation --samples=2", "--samples: acts only with"),
    "greedy samples": ("--generator=x --topics=a --samples=2 --answer_temperature=0", "they are all the same"),
    "answers of topics": ("--generator=x --topics=a --kind=reasoning --answer_field=b", "--answer_field: acts only"),
    "expert of phrases": ("--generator=x --source=tinytown:sft --kind=augment --expert=y", "--expert: --kind=augment"),
    "count of nothing": ("--generator=x --topics=a --source_count=3", "--source_count: acts only with --source"),
    "ask for given": ("--generator=x --source=tinytown:prompts --per_ask=3", "--per_ask: acts only where"),
    "no such run": ("--generator=nowhere --topics=a --out=a.jsonl", "--generator=nowhere is not a run"),
    "no language": ("--generator=x --topics=a --near=0", "--near=0.0: must be at least 0.1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_commands_that_cannot_be_are_refused(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags, message = REFUSED[kind]
    with pytest.raises(ConfigError, match=message):
        main(command_line.from_flags(Synthesize, flags.split(" ")))


def test_what_does_not_fit_the_models_is_refused(town, tmp_path):
    base, out = f"--generator={town / 'base'}", tmp_path / "a.jsonl"
    with pytest.raises(ConfigError, match=r"--generator=.*base.*no chat template to read instructions with"):
        run_command(town, out, base, "--topics=a", "--prompting=instruct")
    with pytest.raises(ConfigError, match="--topics=-: any question is what a base model may write"):
        run_command(town, out, f"--generator={town / 'sft'}", "--topics=a,-")
    with pytest.raises(ConfigError, match="--per_ask=3: a base model gives one at a time"):
        run_command(town, out, base, "--topics=a", "--per_ask=3")
    with pytest.raises(ConfigError, match=r"--judge=.*base: it has no chat template to read a rubric"):
        run_command(town, out, base, "--topics=a", f"--judge={town / 'base'}")
    with pytest.raises(
        ConfigError, match="--kind=augment keeps the answers, and there is a question without"
    ):
        run_command(town, out, base, f"--source={QUESTIONS}", "--kind=augment")
    with pytest.raises(ConfigError, match=r"--answer_field=nothing: .* has no such field"):
        run_command(town, out, base, f"--source={QUESTIONS}", "--kind=reasoning", "--answer_field=nothing")
    out.write_text("kept\n")
    with pytest.raises(ConfigError, match=r"a\.jsonl: it exists already"):
        run_command(town, out, base, "--topics=a")
    assert out.read_text() == "kept\n" and [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
