"""Tokenizers and conversations that the tests of dialogs share."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from jaxtrain.data.tokenizer import FastTokenizer

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Yo."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
]


def tokenizer_of(*specials, bos=None, eos):
    """Bytes as tokens, and special tokens, as a tokenizer.json of the tokenizers library has them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({text: i for i, text in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(dict.fromkeys((*filter(None, [bos, eos]), *specials))))
    return FastTokenizer(inner, {"eos": eos} | ({"bos": bos} if bos else {}))


def turns(*texts):
    """A record of messages, a user's and an assistant's in turn."""
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]}


def pair(i, length=8):
    """A record of an instruction and its response."""
    return {"instruction": f"Q{i}?", "response": f"A{i}" + "." * (i % length)}


def chatml():
    return tokenizer_of("<|im_start|>", "<|im_end|>", eos="<|endoftext|>")


def said(tokenizer, ids):
    """The text of ids, special tokens too."""
    names = {i: text for text, i in tokenizer.specials.items()}
    return "".join(names.get(i) or tokenizer.decode([i]) for i in map(int, ids))


def shown(tokenizer, ids, loss_mask):
    """The text of ids with « » around what is in the loss."""
    pieces, before = [], False
    for i, inside in zip(ids, [*map(bool, loss_mask)], strict=True):
        pieces += ["«" if inside else "»"] * (inside != before) + [said(tokenizer, [i])]
        before = inside
    return "".join(pieces) + "»" * before
