"""Tokenizers: bytes, our own BPE, any Hugging Face tokenizer.json, SentencePiece.

Only the pipeline adds special tokens. One that is written in the text of a document is encoded as plain text.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxtrain.config import ConfigError
from jaxtrain.data import chat_template_files, token_bytes
from jaxtrain.files import checksums, hf_hub

SPECIALS = ("pad", "bos", "eos", "mask", "fim_prefix", "fim_suffix", "fim_middle")
# Their names in well-known tokenizers, where there is no tokenizer_config.json.
_NAMES = {
    "bos": ("<|bos|>", "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]", "<|endoftext|>"),
    "eos": ("<|eos|>", "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
    "pad": ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
    "mask": ("<|mask|>", "<mask>", "[MASK]"),
    "fim_prefix": ("<|fim_prefix|>", "<fim_prefix>", "▁<PRE>", "<PRE>"),
    "fim_suffix": ("<|fim_suffix|>", "<fim_suffix>", "▁<SUF>", "<SUF>"),
    "fim_middle": ("<|fim_middle|>", "<fim_middle>", "▁<MID>", "<MID>"),
}


class Tokenizer(Protocol):
    """A tokenizer: text to ids and back.

    `byte_lengths` is i32[V], the UTF-8 bytes behind each token, 0 for specials. Its sum over a document's
    tokens is the document's UTF-8 length, unless the tokenizer changes the text (lower case, a space in
    front).
    """

    vocab_size: int
    pad: int
    bos: int
    eos: int
    mask: int | None  # None: the file has none and no objective needs it
    fim: tuple[int, int, int] | None  # prefix, suffix, middle
    byte_lengths: np.ndarray
    pieces: Sequence[bytes]  # the bytes behind each token, empty for specials
    fingerprint: str  # changes with anything that changes an id
    notes: tuple[str, ...]  # lines on decisions of loading it
    specials: Mapping[str, int]  # every special token, by what a chat template writes for it
    token_names: Mapping[
        str, str
    ]  # bos_token, eos_token, pad_token for chat templates; only those that the file names
    chat_template: str  # Jinja, written by `save`; empty: none. No part of the fingerprint
    named_templates: Mapping[str, str]  # further ones, by name

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """i32[n] of each text, without any special token."""

    def encode_marked(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(ids i32[n], the characters from and to i64[n, 2] of each) of texts that write special tokens out."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids without special tokens; bytes that are no UTF-8 become U+FFFD."""

    def decode_completion(self, ids: Iterable[int]) -> str:
        """The text of ids that follow others, as `decode`; where it starts with a space, that is of it."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the files that `load(folder)` reads."""


def special_ids(tokenizer: Tokenizer) -> np.ndarray:
    """i32[n], the ids that no text encodes to and that `decode` leaves out."""
    mask = () if tokenizer.mask is None else (tokenizer.mask,)
    return np.unique([tokenizer.pad, tokenizer.bos, tokenizer.eos, *mask, *(tokenizer.fim or ())]).astype(
        np.int32
    )


def _assign(tokenizer: Any, ids: dict[str, int]) -> None:
    for role in ("pad", "bos", "eos"):
        setattr(tokenizer, role, ids[role])
    tokenizer.mask = ids.get("mask")
    fim = tuple(ids[role] for role in SPECIALS if role.startswith("fim_") and role in ids)
    tokenizer.fim = fim if len(fim) == 3 else None


def _spelled_out(text: str, words: set[str]) -> list[str]:
    """`text` in pieces, cut after the first character of each of `words`, so that no piece contains one."""
    cuts = [match.start() + 1 for match in re.finditer("|".join(map(re.escape, sorted(words))), text)]
    return [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _plain(ids: list[int], specials: set[int], text: str) -> np.ndarray:
    if not specials.isdisjoint(ids):
        raise ConfigError(
            f"--tokenizer: it encodes plain text as special tokens ({text[:60]!r}); use another one"
        )
    return np.asarray(ids, np.int32)


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("(" + "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) + ")")


def _between_specials(
    text: str, specials: Mapping[str, int], encode: Callable[[str], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """`encode_marked` for a tokenizer that reads no special token in a text: what stands between them, encoded."""
    ids, spans = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int64)]
    at = 0
    for i, piece in enumerate(_any_of(specials).split(text)):
        if i % 2:
            ids.append(np.array([specials[piece]]))
            spans.append(np.array([[at, at + len(piece)]]))
        elif piece:
            inner, places = encode(piece)
            ids.append(inner)
            spans.append(at + places)
        at += len(piece)
    return np.concatenate(ids).astype(np.int32), np.concatenate(spans)


def _after(anchor: int, decode: Callable[[Iterable[int]], str], ids: Iterable[int]) -> str:
    """The text of `ids` behind a token of one visible character: decoders strip a space at the start alone."""
    return decode([anchor, *map(int, ids)])[1:]


def _fingerprint(kind: str, content: bytes, ids: dict[str, int]) -> str:
    state = hashlib.blake2b(kind.encode(), digest_size=10)
    state.update(json.dumps(ids, sort_keys=True).encode())
    state.update(content)
    return state.hexdigest()


class ByteTokenizer:
    """A tokenizer of bytes: ids 0 to 255 are the UTF-8 bytes, the special tokens follow."""

    def __init__(self):
        ids = {name: 256 + i for i, name in enumerate(SPECIALS)}
        _assign(self, ids)
        self.vocab_size = 256 + len(SPECIALS)
        self.pieces = [*(bytes([i]) for i in range(256)), *(b"" for _ in SPECIALS)]
        self.byte_lengths = _lengths(self.pieces)
        self.fingerprint = _fingerprint("byte", b"", ids)
        self.notes: tuple[str, ...] = ()
        self.specials = {f"<|{role}|>": i for role, i in ids.items()}
        self.token_names = _token_names({role: f"<|{role}|>" for role in ids})
        self.chat_template, self.named_templates = "", {}

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def encode_marked(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        def encode(text: str) -> tuple[np.ndarray, np.ndarray]:
            raw = np.frombuffer(text.encode(), np.uint8)
            char = np.cumsum((raw & 0xC0) != 0x80) - 1  # all bytes of a character but its first are 10xxxxxx
            return raw, np.stack([char, char + 1], 1)

        return [_between_specials(text, self.specials, encode) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i for i in map(int, ids) if i < 256).decode("utf-8", errors="replace")

    decode_completion = decode

    def save(self, folder: str | os.PathLike[str]) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "byte.json").write_text(json.dumps({"kind": "byte"}) + "\n")
        chat_template_files.save(folder, self.chat_template, self.named_templates)


class FastTokenizer:
    """A tokenizer of the `tokenizers` library, as a tokenizer.json holds it.

    `roles` names the special tokens that are known by their role, `add` the roles that must be there: a
    missing one is added. For a missing bos or pad it takes eos, as GPT-2 does, so that imported
    embeddings keep their size.
    """

    def __init__(self, inner: Any, roles: Mapping[str, str | None], add: Sequence[str] = ()):
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True  # a special token in the text is text
        self._inner = inner
        ids, notes = _find_specials(inner, roles, add)
        _assign(self, ids)
        present = {role: inner.id_to_token(i) for role, i in ids.items()}
        self._roles = present | {role: None for role, name in roles.items() if name is None}
        self.token_names = _token_names(self._roles)
        self.notes = tuple(notes)
        unknown = _unknown(inner)  # encodes text, though files call it special
        special = {i for i, token in inner.get_added_tokens_decoder().items() if token.special}
        self._specials = (special | set(ids.values())) - unknown
        self.specials = {inner.id_to_token(i): i for i in sorted(self._specials | set(ids.values()))}
        self.chat_template, self.named_templates = "", {}
        self.vocab_size = max(inner.get_vocab(with_added_tokens=True).values()) + 1
        self.pieces = self._pieces()
        self.byte_lengths = _lengths(self.pieces)
        self.fingerprint = _fingerprint("fast", inner.to_str().encode(), ids)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encoded = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._checked(text, e.ids) for text, e in zip(texts, encoded, strict=True)]

    def encode_marked(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        encoded = self._marked.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.asarray(e.ids, np.int32), np.asarray(e.offsets, np.int64).reshape(-1, 2)) for e in encoded
        ]

    @functools.cached_property
    def _marked(self) -> Any:
        """The same tokenizer, reading special tokens; no post-processor, which would move the places of tokens."""
        state = json.loads(self._inner.to_str())
        return type(self._inner).from_str(json.dumps(state | {"post_processor": None}))

    def _checked(self, text: str, ids: list[int]) -> np.ndarray:
        if self._specials.isdisjoint(ids):
            return np.asarray(ids, np.int32)
        # Some models (WordPiece, WordLevel) look whole words up, specials among them.
        pieces = _spelled_out(text, {self._inner.id_to_token(i) for i in self._specials.intersection(ids)})
        encoded = self._inner.encode_batch_fast(pieces, add_special_tokens=False)
        return _plain([i for e in encoded for i in e.ids], self._specials, text)

    def decode(self, ids: Iterable[int]) -> str:
        return self._inner.decode(
            [i for i in map(int, ids) if i not in self._specials], skip_special_tokens=True
        )

    def decode_completion(self, ids: Iterable[int]) -> str:
        return self.decode(ids) if self._anchor is None else _after(self._anchor, self.decode, ids)

    @functools.cached_property
    def _anchor(self) -> int | None:
        """A token of one visible character, also before others; None where there is none."""
        for char in "axe1.":
            ids = self._inner.encode(char, add_special_tokens=False).ids
            if len(ids) and self.decode(ids[-1:]) == char and self.decode(ids[-1:] * 2).startswith(char):
                return ids[-1]
        return None

    def save(self, folder: str | os.PathLike[str]) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "tokenizer.json").write_text(self._inner.to_str(pretty=True), encoding="utf-8")
        (Path(folder) / hf_hub.ROLES).write_text(json.dumps(self._roles, indent=1) + "\n")
        chat_template_files.save(folder, self.chat_template, self.named_templates)

    def _pieces(self) -> list[bytes]:
        pieces = [b""] * self.vocab_size
        state = json.loads(self._inner.to_str())
        parts = [state["decoder"] or {}, state["pre_tokenizer"] or {}]
        kinds = {
            p.get("type")
            for part in parts
            for p in (part, *part.get("decoders", ()), *part.get("pretokenizers", ()))
        }
        read = token_bytes.byte_level if "ByteLevel" in kinds else token_bytes.visible
        for token, i in self._inner.get_vocab(with_added_tokens=False).items():
            pieces[i] = read(token)
        for i, token in self._inner.get_added_tokens_decoder().items():
            pieces[i] = token.content.encode()
        for i in (*self._specials, *_unknown(self._inner)):
            pieces[i] = b""
        return pieces


def _lengths(pieces: Sequence[bytes]) -> np.ndarray:
    return np.array([len(piece) for piece in pieces], np.int32)


def _token_names(roles: Mapping[str, str | None]) -> dict[str, str]:
    return {f"{role}_token": roles[role] for role in ("bos", "eos", "pad") if roles.get(role)}


def _unknown(inner: Any) -> set[int]:
    model = json.loads(inner.to_str())["model"]
    unknown = inner.token_to_id(model["unk_token"]) if model.get("unk_token") else model.get("unk_id")
    return set() if unknown is None else {unknown}


def _find_specials(
    inner: Any, roles: Mapping[str, str | None], add: Sequence[str]
) -> tuple[dict[str, int], list[str]]:
    from tokenizers import AddedToken

    ids: dict[str, int] = {}
    notes = []
    for role in SPECIALS:
        names = [roles[role]] if role in roles else _NAMES[role]
        present = [i for name in names if name and (i := inner.token_to_id(name)) is not None]
        if present:
            ids[role] = present[0]
            inner.add_special_tokens(
                [AddedToken(inner.id_to_token(present[0]), special=True, normalized=False)]
            )
    for role in ("eos", "bos", "pad", *add):
        if role in ids:
            continue
        if role in ("bos", "pad"):
            ids[role] = ids["eos"]
            notes.append(f"no {role} token: {inner.id_to_token(ids['eos'])} serves")
            continue
        inner.add_special_tokens([AddedToken(f"<|{role}|>", special=True, normalized=False)])
        ids[role] = inner.token_to_id(f"<|{role}|>")
        notes.append(f"no {role} token: added <|{role}|> as {ids[role]}")
    return ids, notes


def train_bpe(texts: Iterable[str], size: int) -> FastTokenizer:
    """A byte-level BPE of `size` tokens, special tokens included; the same for the same texts in the same
    order.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    names = {role: f"<|{role}|>" for role in SPECIALS}
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(names.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.encode_special_tokens = True
    inner.train_from_iterator(texts, trainer)
    return FastTokenizer(inner, names)


class SentencePieceTokenizer:
    """A SentencePiece *.model; special tokens in `add` that it lacks follow its own ids."""

    def __init__(self, path: Path, add: Sequence[str] = ()):
        try:
            import sentencepiece
        except ImportError as error:
            raise ConfigError(
                f"--tokenizer={path}: a *.model needs the package sentencepiece; pip install 'jaxtrain[hf]'"
            ) from error
        try:
            self._inner = inner = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"--tokenizer={path}: not a SentencePiece model ({error})") from error
        size = inner.get_piece_size()
        own = {"bos": inner.bos_id(), "eos": inner.eos_id(), "pad": inner.pad_id()}
        names = {
            name: i
            for known in _NAMES.values()
            for name in known
            if (i := inner.piece_to_id(name)) != inner.unk_id()
        }
        by_name = {role: next((names[n] for n in _NAMES[role] if n in names), -1) for role in SPECIALS}
        ids = {role: i for role in SPECIALS if (i := own.get(role, by_name[role])) >= 0}
        notes = []
        for role in ("eos", "bos", "pad", *add):
            if role in ids:
                continue
            serves = role in ("bos", "pad")
            notes.append(f"no {role} token: eos serves" if serves else f"no {role} token: added as {size}")
            ids[role] = ids["eos"] if serves else size
            size += not serves
        _assign(self, ids)
        self.notes = tuple(notes)
        self._added = [role for role in add if ids[role] >= inner.get_piece_size()]
        self.vocab_size = size
        self._own = inner.get_piece_size()
        self._specials = set(ids.values()) | {i for i in range(self._own) if inner.is_control(i)}
        self.specials = {inner.id_to_piece(i): i for i in sorted(self._specials) if i < self._own} | {
            f"<|{role}|>": i for role, i in ids.items() if i >= self._own
        }
        by_id = {i: text for text, i in self.specials.items()}
        self.token_names = _token_names(
            {role: by_id.get(i) for role, i in ids.items() if own.get(role, 0) >= 0 or role in add}
        )
        self.chat_template, self.named_templates = "", {}
        own_text = [token_bytes.visible(inner.id_to_piece(i)) for i in range(self._own)]
        bare = {*self._specials, inner.unk_id()}
        self.pieces = [b"" if i in bare or i >= self._own else own_text[i] for i in range(size)]
        self.byte_lengths = _lengths(self.pieces)
        self.fingerprint = _fingerprint("sentencepiece", path.read_bytes(), ids)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encoded = self._inner.encode(list(texts), out_type=int)
        return [self._checked(text, ids) for text, ids in zip(texts, encoded, strict=True)]

    def _checked(self, text: str, ids: list[int]) -> np.ndarray:
        if self._specials.isdisjoint(ids):
            return np.asarray(ids, np.int32)
        # A user-defined symbol that has a special token's role.
        pieces = _spelled_out(text, {self._inner.id_to_piece(i) for i in self._specials.intersection(ids)})
        encoded = self._inner.encode(pieces, out_type=int)
        return _plain([i for e in encoded for i in e], self._specials, text)

    def encode_marked(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        def encode(text: str) -> tuple[np.ndarray, np.ndarray]:
            pieces = self._inner.encode(text, out_type="immutable_proto").pieces
            spans = [(one.begin, one.end) for one in pieces]
            return np.array([one.id for one in pieces], np.int32), np.array(spans, np.int64).reshape(-1, 2)

        return [_between_specials(text, self.specials, encode) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return self._inner.decode([i for i in map(int, ids) if i < self._own and i not in self._specials])

    def decode_completion(self, ids: Iterable[int]) -> str:
        anchor = self._inner.piece_to_id("a")
        return _after(anchor, self.decode, ids) if self.decode([anchor]) == "a" else self.decode(ids)

    def save(self, folder: str | os.PathLike[str]) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "tokenizer.model").write_bytes(self._inner.serialized_model_proto())
        (Path(folder) / hf_hub.ROLES).write_text(json.dumps({"add": self._added}) + "\n")
        chat_template_files.save(folder, self.chat_template, self.named_templates)


def load(path: str | os.PathLike[str], *, add: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer that `save` wrote, or that of a tokenizer.json, a folder with one, or a SentencePiece *.model.

    The roles of special tokens come from our own special_tokens.json, tokenizer_config.json or special_tokens_map.json
    beside it, else from well-known names; `add` lists roles (mask, fim_prefix, fim_suffix, fim_middle) that
    are added where missing. Its chat templates are those of chat_template_files.
    Raises ConfigError where there is no tokenizer.
    """
    path = hf_hub.tokenizer_path(str(path))
    folder = path if path.is_dir() else path.parent
    checksums.require(folder, f"--tokenizer={path}", partial=not path.is_dir())
    tokenizer = _load(path, folder, add)
    tokenizer.chat_template, tokenizer.named_templates = chat_template_files.read(folder)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the files that `load` reads, with their checksums; a process killed meanwhile leaves none of these."""
    (folder / checksums.FILE).unlink(missing_ok=True)
    tokenizer.save(folder)
    checksums.write(folder)


def _load(path: Path, folder: Path, add: Sequence[str]) -> Tokenizer:
    if path.is_dir():
        candidates = [path / "byte.json", path / "tokenizer.json", *sorted(path.glob("*.model"))]
        path = next((c for c in candidates if c.is_file()), path)
    if path.name == "byte.json":
        return ByteTokenizer()
    if not path.is_file():
        raise ConfigError(f"--tokenizer={path}: no tokenizer.json and no *.model there")
    roles = _roles(folder)
    if path.suffix == ".model":
        return SentencePieceTokenizer(path, (*roles.get("add", ()), *add))
    from tokenizers import Tokenizer as Inner

    try:
        text = path.read_text(encoding="utf-8")
        if not json.loads(text).keys() >= {"model", "added_tokens"}:
            raise ValueError("it has no model")
        return FastTokenizer(Inner.from_str(text), roles, add)
    except ConfigError:
        raise
    except Exception as error:  # the tokenizers library raises this type itself
        raise ConfigError(
            f"--tokenizer={path}: not a tokenizer.json of the tokenizers library ({type(error).__name__}: {error})"
        ) from error


def _roles(folder: Path) -> dict[str, Any]:
    path = folder / hf_hub.ROLES
    try:
        if path.is_file():
            return _checked_roles(json.loads(path.read_text(encoding="utf-8")))
        roles: dict[str, Any] = {}
        for path in (folder / name for name in ("special_tokens_map.json", "tokenizer_config.json")):
            if path.is_file():
                for key, value in json.loads(path.read_text(encoding="utf-8")).items():
                    role = key.removesuffix("_token")
                    content = value.get("content") if isinstance(value, dict) else value
                    named = isinstance(content, str) or (content is None and role in ("bos", "pad"))
                    if role in SPECIALS and key.endswith("_token") and named:
                        roles[role] = (
                            content  # null: there is none, whatever well-known names the vocabulary has
                        )
        return roles
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path}: the roles of special tokens cannot be read ({error}); restore the file from a copy"
        ) from error


def _checked_roles(roles: Any) -> dict[str, Any]:
    """What `save` wrote to special_tokens.json. Raises TypeError for anything else."""
    for role, name in roles.items():
        fits = isinstance(name, list if role == "add" else str | None)
        if role not in (*SPECIALS, "add") or not fits or (role == "add" and not {*name} <= {*SPECIALS}):
            raise TypeError(f"{role!r}: {name!r} is not a role and its token")
    return roles
