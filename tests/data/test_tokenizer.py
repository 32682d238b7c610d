"""Tokenizers: lossless, counted to the byte, and deaf to special tokens written in a text."""

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import ByteTokenizer, FastTokenizer, load, special_ids, train_bpe

TEXT = "Call me Ishmael. Some years ago—never mind how long precisely—I thought I would sail about a little. "
CORPUS = [TEXT * 3, "naïve café 日本語 🙂 <|eos|> <s>", "one\ntwo\r\n\tthree   four"]
ALL = ("mask", "fim_prefix", "fim_suffix", "fim_middle")


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(CORPUS, 400)


def lossless(kind, text):
    found = kind.encode([text])[0]
    assert found.dtype == np.int32
    assert kind.decode(found) == text
    assert kind.byte_lengths[found].sum() == len(text.encode())
    assert b"".join(kind.pieces[i] for i in found) == text.encode()
    assert not set(special_ids(kind).tolist()) & set(found.tolist())


@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
@settings(deadline=None, max_examples=200)
def test_bytes_and_bpe_are_lossless_on_any_text(bpe, text):
    lossless(ByteTokenizer(), text)
    lossless(bpe, text)


def test_special_tokens_in_a_text_are_text(bpe):
    for kind in (ByteTokenizer(), bpe):
        for text in ("<|bos|>", "a<|eos|>b", "<|fim_middle|> <|pad|><|mask|>", "\0<|bos|>\0"):
            lossless(kind, text)


def test_ids_are_distinct_and_inside_the_vocabulary(bpe):
    for kind in (ByteTokenizer(), bpe):
        ids = [kind.pad, kind.bos, kind.eos, kind.mask, *kind.fim]
        assert len(set(ids)) == 7 and min(ids) >= 0 and max(ids) < kind.vocab_size
        assert kind.byte_lengths.shape == (kind.vocab_size,)
        assert not kind.byte_lengths[ids].any()
        assert kind.decode([kind.bos, *kind.encode(["hi"])[0], kind.eos, kind.pad]) == "hi"
        assert kind.encode([]) == [] and kind.encode([""])[0].shape == (0,)


def test_half_a_character_decodes_to_the_replacement_character():
    kind = ByteTokenizer()
    assert kind.decode(kind.encode(["é"])[0][:1]) == "�"


def test_training_is_deterministic_and_the_size_is_kept():
    many = [TEXT + " ".join(str(i * i) for i in range(400))] * 2
    first, again, other = train_bpe(many, 500), train_bpe(many, 500), train_bpe([TEXT], 300)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert (first.vocab_size, other.vocab_size) == (500, 300)
    assert len(first.encode([TEXT])[0]) < len(TEXT)


def test_save_and_load(bpe, tmp_path):
    for i, kind in enumerate((ByteTokenizer(), bpe)):
        kind.save(tmp_path / str(i))
        back = load(tmp_path / str(i))
        assert back.fingerprint == kind.fingerprint and back.fim == kind.fim and back.notes == ()
        assert (back.encode(CORPUS)[1] == kind.encode(CORPUS)[1]).all()
        assert (back.byte_lengths == kind.byte_lengths).all()


def gpt2_like(folder):
    """As GPT-2's file: byte-level, one special token, nothing else said."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    inner.add_special_tokens(["<|endoftext|>"])
    inner.save(str(folder / "tokenizer.json"))


def test_a_file_without_special_tokens_borrows_or_adds_them_and_says_so(tmp_path):
    gpt2_like(tmp_path)
    kind = load(tmp_path)
    assert kind.pad == kind.bos == kind.eos == 300 and kind.vocab_size == 301
    assert kind.mask is None and kind.fim is None
    assert kind.notes == ("no pad token: <|endoftext|> serves",)
    lossless(kind, "a <|endoftext|> b")
    more = load(tmp_path / "tokenizer.json", add=ALL)
    assert (more.mask, more.fim, more.vocab_size) == (301, (302, 303, 304), 305)
    assert "added <|mask|> as 301" in " ".join(more.notes)
    more.save(tmp_path / "saved")
    back = load(tmp_path / "saved")
    assert (back.mask, back.fim, back.fingerprint) == (301, (302, 303, 304), more.fingerprint)
    lossless(back, "a <|mask|><|fim_prefix|> b")


def llama_like(folder):
    """As Llama 2's file: metaspace, byte fallback, BOS put in front by a post-processor, truncation and padding on."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        "▁",
        *"abcdefghijklmnopqrstuvwxyz",
        "▁a",
    ]
    vocabulary = {word: i for i, word in enumerate(words)}
    inner = tokenizers.Tokenizer(
        models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    inner.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")]
    )
    inner.enable_truncation(5)
    inner.enable_padding(length=12)
    inner.save(str(folder / "tokenizer.json"))
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None, "model_max_length": 5}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_bos_is_never_there_already_and_nothing_is_cut_or_filled(tmp_path):
    llama_like(tmp_path)
    kind = load(tmp_path)
    assert (kind.bos, kind.eos, kind.pad) == (1, 2, 2)
    found = kind.encode(["a bird sang a song", "<s>hi</s>"])
    assert all(1 not in ids and 2 not in ids for ids in found)
    assert kind.decode(found[0]) == "a bird sang a song" and kind.decode(found[1]) == "<s>hi</s>"
    # The tokenizer puts a space in front: one byte more than the text has.
    assert kind.byte_lengths[found[0]].sum() == len("a bird sang a song") + 1
    assert kind.byte_lengths[kind.encode(["é"])[0]].sum() == 3


@pytest.mark.parametrize("model", [models.WordLevel, models.WordPiece])
def test_a_model_that_looks_whole_words_up_still_reads_specials_as_text(model, tmp_path):
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[", "hello", "MASK]", "CLS]"]
    inner = tokenizers.Tokenizer(model({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(words[:5])
    inner.save(str(tmp_path / "tokenizer.json"))
    kind = load(tmp_path)
    assert (kind.bos, kind.eos, kind.pad, kind.mask) == (1, 2, 3, 4)
    found = kind.encode(["hello [MASK] hello [CLS]", "hello stranger"])
    assert found[0].tolist() == [6, 5, 7, 6, 5, 8]
    assert found[1].tolist() == [6, 0]  # what is unknown is no special token that was written


def test_a_tokenizer_that_cannot_spell_a_special_is_refused(tmp_path):
    inner = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "#": 1, "a": 2}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kind = FastTokenizer(inner, {"eos": "#"})
    with pytest.raises(ConfigError, match="encodes plain text as special tokens"):
        kind.encode(["a # a"])


def test_sentencepiece(tmp_path):
    pieces = pytest.importorskip("sentencepiece")
    pieces.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 20),
        model_prefix=str(tmp_path / "m"),
        vocab_size=300,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    kind = load(tmp_path / "m.model")
    assert (kind.bos, kind.eos, kind.pad) == (1, 2, 2) and kind.mask is None
    for text in ("I thought  I would <s> sail</s>", "naïve 日本 🙂"):
        found = kind.encode([text])[0]
        assert kind.decode(found) == text and not {1, 2} & set(found.tolist())
        assert kind.byte_lengths[found].sum() == len(text.encode()) + 1  # the space in front
    more = load(tmp_path / "m.model", add=ALL)
    assert more.mask == kind.vocab_size and more.vocab_size == kind.vocab_size + 4
    more.save(tmp_path / "saved")
    back = load(tmp_path / "saved")
    assert (back.fim, back.fingerprint) == (more.fim, more.fingerprint)
    assert back.decode([back.bos, *back.encode(["sail"])[0], back.mask, back.eos]) == "sail"


def test_what_is_no_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"text": "hello"}')
    with pytest.raises(ConfigError, match=r"not a tokenizer\.json of the tokenizers library"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("hello")
    with pytest.raises(ConfigError, match=r"not a tokenizer\.json"):
        load(tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match="no tokenizer"):
        load(tmp_path / "nowhere")


def test_damaged_files_are_named_where_there_are_no_checksums(bpe, tmp_path):
    """Of an earlier release, or of another project: bits flipped, cut off, values of another kind."""
    bpe.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|eos|>"}')
    draw, refused = np.random.default_rng(4), 0
    for name in ("tokenizer.json", "special_tokens.json", "tokenizer_config.json"):
        file = tmp_path / name
        whole = file.read_bytes()
        damages = [
            b"",
            b"[]",
            b"3",
            b'{"eos": [3], "eos_token": {"content": [1]}}',
            b"\xff",
            whole[: len(whole) // 2],
        ]
        for place, bit in zip(draw.integers(0, len(whole), 12), draw.integers(0, 8, 12), strict=True):
            damages.append(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        for damaged in damages:
            file.write_bytes(damaged)
            try:
                load(tmp_path)
            except ConfigError as error:
                refused += 1
                assert name in str(error)
        if name == "special_tokens.json":
            file.unlink()  # the next one counts where it is not there
        else:
            file.write_bytes(whole)
    assert refused > 15


def test_what_is_no_sentencepiece_model_is_named(tmp_path):
    pytest.importorskip("sentencepiece")
    (tmp_path / "x.model").write_bytes(b"hello")
    with pytest.raises(ConfigError, match="not a SentencePiece model"):
        load(tmp_path / "x.model")
