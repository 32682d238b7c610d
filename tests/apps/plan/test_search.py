import dataclasses

import pytest

from experiments.pretrain import Pretrain
from jaxtrain import config
from jaxtrain.apps.plan import search, topologies
from jaxtrain.apps.plan.search import Candidate
from jaxtrain.config import ConfigError
from jaxtrain.models import transformer, zoo
from tests.apps.plan.modules import module, program, stage

GIB = 2**30
ARCH = zoo.resolve("llama3.2-1b")
CFG = Pretrain(
    model=config.Model(model="llama3.2-1b"),
    data=dataclasses.replace(Pretrain().data, batch_size=16, seq_len=2048),
)
SLICE = topologies.parse("v5e:4x4")


def test_candidates_divide():
    found = search.candidates(CFG, ARCH, SLICE)
    assert len(set(found)) == len(found) > 50
    for each in found:
        shards = each.data * each.fsdp
        assert shards * each.tensor == 16 and each.batch_size % (shards * each.microbatches) == 0
        assert ARCH.K % each.tensor == 0 and each.batch_size in (8, 16, 32, 64)
        assert each.remat in ("dots", "full")
    assert len({each[:3] for each in found[:4]}) > 2  # meshes before batches of one mesh
    assert {each.batch_size for each in search.candidates(CFG, ARCH, topologies.parse("v5e:8x8"))} >= {
        64,
        16,
        8,
    }


def test_long_rows_are_split_over_a_context_axis():
    """131,072 tokens on 16 devices, a row on all of them among others; 4,096 tokens on none."""
    long = dataclasses.replace(CFG, data=dataclasses.replace(CFG.data, batch_size=1, seq_len=131072))
    found = search.candidates(long, ARCH, SLICE)
    assert {each.context for each in found} == {1, 2, 4, 8, 16}
    for each in found:
        assert each.data * each.fsdp * each.tensor * each.context == 16
        assert each.batch_size % (each.data * each.fsdp) == 0
    assert any(each.context == 16 and each.batch_size == 1 for each in found)
    assert {each.context for each in search.candidates(CFG, ARCH, SLICE)} == {1}
    assert {each.context for each in search.candidates(long, ARCH, SLICE, True)} == {1}
    odd = dataclasses.replace(long, data=dataclasses.replace(long.data, seq_len=131072 + 8))
    assert {each.context for each in search.candidates(odd, ARCH, SLICE)} == {
        1,
        2,
        4,
    }  # two whole parts a device
    two = search.candidates(long, ARCH, topologies.parse("2xv5e:4x4"))
    assert {each.context for each in two} == {1, 2, 4, 8, 16}  # inside a slice, of 32 devices
    # A sixteenth of the row on each device, and the same part of the state.
    whole, split = Candidate(1, 16, 1, 16, "full", 1), Candidate(1, 1, 1, 1, "full", 1, 16)
    state = search.weights(ARCH)  # 16 bytes a parameter, over 16 devices
    rows = search.least_memory(whole, long, ARCH) - state
    assert search.least_memory(split, long, ARCH) == pytest.approx(state + rows / 16)


def test_sampling_has_neither_remat_nor_microbatches():
    assert {(each.remat, each.microbatches) for each in search.candidates(CFG, ARCH, SLICE, True)} == {
        ("dots", 1)
    }


def test_the_flags_say_the_layout():
    each = Candidate(1, 8, 2, 32, "full", 2)
    assert each.flags == "--mesh=fsdp:8,tensor:2 --batch_size=32 --remat=full --microbatches=2"
    assert each._replace(fsdp=2, context=4).flags.startswith("--mesh=fsdp:2,context:4,tensor:2 ")
    cfg = each.applied(CFG)
    assert config.parse_mesh(cfg.run.mesh) == {"data": 1, "fsdp": 8, "context": 1, "tensor": 2}
    assert (cfg.data.batch_size, cfg.model.remat, cfg.optim.microbatches) == (32, "full", 2)
    assert (
        each.rows == 2
        and Candidate(1, 1, 1, 8, "dots", 1).flags == "--mesh=data:1 --batch_size=8 --remat=dots"
    )


def test_least_memory():
    each = Candidate(1, 16, 1, 32, "full", 1)
    state = 16 * search.weights(ARCH) / 16
    assert search.least_memory(each, CFG, ARCH) == state + 2 * 16 * 2 * 2048 * 2048
    assert search.least_memory(each._replace(remat="dots"), CFG, ARCH) > search.least_memory(each, CFG, ARCH)
    lora = dataclasses.replace(CFG, lora=config.Lora(lora_rank=8))
    rows = 2 * 16 * 2 * 2048 * 2048
    assert search.least_memory(each, lora, ARCH) == state / 4 + rows
    tables = (1 if ARCH.tied else 2) * ARCH.width * ARCH.vocab
    for kind, size in (("int8", 1.0), ("nf4", 4.5 / 8)):
        lora = dataclasses.replace(CFG, lora=config.Lora(lora_rank=8, base_weights=kind))
        held = 4 * tables + size * (search.weights(ARCH) - tables)
        assert search.least_memory(each, lora, ARCH) == pytest.approx(held / 16 + rows)


@pytest.mark.parametrize("name", ["llama3.2-1b", "qwen3-8b", "gemma2-2b", "gpt2"])
def test_weights_are_nearly_all_parameters(name):
    arch = zoo.resolve(name)
    assert 0.99 * transformer.parameters(arch) < search.weights(arch) <= transformer.parameters(arch)


def compiled(gib: float, size: int = 64):
    text = module(
        f"%x = f32[{size},64] parameter(0)\nROOT %y = f32[{size},64] dot(%x, %x), lhs_contracting_dims={{1}}"
    )
    return stage(program("train step", text, gib=gib, tokens=1000))


def run(ordered, sizes, usable=15 * GIB, least=None, most=12):
    """(trials, flags compiled, lines said) where a layout takes what `sizes` says."""
    tried, said = [], []

    def compile(each):
        tried.append(each)
        if isinstance(gib := sizes(each), Exception):
            raise gib
        return compiled(gib, 64 * each.batch_size)

    return search.search(ordered, compile, least or (lambda each: 0), usable, said.append, most), tried, said


BASE = Candidate(1, 8, 1, 16, "dots", 1)


def test_what_does_not_fit_settles_what_needs_no_less():
    others = [
        BASE._replace(batch_size=32),  # more rows
        BASE._replace(remat="none"),  # less remat
        BASE._replace(remat="full"),
        BASE._replace(microbatches=2),
        BASE._replace(data=2, fsdp=4),
        BASE._replace(fsdp=4, context=2),
    ]
    _, tried, said = run([BASE, *others], lambda each: 20 if each.remat == "dots" and each.fsdp == 8 else 5)
    assert tried == [BASE, *others[2:]]
    assert "20.00 GiB  does not fit: train step" in said[0] and "2 are settled" in said[-1]


def test_what_fits_settles_what_is_no_faster():
    others = [BASE._replace(remat="full"), BASE._replace(microbatches=2), BASE._replace(batch_size=32)]
    trials, tried, _ = run([BASE, *others], lambda each: 5)
    assert tried == [BASE, others[2]] and len(trials) == 2


def test_the_fastest_that_fits_comes_first():
    ordered = [BASE._replace(data=n, batch_size=size) for n, size in ((1, 8), (2, 4), (4, 2))]
    trials, _, _ = run(ordered, lambda each: 20 if each.batch_size == 2 else 5)
    assert [trial.candidate.batch_size for trial in trials] == [4, 8, 2]
    assert trials[0].rate > trials[1].rate > trials[2].rate == 0
    shown = search.summary(trials)
    assert len(shown) == 3 and "--batch_size=4" in shown[1]
    assert "Nothing that was tried fits" in search.summary(trials[2:])[0]


def test_what_needs_too_much_is_not_compiled():
    big = BASE._replace(fsdp=1)
    _, tried, said = run([big, BASE], lambda each: 5, least=lambda each: (16 if each.fsdp == 1 else 1) * GIB)
    assert tried == [BASE] and "1 need more than 15.00 GiB" in said[-1]


def test_a_layout_that_cannot_be_is_said():
    trials, _, said = run([BASE], lambda each: ConfigError("--mesh: no"))
    assert not trials and said[0] == f"{BASE.flags}: --mesh: no"


def test_only_so_many_are_compiled():
    ordered = [BASE._replace(data=n) for n in range(1, 9)]
    _, tried, said = run(ordered, lambda each: 5, most=3)
    assert len(tried) == 3 and "5 were left out" in said[-1]
