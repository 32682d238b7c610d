import pytest

from jaxtrain.apps.plan import topologies
from jaxtrain.apps.plan.chips import CHIPS, GIB, interconnect


def test_every_chip_that_can_be_named_has_peaks():
    assert set(topologies.CHIPS) <= set(CHIPS)


@pytest.mark.parametrize(
    ("kind", "flops", "gib", "hbm"),
    [
        ("v4", 275e12, 30.75, 1228e9),
        ("v5e", 197e12, 15.75, 819e9),
        ("v5p", 459e12, 95.74, 2765e9),
        ("v6e", 918e12, 31.25, 1640e9),
        ("a100", 312e12, 59.4, 2039e9),
        ("h100", 989e12, 59.3, 3350e9),
        ("h200", 989e12, 104.8, 4800e9),
        ("b200", 2250e12, 134.1, 8000e9),
    ],
)
def test_peaks(kind, flops, gib, hbm):
    peaks = CHIPS[kind]
    assert (peaks.flops, peaks.hbm) == (flops, hbm)
    assert peaks.usable / GIB == pytest.approx(gib, abs=0.05)


@pytest.mark.parametrize(
    ("chip", "links", "domain"),
    [
        ("v5e:1x1", 1, 1),
        ("v5e:2x4", 2, 8),  # no axis of 16 closes
        ("v5e:16x16", 4, 256),
        ("v6e:8x16", 3, 128),
        ("v5p:2x2x1", 2, 4),
        ("v5p:2x4x4", 3, 32),  # no cube
        ("v5p:4x4x8", 6, 128),
        ("2xv5e:4x4", 2, 16),
    ],
)
def test_links_of_a_torus(chip, links, domain):
    topology = topologies.parse(chip)
    found = interconnect(topology)
    assert (found.fast, found.domain) == (links * CHIPS[topology.kind].link, domain)


def test_links_of_gpus():
    assert interconnect(topologies.parse("h100:4")) == (450e9, 4, 50e9)
    assert interconnect(topologies.parse("h100:4x8")) == (450e9, 8, 50e9)


def test_a_chip_without_peak_flops_is_refused():
    with pytest.raises(KeyError, match="no peak FLOP/s is known of 'Abacus'"):
        _ = CHIPS["v5e"]._replace(device_kind="Abacus").flops
