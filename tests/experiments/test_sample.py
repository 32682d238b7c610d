"""Samples of a run from the command: one prompt, a data set, a conversation, and all that can be wrong."""

import codecs
import contextlib
import functools
import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import sample
from jaxtrain import config
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from jaxtrain.data import chat, prompts
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.inference import best_of
from jaxtrain.inference import chat as inference_chat
from jaxtrain.models import transformer
from jaxtrain.ops.logprobs import logits
from jaxtrain.stages import init_from, run_turns, weights
from jaxtrain.train import parallel
from jaxtrain.worlds.tinytown.judge import gold
from tests.experiments.test_reward import FLAGS as REWARD
from tests.inference.test_chat import assistant, chat_model, user
from tests.runs import ROOT, call, jsonl, quick
from tests.watched import recorded_watchdog

QUESTION = "How do I wash a bike?"
PLACES = 128  # of the forward pass that answers are checked against
PROMPTS = "tinytown:prompts:test?held_out=12"


def run_sample(town, *flags, name="sft"):
    """What the command prints, errors first."""
    with quick():
        return call("sample", f"--init_from={town / name}", town.cache, "--max_new=24", *flags)


@functools.cache
def load(folder):
    """(tokenizer, log-probabilities of every next token by the forward pass of training) of a run."""
    start = init_from.load_run(str(folder))
    with quick():
        plan = parallel.make(config.Run())
        model = transformer.build(start.arch, transformer.execution(config.Model(), "cpu"))
        params = weights.load_params(plan, start, model, 0)

    @jax.jit
    def forward(tokens):
        places = np.arange(PLACES, dtype=np.int32)[None]
        batch = {"tokens": tokens, "positions": places, "segments": np.ones_like(places)}
        return jax.nn.log_softmax(logits(model.hidden(params, batch), model.head(params)))[0]

    def logps(ids):
        return np.asarray(forward(np.pad(np.asarray(ids, np.int32), (0, PLACES - len(ids)))[None]))[
            : len(ids)
        ]

    return start.tokenizer, logps


def greedy(town, messages, name="sft", most=24):
    """The likeliest answer, token by token."""
    tokenizer, logps = load(town / name)
    template = chat.load_template("auto" if tokenizer.chat_template else "none", tokenizer)
    ids, new = template.encode_prompt(messages).tolist(), []
    while len(new) < most and template.end not in new:
        new.append(int(logps(ids + new)[-1].argmax()))
    text = tokenizer.decode(new)
    return text.lstrip() if tokenizer.chat_template else text


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_prompt_is_answered_by_the_template_of_the_run(town):
    output = run_sample(town, f"--prompt={QUESTION}", "--temperature=0")
    assert output == greedy(town, [user(QUESTION)]) + "\n"
    system = [{"role": "system", "content": "Be kind."}, user(QUESTION)]
    assert (
        run_sample(town, f"--prompt={QUESTION}", "--temperature=0", "--system=Be kind.")
        == greedy(town, system) + "\n"
    )


@pytest.mark.parametrize("narrow", ["--top_k=1", "--top_p=1e-6", "--min_p=1"])
def test_what_leaves_the_likeliest_token_alone_is_greedy(town, narrow):
    output = run_sample(town, f"--prompt={QUESTION}", narrow, "--temperature=1.5", "--max_new=8", "--seed=5")
    assert output == greedy(town, [user(QUESTION)], most=8) + "\n"


def test_a_penalty_keeps_tokens_from_coming_again(town):
    output = run_sample(town, f"--prompt={QUESTION}", "--repetition_penalty=1e6", "--temperature=0").strip()
    tokenizer, _ = load(town / "sft")
    prompt, completion = (text.tolist() for text in tokenizer.encode([f"Human: {QUESTION}", f" {output}"]))
    assert len(completion) > 3 and not set(prompt) & set(completion)
    assert len(set(completion)) == len(completion) and output != greedy(town, [user(QUESTION)])


def test_a_run_without_a_template_goes_on_with_the_text(town):
    assert (
        run_sample(town, "--prompt=What is", "--temperature=0", name="base")
        == greedy(town, [user("What is")], "base") + "\n"
    )


class Screen(io.StringIO):
    """What a terminal shows."""

    def isatty(self):
        return True


def test_a_prompt_is_streamed_on_a_terminal(town):
    flags = [f"--init_from={town / 'sft'}", town.cache, "--max_new=24", f"--prompt={QUESTION}", "--seed=3"]
    with quick(), contextlib.redirect_stdout(Screen()) as screen:
        sample.main(command_line.from_flags(sample.Sample, flags))
    whole = run_sample(town, f"--prompt={QUESTION}", "--seed=3").rstrip("\n")
    assert screen.getvalue() in (f"{whole} ⏎\n", f"{whole} …\n")


def test_a_completion_ends_before_a_stop(town):
    whole = run_sample(town, f"--prompt={QUESTION}", "--seed=3").strip()
    stop = whole[4:6].replace(",", r"\,")
    assert (
        run_sample(town, f"--prompt={QUESTION}", "--seed=3", rf"--stop=\n\n\n,{stop}").rstrip("\n")
        == whole[:4]
    )


@pytest.fixture(scope="module")
def answered(town):
    """Three answers to each prompt, with their gold rewards."""
    out = town / "three.jsonl"
    output = run_sample(town, f"--prompts={PROMPTS}", f"--out={out}", "--samples=3", "--reward=gold")
    assert "36 to 12 distinct prompts" in output and not out.with_name("three.jsonl.part").exists()
    return read(out)


def test_a_data_set_is_answered_a_row_a_completion(town, answered):
    assert len(answered) == 36 and [row["prompt"] for row in answered[::3]] == [
        row["prompt"] for row in answered[2::3]
    ]
    for row in answered:
        assert row["score"] == pytest.approx(gold(row["prompt"], row["completion"]), abs=1e-6)
    assert len({row["completion"] for row in answered[:3]}) > 1


def test_a_row_has_the_log_probability_of_its_tokens(town, answered):
    flags = (f"--init_from={town / 'sft'}", town.cache, "--max_new=24", "--prompt=x", "--samples=3")
    cfg, (_, logps) = command_line.from_flags(sample.Sample, list(flags)), load(town / "sft")
    start = init_from.load_run(cfg.asked.init_from)
    with quick():
        model = inference_chat.open_chat_model(cfg, start, chat.load_template("auto", start.tokenizer))
        first = inference_chat.chat_prompt(model, [user(answered[0]["prompt"])])
        (completions,) = inference_chat.answers(model, [first])
    for row, new in zip(answered, completions, strict=False):
        assert (row["completion"], row["ended"]) == (new.text, new.ended)
        taken = logps([*first.ids, *new.ids])[len(first.ids) - 1 : -1][np.arange(len(new.ids)), new.ids]
        assert row["logp"] == pytest.approx(new.logp, abs=1e-3) == pytest.approx(taken.sum(), abs=2e-3)


def test_the_best_is_the_one_of_these_completions_with_the_highest_score(town, answered, monkeypatch):
    """Also sampled in other groups: a completion depends on the seed, its prompt and its place alone."""
    monkeypatch.setattr(inference_chat, "AT_ONCE", 12)
    out = town / "best.jsonl"
    output = run_sample(town, f"--prompts={PROMPTS}", f"--out={out}", "--best_of=3", "--reward=gold")
    chosen = best_of.best_of(np.array([row["score"] for row in answered]).reshape(-1, 3))
    wanted = [answered[3 * i + best] for i, best in enumerate(chosen)]
    found = read(out)
    assert [{**row, "logp": 0} for row in found] == [{**row, "logp": 0} for row in wanted]
    np.testing.assert_allclose([row["logp"] for row in found], [row["logp"] for row in wanted], atol=1e-3)
    assert f"at most {best_of.kl(3):.2f} nats" in output


def test_a_reward_model_chooses_too(town):
    town.run("reward", "rm", *REWARD)
    flags = (f"--prompt={QUESTION}", f"--reward_model={town / 'rm'}", "--temperature=1.5")
    several = run_sample(town, *flags, "--samples=3")
    scores = [float(line.rpartition("score ")[2]) for line in several.splitlines() if "score " in line]
    assert len(scores) == 3 and len(set(scores)) > 1
    assert f"score  {max(scores):.4f}" in run_sample(town, *flags, "--best_of=3")


def test_answers_are_records_that_other_stages_read(town):
    out, source = town / "turns.jsonl", town / "asked.jsonl"
    talk = [user("Hello."), assistant("Hello."), user(QUESTION)]
    data = jsonl(source, [{"prompt": QUESTION}, {"prompt": talk}])
    run_sample(town, f"--prompts={data}", f"--out={out}", "--temperature=0")
    rows = read(out)
    assert [row["prompt"] for row in rows] == [QUESTION, talk]
    assert [row["completion"] for row in rows] == [greedy(town, [user(QUESTION)]), greedy(town, talk)]


def run_chat(town, text, monkeypatch, *flags, name="sft"):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return run_sample(town, "--temperature=0", "--max_new=12", *flags, name=name)


def test_a_conversation_goes_on_until_it_is_reset(town, monkeypatch):
    first = greedy(town, [user(QUESTION)], most=12)
    second = greedy(town, [user(QUESTION), assistant(first), user("What is 3 + 4?")], most=12)
    lines = [QUESTION, "", "What is 3 + 4?", "/what", "/reset", QUESTION, "/quit", "never read"]
    output = run_chat(town, "\n".join(lines), monkeypatch)
    wanted = [first, second, "no command /what: /reset starts a new conversation, /quit or Ctrl-D ends",
              "a new conversation", first]  # fmt: skip
    assert output.endswith("\n".join(wanted) + "\n") and "never" not in output


def test_a_run_of_single_turns_says_so(town):
    assert run_turns.single_turn(init_from.load_run(str(town / "sft")).lineage) is True
    assert run_turns.single_turn(init_from.load_run(str(town / "base")).lineage) is None


@pytest.mark.parametrize("known", [True, False, None])
def test_whoever_chats_is_told_of_a_model_of_single_turns(town, monkeypatch, known):
    monkeypatch.setattr(run_turns, "single_turn", lambda lineage: known)
    output = run_chat(town, "/quit\n", monkeypatch)
    assert ("trained on single questions" in " ".join(output.split())) == bool(known)


# What is typed before the prompt and while an answer is computed is read, in order; half a line is not lost.
TYPED_AHEAD = """
import os, sys
sys.path.insert(0, {root!r})
from experiments import sample
print("ready", flush=True)
os.read({pipe}, 1)
for line in sample.typed():
    print(f"<{{line}}>", flush=True)
    os.read({pipe}, 1)
"""


def test_nothing_typed_is_lost_while_an_answer_is_computed():
    master, slave = pty.openpty()
    there, here = os.pipe()
    script = TYPED_AHEAD.format(root=str(ROOT), pipe=there)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=slave, stdout=slave, stderr=slave, pass_fds=[there],
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown = ""

    def until(text):
        nonlocal shown
        while text not in shown:
            assert select.select([master], [], [], 60)[0], shown
            shown += os.read(master, 4096).decode()

    try:
        until("ready")
        os.write(master, b"one\ntwo\nthr")  # while the model is compiled
        for line, more in (("<one>", b""), ("<two>", b"ee\n"), ("<three>", b"")):
            os.write(here, b".")
            until(line)
            os.write(master, more)
        os.write(here, b".")
        until("> ")
    finally:
        process.kill()
        process.wait()
        for end in (master, there, here):
            os.close(end)


def test_without_a_template_each_line_is_a_text_of_its_own(town, monkeypatch):
    output = run_chat(town, "What is\nWhat is\n", monkeypatch, name="base")
    text = greedy(town, [user("What is")], "base", most=12)
    assert output.endswith(f"{text}\n{text}\n") and "each line is continued as text" in output


def test_stops_are_split_at_commas():
    for text, wanted in (
        ("", ()),
        ("a", ("a",)),
        (r"\n,Human:", ("\n", "Human:")),
        (r"a\,b,\t", ("a,b", "\t")),
    ):
        assert sample.SampleSampling(stop=text).stops() == wanted


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, town, *flags):
        self.master, slave = pty.openpty()
        env = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
        command = [
            sys.executable,
            "-P",
            "-m",
            "experiments.sample",
            f"--init_from={town / 'sft'}",
            town.cache,
            *flags,
        ]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, **env}, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.output, self.decoder = "", codecs.getincrementaldecoder("utf-8")()

    def until(self, text, seconds=60):
        """What is shown up to `text`."""
        end = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < end and self.process.poll() is None, self.output
            if select.select([self.master], [], [], 0.2)[0]:
                self.output += self.decoder.decode(os.read(self.master, 4096))
        before, _, self.output = self.output.partition(text)
        return before

    def type(self, text):
        os.write(self.master, text.encode())


def test_a_conversation_in_a_terminal_streams_and_ends_with_control_c(town):
    terminal = Terminal(town, "--temperature=0", "--max_new=12")
    try:
        terminal.until("> ")
        terminal.type(f"{QUESTION}\n")
        terminal.until(QUESTION)
        answer = terminal.until("> ")
        text = greedy(town, [user(QUESTION)], most=12)
        assert answer.strip().removesuffix("⏎").removesuffix("…").rstrip() == text.strip()
        terminal.process.send_signal(2)
        assert terminal.process.wait(10) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)


REFUSED = {
    "no run": ("", "--init_from: name the run"),
    "no such run": ("--init_from=nowhere --prompt=a", "--init_from=nowhere is not a run"),
    "empty prompt": ("--init_from=x --prompt=", "--prompt: it is empty"),
    "blank prompt": ("--init_from=x --prompt=\t", "--prompt: it is empty"),
    "both": ("--init_from=x --prompt=a --prompts=tinytown:prompts --out=a.jsonl", "--prompt and --prompts"),
    "no file": ("--init_from=x --prompts=tinytown:prompts", "--prompts and --out"),
    "no data": ("--init_from=x --out=a.jsonl", "--prompts and --out"),
    "count of nothing": ("--init_from=x --prompt=a --prompt_count=3", "acts only with --prompts"),
    "another file": ("--init_from=x --prompts=tinytown:prompts --out=a.txt", r"write FOLDER/NAME\.jsonl"),
    "no folder": ("--init_from=x --prompts=tinytown:prompts --out=no/where/a.jsonl", "in a folder that is there"),
    "greedy and k": ("--init_from=x --prompt=a --temperature=0 --top_k=3", "--top_k: acts only with --temperature"),
    "greedy samples": ("--init_from=x --prompt=a --temperature=0 --samples=3", "--samples: acts only with"),
    "greedy best": ("--init_from=x --prompt=a --temperature=0 --best_of=3 --reward=gold", "all completions are alike"),
    "no nucleus": ("--init_from=x --prompt=a --top_p=0", "top_p above 0"),
    "no penalty": ("--init_from=x --prompt=a --repetition_penalty=0", "--repetition_penalty=0"),
    "empty stop": ("--init_from=x --prompt=a --stop=a,,b", "--stop=a,,b: the empty text"),
    "best of what": ("--init_from=x --prompt=a --best_of=3", "say with --reward or --reward_model"),
    "two rewards": ("--init_from=x --prompt=a --reward=gold --reward_model=y", "leave out one of them"),
    "best and samples": ("--init_from=x --prompt=a --reward=gold --best_of=2 --samples=2", "leave out one of them"),
    "samples in a chat": ("--init_from=x --samples=2", "a conversation goes on from one completion"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_commands_that_cannot_be_are_refused(kind):
    flags, message = REFUSED[kind]
    with pytest.raises(ConfigError, match=message):
        sample.main(command_line.from_flags(sample.Sample, flags.split(" ") if flags else []))


@pytest.mark.parametrize("typed", [True, False])
def test_the_watchdog_watches_a_data_set_and_not_a_conversation(tmp_path, monkeypatch, typed):
    watched, model = [], SimpleNamespace(process=(0, 1))
    start = SimpleNamespace(tokenizer=ByteTokenizer(), lineage={})
    monkeypatch.setattr(init_from, "load_run", lambda *_, **__: start)
    monkeypatch.setattr(inference_chat, "open_chat_model", lambda *_: model)
    monkeypatch.setattr(prompts, "read_prompts", lambda *_, **__: ["a"])
    with recorded_watchdog(monkeypatch) as active:
        for name in ("answer_data", "chat_loop"):
            monkeypatch.setattr(sample, name, lambda *_, name=name: watched.append((name, list(active))))
        flags = () if typed else ("--prompts=tinytown:prompts", f"--out={tmp_path / 'a.jsonl'}")
        sample.main(command_line.from_flags(sample.Sample, ["--init_from=x", *flags]))
    assert watched == [("chat_loop", []) if typed else ("answer_data", [tmp_path])]


def test_files_that_are_there_are_not_written_over(town, tmp_path):
    out = tmp_path / "a.jsonl"
    out.write_text("kept\n")
    with pytest.raises(ConfigError, match=r"a\.jsonl: it is there already; name a new file"):
        run_sample(town, f"--prompts={PROMPTS}", f"--out={out}")
    assert out.read_text() == "kept\n"


def test_prompts_that_leave_no_room_are_named(tmp_path):
    small = chat_model(context=64)
    long = inference_chat.chat_prompt(small, [user("word " * 20)])
    with pytest.raises(
        ConfigError, match=r"--prompt: 1.. tokens leave no room for an answer in a context of 64"
    ):
        inference_chat.require_room(small, long, "--prompt")
    fine = inference_chat.chat_prompt(small, [user("word")])
    with pytest.raises(
        ConfigError, match=r"--prompts=x: prompt 1 \('word word .*'\): 1.. tokens leave no room"
    ):
        sample.answer_data(
            small._replace(
                cfg=SimpleNamespace(**vars(small.cfg) | {"asked": sample.SamplePrompts(prompts="x", out="y")})
            ),
            [fine, long],
            tmp_path / "y.jsonl",
        )
    assert not list(tmp_path.iterdir())


def test_rewards_and_templates_that_do_not_fit_are_refused(town):
    town.run("reward", "rm", *REWARD)
    prompt = f"--prompt={QUESTION}"
    with pytest.raises(ConfigError, match="a reward model; name the run of a language model"):
        run_sample(town, prompt, name="rm")
    with pytest.raises(ConfigError, match="a run of sft; name one of"):
        run_sample(town, prompt, f"--reward_model={town / 'sft'}")
    with pytest.raises(ConfigError, match="no module nowhere"):
        run_sample(town, prompt, "--reward=nowhere:f")
    with pytest.raises(ConfigError, match="--system: there is no chat template"):
        run_sample(town, prompt, "--system=Be kind.", name="base")
    with pytest.raises(ConfigError, match="--template=nowhere: no such file"):
        run_sample(town, prompt, "--template=nowhere")
