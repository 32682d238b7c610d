"""The named sizes beside what was published of them."""

import pytest

from jaxtrain.models import transformer
from jaxtrain.models.zoo import ZOO, resolve


@pytest.mark.parametrize(
    ("name", "millions"),
    [("gpt2", 124.44), ("llama3-8b", 8030.26), ("mistral-7b", 7241.73), ("qwen3-0.6b", 596.05), ("gemma2-2b", 2614.34),
     ("gemma3-1b", 999.89), ("llama3.2-1b", 1235.81), ("qwen2-0.5b", 494.03), ("pythia-160m", 162.32),
     ("pythia-1.4b", 1414.65), ("olmo2-7b", 7298.62), ("phi3-mini-4k", 3821.08), ("mixtral-8x7b", 46702.79),
     ("qwen3-30b-a3b", 30532.12), ("olmoe-1b-7b", 6919.16), ("qwen3-235b-a22b", 235093.63),
     ("mixtral-8x22b", 140620.63)],
)  # fmt: skip
def test_named_sizes_have_the_published_number_of_parameters(name, millions):
    assert round(transformer.parameters(ZOO[name]) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("name", "billions"), [("mixtral-8x7b", 12.88), ("qwen3-30b-a3b", 3.35), ("olmoe-1b-7b", 1.28)]
)
def test_active_parameters_are_the_published_ones(name, billions):
    assert transformer.parameters(ZOO[name], active=True) / 1e9 == pytest.approx(billions, abs=0.005)
    assert transformer.parameters(ZOO["gpt2"], active=True) == transformer.parameters(ZOO["gpt2"])


@pytest.mark.parametrize(
    ("name", "billions", "active"), [("gpt-oss-20b", 20.91, 3.61), ("gpt-oss-120b", 116.83, 5.13)]
)
def test_gpt_oss_has_the_sizes_of_its_model_card(name, billions, active):
    """arXiv:2508.10925, table 1, whose active parameters leave the embedding out."""
    arch = ZOO[name]
    assert transformer.parameters(arch) / 1e9 == pytest.approx(billions, abs=0.005)
    whole = transformer.parameters(arch, active=True) - arch.vocab * arch.width
    assert whole / 1e9 == pytest.approx(active, abs=0.005)


def test_what_is_idle_is_all_that_further_experts_add():
    for changes in ("", ",mlp_bias=true", ",mlp=gelu", ",mlp=gelu,mlp_bias=true"):
        more, fewer = (resolve(f"tinytown-moe,vocab=64,experts={n}{changes}") for n in (8, 2))
        router = more.layers * more.width * 6
        assert transformer.parameters(more) - transformer.parameters(fewer) == more.idle + router
        assert fewer.idle == 0
