"""Rotary positions in config.json: both versions' keys, what follows from them, and what is written."""

import math

import pytest

from jaxtrain.models import hf_config
from tests.models.test_hf_config import RELEASED, save

QWEN = dict(RELEASED)["qwen2.5-7b"]
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": YARN},
        {"rope_scaling": YARN, "max_position_embeddings": 131072},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "finetuned": True}},
        {"rope_scaling": {**YARN, "factor": None}, "max_position_embeddings": 131072},
        {"rope_parameters": {**YARN, "rope_type": "yarn", "rope_theta": 1000000.0}},
        {"rope_scaling": {**YARN, "beta_fast": None, "mscale": 1.0, "mscale_all_dim": 0}},
    ],
    ids=["as advised", "long already", "no original", "no factor", "transformers 5", "nulls"],
)
def test_yarn_says_how_long_the_context_becomes(changes, tmp_path):
    """Qwen's advice leaves max_position_embeddings at the length before."""
    arch = hf_config.read(save(tmp_path, {**QWEN, **changes}))
    assert arch.max_len == 131072
    assert arch.rope_scaling == pytest.approx((4.0, 32, 1, 32768, 0.1 * math.log(4) + 1, 1))


def test_the_attention_factor_of_yarn_is_the_files_or_follows_mscale(tmp_path):
    """DeepSeek's two mscales, whose ratio it is."""

    def factor(**settings):
        return hf_config.read(save(tmp_path, {**QWEN, "rope_scaling": {**YARN, **settings}})).rope_scaling[4]

    assert factor(mscale=0.707, mscale_all_dim=0.707) == 1.0
    assert factor(mscale=1.0, mscale_all_dim=0.5) == pytest.approx(
        (1 + 0.1 * math.log(4)) / (1 + 0.05 * math.log(4))
    )
    assert factor(attention_factor=1, mscale=1.0, mscale_all_dim=0.5) == 1


@pytest.mark.parametrize(("factor", "longest"), [(4.0, 131072), (0.5, 32768), (1.7, 55706)])
def test_dynamic_scaling_goes_from_max_position_embeddings(factor, longest, tmp_path):
    arch = hf_config.read(save(tmp_path, {**QWEN, "rope_scaling": {"type": "dynamic", "factor": factor}}))
    assert (arch.rope_scaling, arch.max_len) == ((factor, 32768), longest)
    written = hf_config.write(arch)
    assert written["max_position_embeddings"] == 32768
    assert written["rope_scaling"] == {"rope_type": "dynamic", "factor": factor}
    assert hf_config.read(save(tmp_path, written)) == arch


PHI = {**dict(RELEASED)["phi3-mini-4k"], "sliding_window": 262144, "max_position_embeddings": 131072}
TABLES = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 47 + [64.0]}


@pytest.mark.parametrize("kind", ["su", "longrope", "yarn"])
def test_phi_3s_longrope_goes_by_three_names(kind, tmp_path):
    arch = hf_config.read(save(tmp_path, {**PHI, "rope_scaling": {"type": kind, **TABLES}}))
    assert arch.rope_scaling == (4096, math.sqrt(1 + math.log(32) / math.log(4096)))
    assert arch.rope_factors == (*TABLES["short_factor"], *TABLES["long_factor"])
    written = hf_config.write(arch)
    assert written["rope_scaling"] == {"type": "longrope", **TABLES}  # transformers 4 takes nothing more
    assert written["original_max_position_embeddings"] == 4096


def test_the_original_length_beside_a_single_block_comes_first(tmp_path):
    """As in transformers; where each type of layer has a block, that in the block alone counts."""

    def original(name):
        llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        scaling = {**llama3, "original_max_position_embeddings": 8192}
        config = dict(RELEASED)[name]
        config = {**config.get("text_config", config), "rope_scaling": scaling}
        config["original_max_position_embeddings"] = 4096
        return hf_config.read(save(tmp_path, config)).rope_scaling[3]

    assert original("llama3.1-8b") == 4096
    assert original("gemma3-4b") == 8192
