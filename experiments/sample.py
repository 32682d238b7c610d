"""Sample from a run: complete a prompt, answer a data set of prompts, or chat in the terminal."""

import contextlib
import dataclasses
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from jaxtrain import config, flags
from jaxtrain.config import ConfigError
from jaxtrain.files import atomic
from jaxtrain.inference.config import MachineFlags

if TYPE_CHECKING:
    from jaxtrain.data.prompts import Prompt
    from jaxtrain.inference.chat import ChatModel
    from jaxtrain.inference.sampler import SampledText

TYPED = "-"  # --prompt's default: what is typed
COMMANDS = "/reset starts a new conversation, /quit or Ctrl-D ends"
MARKS = "⏎ after an answer: it ended by itself; …: it was cut off at --max_new or the context"
SINGLE_TURN = "the model was trained on single questions: before one that stands for itself, write /reset"
ESCAPES = {r"\n": "\n", r"\t": "\t", r"\,": ","}  # of --stop


@dataclasses.dataclass(frozen=True)
class SamplePrompts(config.Group):
    # fmt: off
    init_from: str = config.arg("", "The run to sample from, WORKDIR, WORKDIR@STEP, hf:DIR or hf:ORG/NAME",
        remote=True)
    prompt: str = config.arg(TYPED, "Text to answer. -: a conversation, a line of the terminal or of stdin a turn")
    prompts: str = config.arg("", "Data whose distinct prompts are answered into --out, such as tinytown:prompts:test",
        remote=True)
    out: str = config.arg("", "New .jsonl file for the answers to --prompts, a completion a row", remote=True)
    prompt_count: int = config.arg(0, "Most of --prompts answered; 0: all", low=0)
    template: str = config.arg("auto",
        "Chat template: plain, hh, chatml, llama2, llama3, gemma, zephyr, none (text is continued as it is), hf:NAME "
        "(one of the tokenizer's own that have a name), or a Jinja file. auto: the tokenizer's own, else none",
        remote=True)
    system: str = config.arg("", "System message put before conversations that have none")
    # fmt: on

    def check(self):
        if not self.prompt.strip():
            raise ConfigError("--prompt: it is empty; write a text, or leave it out to chat")
        if self.prompts and self.prompt != TYPED:
            raise ConfigError("--prompt and --prompts: leave out one of them")
        if bool(self.prompts) != bool(self.out):
            raise ConfigError(
                "--prompts and --out: one names data, the other the file for the answers: give both"
            )
        if not self.prompts and self.prompt_count:
            raise ConfigError("--prompt_count: it acts only with --prompts")


@dataclasses.dataclass(frozen=True)
class SampleSampling(config.Sampling):
    # fmt: off
    top_k: int = config.arg(0, "Draw from this many likeliest tokens; 0: all", low=0)
    top_p: float = config.arg(1.0, "Draw from the fewest likeliest tokens with this probability", low=0)
    min_p: float = config.arg(0.0, "Draw from tokens of at least this share of the likeliest one's probability", low=0)
    repetition_penalty: float = config.arg(1.0, "Above 1 makes tokens that were there less likely (CTRL)", low=0)
    stop: str = config.arg("", r"Texts before which a completion ends, joined by commas; \n is a new line, \, a comma")
    samples: int = config.arg(1, "Completions of each prompt", low=1)
    # fmt: on

    def check(self):
        if not 0 < self.top_p <= 1 or self.min_p > 1:
            raise ConfigError(f"--top_p={self.top_p}, --min_p={self.min_p}: shares, at most 1, top_p above 0")
        if self.repetition_penalty == 0:
            raise ConfigError("--repetition_penalty=0: it divides logits; 1 changes nothing")
        if not self.temperature:
            neutral = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "samples": 1}
            changed = [f"--{name}" for name, usual in neutral.items() if getattr(self, name) != usual]
            if changed:
                raise ConfigError(f"{', '.join(changed)}: acts only with --temperature above 0")
        self.stops()

    def stops(self) -> tuple[str, ...]:
        """The texts of --stop."""
        parts = re.split(r"(?<!\\),", self.stop) if self.stop else []
        if not all(parts):
            raise ConfigError(
                f"--stop={self.stop}: the empty text before or after a comma would end every completion"
            )
        return tuple(re.sub(r"\\[nt,]", lambda match: ESCAPES[match[0]], part) for part in parts)


@dataclasses.dataclass(frozen=True)
class BestOf(config.Group):
    # fmt: off
    best_of: int = config.arg(1, "Draw this many completions, keep the one with the highest score", low=1)
    reward: str = config.arg("",
        "Score completions with a function: gold or correct (Tinytown's judge), MODULE:FUNCTION, or FILE.py:FUNCTION")
    reward_model: str = config.arg("", "Score completions with this run's reward model, WORKDIR or WORKDIR@STEP",
        remote=True)
    # fmt: on

    def check(self):
        if self.reward and self.reward_model:
            raise ConfigError("--reward and --reward_model: leave out one of them")
        if self.best_of > 1 and not (self.reward or self.reward_model):
            raise ConfigError("--best_of: say with --reward or --reward_model what the best is")


@dataclasses.dataclass(frozen=True)
class Sample:
    asked: SamplePrompts = config.group(SamplePrompts)
    drawing: SampleSampling = config.group(SampleSampling)
    chosen: BestOf = config.group(BestOf)
    reading: config.Reading = config.group(config.Reading)
    machine: MachineFlags = config.group(MachineFlags)


def main(cfg: Sample) -> None:
    """Checks the flags, loads the run, and answers."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    from jaxtrain.data import chat
    from jaxtrain.files import paths
    from jaxtrain.stages import init_from

    asked = cfg.asked
    if not asked.init_from:
        raise ConfigError("--init_from: name the run to sample from, such as runs/sft, or hf:DIR")
    if cfg.chosen.best_of > 1 and cfg.drawing.samples > 1:
        raise ConfigError("--best_of and --samples: leave out one of them")
    if cfg.chosen.best_of > 1 and not cfg.drawing.temperature:
        raise ConfigError("--best_of: with --temperature=0 all completions are alike; raise it")
    if asked.prompt == TYPED and not asked.prompts and cfg.drawing.samples > 1:
        raise ConfigError(
            "--samples: a conversation goes on from one completion; name a --prompt, or --best_of"
        )
    if not asked.prompts and cfg.reading != config.Reading():
        raise ConfigError("--on_bad_record, --max_line_mb, --max_expansion: they act only with --prompts")
    if asked.out:
        _new_file(paths.parse(asked.out, "out"))
    start = init_from.load_run(asked.init_from, causal=True)
    template = chat.load_template(asked.template, start.tokenizer, otherwise="none")
    if template.name == "none" and asked.system:
        raise ConfigError("--system: there is no chat template to put it in; name one with --template")

    from jaxtrain.data import prompts

    data = []
    if asked.prompts:
        reading = config.dialogs_of(cfg.reading, cfg.machine.cache_dir, system=asked.system)
        data = prompts.read_prompts(asked.prompts, reading, template, limit=asked.prompt_count)

    from jaxtrain.inference import chat as inference_chat

    chat_model = inference_chat.open_chat_model(cfg, start, template)
    if asked.prompts:
        from jaxtrain.train import watchdog

        out = paths.parse(asked.out, "out")
        with watchdog.watch(None, out.parent, chat_model.process[0]):  # at a terminal people watch
            answer_data(chat_model, data, out)
    elif asked.prompt != TYPED:
        answer_prompt(chat_model, asked.prompt)
    else:
        from jaxtrain.stages import run_turns

        chat_loop(chat_model, run_turns.single_turn(start.lineage))


def _new_file(out: Path) -> None:
    if out.exists():
        raise ConfigError(f"--out={out}: it is there already; name a new file, or remove it")
    if out.suffix != ".jsonl" or not (config.is_remote(out) or out.parent.is_dir()):
        raise ConfigError(f"--out={out}: write FOLDER/NAME.jsonl, in a folder that is there")


def answer_prompt(chat_model: "ChatModel", text: str) -> None:
    """Prints the completions of one prompt: a single one as it is sampled, on a terminal."""
    from jaxtrain.inference import chat as inference_chat

    prompt = inference_chat.chat_prompt(chat_model, [{"role": "user", "content": text}])
    inference_chat.require_room(chat_model, prompt, "--prompt")
    if inference_chat.can_stream(chat_model) and sys.stdout.isatty():
        inference_chat.stream_answer(chat_model, prompt, 0, _write)
        print()
        return
    completions = inference_chat.answers(chat_model, [prompt])[0]
    if chat_model.process[0] == 0:
        _note(chat_model.notes)
        _print(completions, text)


def _print(completions: "list[SampledText]", prompt: str) -> None:
    if len(completions) == 1:
        print(completions[0].text)
        if completions[0].score is not None:
            _note([("score", f"{completions[0].score:.4f}")])
        return
    from jaxtrain.stages import sampling

    _note([("marks", f"prompt▸completion; {MARKS}")])
    for one in completions:
        score = "" if one.score is None else f", score {one.score:.4f}"
        lines = sampling.preview_lines(f"{prompt}▸{one.text}", one.ended)
        print("\n".join([f"log-probability {one.logp:.2f}{score}", *lines]))


def answer_data(chat_model: "ChatModel", prompts: "list[Prompt]", out: Path) -> None:
    """Writes a completion a row. The file has its name once it is whole."""
    from jaxtrain.files.progress import bar
    from jaxtrain.inference import chat as inference_chat

    source, start = chat_model.cfg.asked.prompts, time.perf_counter()
    sizes, ended, scores = [], [], []
    for i, prompt in enumerate(prompts):
        first = prompt.messages[-1]["content"][:40]
        inference_chat.require_room(chat_model, prompt, f"--prompts={source}: prompt {i} ({first!r})")
    step = max(1, inference_chat.AT_ONCE // inference_chat.samples_per_prompt(chat_model))
    with (
        _writing(out, chat_model.process[0] == 0) as file,
        bar("prompts", len(prompts), least=step + 1) as advance,
    ):
        for place in range(0, len(prompts), step):
            batch = prompts[place : place + step]
            groups = inference_chat.answers(chat_model, batch, place)
            for prompt, completions in zip(batch, groups, strict=True):
                for one in completions:
                    file.write(atomic.json_line(_row(prompt, one)))
                    sizes.append(len(one.ids))
                    ended.append(one.ended)
                    scores += [] if one.score is None else [one.score]
            file.flush()
            advance(len(batch))
    if chat_model.process[0]:
        return
    seconds = time.perf_counter() - start
    cut = len(ended) - sum(ended)
    _note(
        [
            ("answers", f"{len(sizes):,} to {len(prompts):,} distinct prompts, in {out}"),
            ("tokens", f"{sum(sizes) / len(sizes):.1f} an answer"),
            ("time", f"{seconds:.1f} s"),
            ("not ended", f"{cut:,} were cut at --max_new or the context"),
            *([("mean score", f"{sum(scores) / len(scores):.4f}")] if scores else []),
            *chat_model.notes,
        ]
    )


@contextlib.contextmanager
def _writing(out: Path, primary: bool) -> Iterator[IO[str]]:
    """A file for the answers; until it is whole, a local one has .part behind its name."""
    if not primary:
        with open(os.devnull, "w") as file:
            yield file
    elif config.is_remote(out):
        with atomic.replacing(out, "w") as file:
            yield file
    else:
        part = out.with_name(f"{out.name}.part")
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(out)


def _row(prompt: "Prompt", completion: "SampledText") -> dict[str, Any]:
    """A completion as a record that other stages read: the prompt is text where it is one turn of a user's."""
    alone = len(prompt.messages) == 1 and prompt.messages[0]["role"] == "user"
    row = {
        "prompt": prompt.messages[0]["content"] if alone else list(prompt.messages),
        "completion": completion.text,
        "ended": completion.ended,
        "logp": round(completion.logp, 4),
    }
    return row if completion.score is None else row | {"score": round(completion.score, 6)}


def chat_loop(chat_model: "ChatModel", single_turn: bool | None = None) -> None:
    """A conversation, a line a turn, until the lines end; whoever chats is told of a model of single turns."""
    from jaxtrain.inference import chat as inference_chat

    if chat_model.process[1] > 1:
        raise ConfigError("--prompt: a conversation is for one process; name a --prompt, or --prompts")
    has_turns = chat_model.template.name != "none"
    kind = "a line is a turn" if has_turns else "no chat template: each line is continued as text"
    turns = [("turns", SINGLE_TURN)] if single_turn and has_turns else []
    marks = [("marks", MARKS)] if inference_chat.can_stream(chat_model) and sys.stdout.isatty() else []
    _note([*chat_model.notes, ("chat", f"{kind}; {COMMANDS}"), *turns, *marks])
    messages: list[Any] = []
    with contextlib.suppress(KeyboardInterrupt):
        for turn, line in enumerate(typed()):
            if line == "/quit":
                break
            if line.startswith("/"):
                messages = [] if line == "/reset" else messages
                print("a new conversation" if line == "/reset" else f"no command {line}: {COMMANDS}")
                continue
            messages.append({"role": "user", "content": line})
            try:
                prompt, dropped = inference_chat.fit_conversation(chat_model, messages)
            except ConfigError as error:
                messages.pop()
                print(error, file=sys.stderr)
                continue
            if dropped:
                messages = messages[dropped:]
                print(
                    f"(the context is full: the oldest {dropped // 2} exchanges are dropped)", file=sys.stderr
                )
            text = _answer(chat_model, prompt, turn)
            messages = [*messages, {"role": "assistant", "content": text}] if has_turns else []
    if sys.stdin.isatty():
        print()


def _answer(chat_model: "ChatModel", prompt: "Prompt", turn: int) -> str:
    """The answer to a turn, printed."""
    from jaxtrain.inference import chat as inference_chat

    if inference_chat.can_stream(chat_model) and sys.stdout.isatty():
        text = inference_chat.stream_answer(chat_model, prompt, turn, _write)
        print()
        return text
    completions = inference_chat.answers(chat_model, [prompt], turn)[0]
    _print(completions, "")
    return completions[0].text


def typed() -> Iterator[str]:
    """The lines of stdin that are not empty, after a prompt on a terminal."""
    if not sys.stdin.isatty():
        yield from filter(None, map(str.strip, sys.stdin))
        return
    with contextlib.suppress(ImportError):  # not there on every system: lines are then edited less well
        import readline  # noqa: F401
    with contextlib.suppress(EOFError):
        while True:
            if line := input("> ").strip():
                yield line


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _note(table: list[tuple[str, str]]) -> None:
    from jaxtrain.files import terminal

    if table:
        print("\n".join(terminal.lines(table)), file=sys.stderr)


if __name__ == "__main__":
    flags.launch(Sample, main, "./launch/run sample")
