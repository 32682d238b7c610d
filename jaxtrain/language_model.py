"""A trained model in Python: the object of `jaxtrain.load` chats, samples, scores, judges, evaluates and serves.

What it does is what the commands do: the same loading, sampler, judge and evaluation, with their defaults.
"""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtrain import config, flags, suggestions
from jaxtrain.config import ConfigError
from jaxtrain.data import chat, messages
from jaxtrain.data.dialogs import with_system
from jaxtrain.data.messages import BadRecord, Message
from jaxtrain.generate.sampler import bucketed
from jaxtrain.inference import judges, local, perplexity
from jaxtrain.inference.config import MachineFlags, QualityFlags
from jaxtrain.inference.llm import (
    LLM,
    REFUSED,
    Completion,
    Request,
    TokenLogprob,
    derive_seed,
    user_messages,
)
from jaxtrain.inference.llm_judge import JudgeCase
from jaxtrain.stages import init_from
from jaxtrain.stages.load_model import LoadedModel, load_model

if TYPE_CHECKING:
    from jaxtrain.apps.serve.startup import BackgroundServer

Conversation = str | Sequence[Mapping[str, Any]]  # a user's turn, or messages with role and content
_JUDGING = ("rubric", "votes", "soft", "judge_temperature", "judge_max_new")
_FLAG = re.compile(r"(?<![\w-])--(?=\w)")


def load(
    name: str,
    *,
    dtype: str = "auto",
    matmul_dtype: str = "auto",
    kv_cache: str = "auto",
    mesh: str = "",
    cache_dir: str = config.CACHE_DIR,
) -> "LanguageModel":
    """The model of a run or a Hugging Face directory: WORKDIR, WORKDIR@STEP, WORKDIR@best, hf:DIR or hf:ORG/NAME.

    The arguments are the flags of ./launch/run sample. Raises ConfigError, a ValueError, for what is no language model.
    """
    with _arguments():
        machine = MachineFlags(
            dtype=dtype, matmul_dtype=matmul_dtype, kv_cache=kv_cache, mesh=mesh, cache_dir=cache_dir
        )
        start = init_from.load_run(str(name), "name", causal=True)
        loaded = load_model(start, local.serving_plan(machine), machine.model())
        return LanguageModel(str(name), loaded, machine)


class LanguageModel:
    """A loaded model. Programs are compiled at the first use of each method.

    Options of a method that samples are those of inference.llm.Request: samples, seed, temperature, max_new,
    top_logprobs, stop, raw.
    """

    def __init__(self, name: str, loaded: LoadedModel, machine: MachineFlags):
        self.name, self.loaded, self.machine = name, loaded, machine
        self._llms: dict[int, LLM] = {}
        self._bits: Callable[[str], float] | None = None

    def __repr__(self) -> str:
        arch = self.loaded.source.arch
        return (
            f"LanguageModel({self.name!r}: {arch.layers} layers, width {arch.width}, vocabulary {arch.vocab})"
        )

    def llm(self, max_new: int = Request._field_defaults["max_new"]) -> LLM:
        """The model behind the interface that judges, synthesis and evaluation use, for up to `max_new` tokens."""
        size = bucketed(max_new)
        if size not in self._llms:
            self._llms[size] = local.local_llm(self.loaded, self.name, "name", size)
        return self._llms[size]

    def chat(self, prompt: Conversation, system: str = "", **options: Any) -> str:
        """The answer to a user's turn, or to a conversation, without white space around it.

        Raises ConfigError where the prompt leaves no room in the context.
        """
        if options.get("samples", 1) != 1:
            raise ConfigError("samples: chat returns one answer; take sample for several")
        ((one,),) = self.sample([prompt], system, **options)
        if one.finish_reason == REFUSED:
            raise ConfigError(
                f"prompt: its tokens fill the context of {self.loaded.source.arch.max_len}; shorten it"
            )
        return one.message()["content"]

    def sample(
        self, prompts: Sequence[Conversation], system: str = "", **options: Any
    ) -> list[list[Completion]]:
        """`samples` completions of each prompt. One that is too long has completions with the finish_reason "refused".

        Seeds depend on `seed` and the place of the prompt: equal prompts have different completions.
        """
        if isinstance(prompts, str):
            raise ConfigError("prompts: a list of prompts; write [prompt]")
        with _arguments():
            first = _request(options)
            requests = [
                first._replace(messages=_conversation(prompt, system), seed=derive_seed(first.seed, i))
                for i, prompt in enumerate(prompts)
            ]
            return self.llm(first.max_new).generate(requests) if requests else []

    def logprobs(self, prompt: Conversation, completion: str | None = None) -> tuple[TokenLogprob, ...]:
        """Of each token of a completion its log-probability in nats, the token that ends it included.

        Without a completion: of each token of the text `prompt`, read as a document.
        """
        with _arguments():
            pair = self._document(prompt) if completion is None else self._turn(prompt, completion)
            context = self.loaded.source.arch.max_len
            if context and (count := sum(map(len, pair))) > context:
                raise ConfigError(f"prompt: {count} tokens, more than the context of {context}")
            ((values, _),) = self.llm().local.logps([pair])
        decode = self.loaded.source.tokenizer.decode
        return tuple(
            TokenLogprob(decode([int(token)]), float(value), ())
            for token, value in zip(pair[1], values, strict=True)
        )

    def _document(self, text: Conversation) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(text, str):
            raise ConfigError("completion: log-probabilities after a conversation are those of a completion")
        tokenizer = self.loaded.source.tokenizer
        ids = np.array([tokenizer.bos, *tokenizer.encode([text])[0]], np.int32)
        return ids[:1], ids[1:]

    def _turn(self, prompt: Conversation, completion: str) -> tuple[np.ndarray, np.ndarray]:
        template = self.llm().local.template
        try:
            ids, (after,), _ = template.encode_completions(_conversation(prompt, ""), [completion])
        except BadRecord as error:
            raise ConfigError(f"prompt: {error}") from error
        return ids, after

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """f32[N, D]: the mean hidden state of each text; of one longer than the context, of its beginning."""
        return self.llm().embed(texts)

    def bits_per_byte(self, text: str) -> float:
        """The bits that the model needs for a byte of a document, its end included; a long one is read in parts."""
        self._bits = self._bits or perplexity.text_bits(self.loaded)
        return self._bits(text)

    def judge(
        self, prompt: Conversation, answers: Sequence[str], seed: int = 0, **options: Any
    ) -> list[float | None]:
        """This model's score of each answer, from 1 to 10 by a rubric; None where its verdict could not be read.

        Options: rubric, votes, soft, judge_temperature, judge_max_new.
        """
        with _arguments():
            quality = QualityFlags(judge=self.name, **_known(options, _JUDGING))
            judge, _ = judges.open_judge(quality, self.machine, lambda name, flag, most: self.llm(most))
            cases = [JudgeCase(_conversation(prompt, ""), answer) for answer in answers]
            return judge.score(cases, seed).values

    def evaluate(self, against: Sequence[str] = (), **options: Any) -> dict[str, Any]:
        """What ./launch/run evaluate reports of this model, and of those it is compared with, as plain values.

        Options are its flags: prompts, prompt_count, judge, tasks, ... Its report files are not written.
        """
        from jaxtrain.apps.evals import lm_eval, run
        from jaxtrain.apps.evals.config import Evaluate
        from jaxtrain.inference.llm_pool import LLMPool

        with _arguments():
            cfg = _command(Evaluate, {"models": ",".join([self.name, *against]), **options})
            if cfg.benchmarks.tasks:
                lm_eval.check(cfg.benchmarks)
            with contextlib.closing(LLMPool(cfg.endpoint, self.machine)) as pool:
                pool.add(self.name, self.llm(max(cfg.drawing.max_new, cfg.judged.judge_max_new)))
                return run.evaluate(cfg, pool)

    def serve(self, **options: Any) -> "BackgroundServer":
        """This model behind OpenAI's HTTP API and a chat page, in a thread of this process: `with m.serve() as server`.

        Options are the flags of ./launch/run serve: port, host, api_key, rows, context, store, ... Without `store`
        completions are not stored. Raises ConfigError where the extra `serve` is not installed.
        """
        from jaxtrain.apps.serve.config import EXTRA, Serve

        try:
            from jaxtrain.apps.serve import http
            from jaxtrain.apps.serve.startup import BackgroundServer, open_runner, open_server
            from jaxtrain.apps.serve.store import CompletionStore
        except ImportError as error:
            raise ConfigError(f"serving needs the package {error.name}; {EXTRA}") from error

        with _arguments():
            cfg = _command(Serve, {"store": "", **options, "model": self.name})
            start = self.loaded.source
            template = chat.load_template(cfg.served.template, start.tokenizer, otherwise="none")
            context = cfg.served.context_of(self.name, start.arch.max_len)
            name = cfg.served.name or Path(self.name.removeprefix("hf:")).name
            with contextlib.ExitStack() as until_served:  # closes the socket where the rest fails
                sock = until_served.enter_context(http.listen(cfg.http.host, cfg.http.port))
                store = CompletionStore(Path(cfg.kept.store).expanduser()) if cfg.kept.store else None
                if store:
                    until_served.callback(store.close)
                runner = open_runner(cfg, name, self.loaded, template, context)
                server = BackgroundServer(cfg, open_server(cfg, [runner], store), sock)
                until_served.pop_all()
                return server


@contextlib.contextmanager
def _arguments() -> Iterator[None]:
    """Messages about flags name them as arguments here, without the dashes."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(_FLAG.sub("", str(error))) from error


def _conversation(prompt: Conversation, system: str) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return user_messages(prompt, system)
    try:
        return with_system(messages.messages_of(prompt, "prompt"), system)
    except BadRecord as error:
        raise ConfigError(f"prompt: {error}") from error


def _request(options: Mapping[str, Any]) -> Request:
    """The request of some options, without its messages."""
    request = Request((), **_known(options, set(Request._fields) - {"messages"}))
    config.Sampling(request.max_new, request.temperature, request.seed)
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
    if request.samples < 1 or request.top_logprobs < 0:
        raise ConfigError(
            f"samples={request.samples}, top_logprobs={request.top_logprobs}: at least 1, and at least 0"
        )
    if not all(stop):
        raise ConfigError("stop: an empty text would end every completion")
    return request._replace(stop=stop)


def _command(cls: type, options: Mapping[str, Any]) -> Any:
    """The config of a command with these flags."""
    values = config.to_dict(cls())
    groups = {name: group for group, part in values.items() for name in part}
    for name, value in _known(options, groups).items():
        values[groups[name]][name] = value
    return flags.from_dict(cls, values)


def _known(options: Mapping[str, Any], names: Collection[str]) -> Mapping[str, Any]:
    for name in options:
        if name not in names:
            raise ConfigError(
                f"{name}: no option of this method{suggestions.hint(name, names)} ({', '.join(sorted(names))})"
            )
    return options
