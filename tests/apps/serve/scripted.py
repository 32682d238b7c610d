"""A server whose completions are given: what a client gets of a text, whatever model would write it."""

import functools

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from jaxtrain.apps.serve.metrics import Metrics
from jaxtrain.apps.serve.responses import ServedModel
from jaxtrain.apps.serve.scheduler import ModelRunner, SchedulerCounts
from jaxtrain.apps.serve.server import Server, ServerLimits
from jaxtrain.apps.serve.store import CompletionStore
from jaxtrain.data.chat import Template
from jaxtrain.data.tokenizer import FastTokenizer
from jaxtrain.generate import stop_strings
from jaxtrain.generate.continuous_batching import CompletionPart, TokenLogprobs
from jaxtrain.inference.sampler import decoder
from tests.apps.serve.conftest import CONTEXT, KEY, NAME

SPECIALS = ("<|end|>", "<|start|>", "[T]", "[/T]", "[CALLS]")
HEAD = "{% for m in messages %}{{ '<|start|>' + m.role + '\n' }}"
TAIL = "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}"
CALLS = (
    '{% for c in m.tool_calls or [] %}{{ \'[CALLS]{"name": "\' + c.function.name + \'", "arguments": \''
    " + c.function.arguments | tojson + '}' }}{% endfor %}"
)
# Thoughts in special tokens, calls behind one, tools and two variables.
FULL = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if reasoning_effort %}{{ 'Effort ' + reasoning_effort }}{% endif %}"
    + HEAD
    + "{% if m.thinking %}{{ '[T]' + m.thinking + '[/T]' }}{% endif %}{{ m.content }}"
    + CALLS
    + TAIL
    + "{% if enable_thinking is defined and not enable_thinking %}{{ '[T][/T]' }}{% endif %}{% endif %}"
)
OPENING = HEAD + "{{ m.content }}" + TAIL + "{{ '<think>\n' }}{% endif %}"


@functools.cache
def template(source, bos="<|start|>"):
    """A template for a tokenizer of bytes and SPECIALS."""
    inner = Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    inner.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in SPECIALS])
    return Template("scripted", source, FastTokenizer(inner, {"eos": "<|end|>", "bos": bos}))


class ScriptedScheduler:
    """A scheduler whose completions are `script`, ids, `chunk` at a time, cut by limits and stops as decoding does."""

    failure = None

    def __init__(self, vocab):
        self.runner = ModelRunner(None, None, rows=4, chunk=3, context=CONTEXT, vocab=vocab)
        self.capacity, self.counts, self.script, self.requests = 8, SchedulerCounts(0, 0), [], []

    def submit(self, requests, on_part):
        self.requests = [*requests]
        for i, request in enumerate(requests):
            until = stop_strings.tokens_until_stop(self.script, request.stops, request.decode)
            ids = self.script[:until][: request.limit]
            for start in range(0, len(ids), self.runner.chunk):
                part = ids[start : start + self.runner.chunk]
                top = TokenLogprobs(
                    np.full(len(part), -0.5), np.array(part)[:, None], np.full((len(part), 1), -0.5)
                )
                ended = start + len(part) == len(ids)
                on_part(
                    i,
                    CompletionPart(i, part, [-0.5] * len(part), top if request.top_logprobs else None, ended),
                )
        return lambda: None

    def close(self):
        """Nothing runs."""


def scripted_server(source, path=None, **options):
    """The state of a server with a template; `path` is its store's."""
    own = template(source, **options)
    scheduler = ScriptedScheduler(own.tokenizer.vocab_size)
    store = CompletionStore(path) if path else None
    served = ServedModel(NAME, 1_700_000_000, "fp_test", own, own.ends, decoder(own, own.ends))
    return Server(served, scheduler, store, ServerLimits(KEY, 100_000), Metrics([scheduler], store))


def write(server, text, end="<|end|>"):
    """Sets what the model writes; special tokens are those of the text."""
    tokenizer = server.state.model.template.tokenizer
    ids = tokenizer.encode_marked([text + end])[0][0].tolist()
    server.state.scheduler.script = ids
    return ids
