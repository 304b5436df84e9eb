"""Figures and identities of the method that need whole networks; those of cost tables are in `test_costs`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.graph import capture
from compress.layer_table import LayerTable
from search.quantnas import Mode, QuantisedNetwork, QuantSettings, Supernet, bitops_costs, derive, network_bitops
from search.quantnas.cost_table import fixed_macs
from search.quantnas.operand_noise import NoisyOperand, Scalar, steps_of
from search.quantnas.quant_conv import QuantConv, convolve
from search.quantnas.quantisers import BitQuantisers
from workloads.super_resolution.models.edsr import EDSR, EDSRConfig
from workloads.super_resolution.models.imdn import IMDN, IMDNConfig
from workloads.super_resolution.models.rfdn import RFDN, RFDNConfig
from workloads.super_resolution.models.searched import ConvSpec, Genotype, SearchSpace, load_space
from workloads.super_resolution.models.srresnet import SRResNet, SRResNetConfig


def _macs(network: nn.Module, side: int) -> int:
    x = torch.rand(1, 3, 48, 48)
    table = LayerTable.from_graph(capture(network.eval(), x), torch.rand(1, 3, side, side))
    # EDSR's shifts of the mean are constants of the picture's format, no layers of the published count.
    return sum(row.macs for row in table.rows if row.name not in {"sub_mean", "add_mean"})


@pytest.mark.parametrize(
    ("network", "four", "eight"),
    [
        (SRResNet(SRResNetConfig()), 36.34, 145.37),
        (EDSR(EDSRConfig()), 32.49, 129.97),
        (IMDN(IMDNConfig()), 11.63, 46.52),
        (RFDN(RFDNConfig()), 6.75, 27.01),
    ],
    ids=["srresnet", "edsr", "imdn", "rfdn"],
)
def test_uniform_networks_have_the_published_bitops(network: nn.Module, four: float, eight: float) -> None:
    macs = _macs(network, 32)
    assert macs * 16 / 1e9 == pytest.approx(four, abs=0.006)
    assert macs * 64 / 1e9 == pytest.approx(eight, abs=0.006)


def test_espcn_in_colour_written_as_a_space_has_the_published_bitops(tmp_path: Path) -> None:
    path = tmp_path / "espcn.yaml"
    path.write_text(
        "name: espcn\nscale: 4\nwidth: 64\nbits: [4, 8]\n"
        "layers:\n"
        "  first: {out: width, candidates: [simple_5x5]}\n"
        "  second: {out: width/2, candidates: [simple_3x3]}\n"
        "  last: {out: colours*scale*scale, candidates: [simple_3x3]}\n"
        "network: ['a = first(x)', 'b = second(a)', 'c = last(b)', 'y = shuffle(c)']\n"
    )
    space = load_space(path)
    for bits, giga in ((4, 0.61), (8, 2.43)):
        assert network_bitops(Genotype.uniform(space, "simple_3x3", bits), 32, 32) / 1e9 == pytest.approx(
            giga, abs=6e-3
        )


def test_rfdn_with_48_features_has_the_multiply_accumulates_of_the_space_and_with_50_the_published_ones() -> None:
    space = load_space("rfdn")
    searched = bitops_costs(space.resized(bits=(8,)), height=256, width=256).of(_like_rfdn(space)) / 64
    assert searched == 21_375_221_760
    total = searched + fixed_macs(space, 256, 256)
    assert total == 24_995_609_856
    assert _macs(RFDN(RFDNConfig(width=48, distilled=24)), 256) == total
    assert _macs(RFDN(RFDNConfig()), 256) / 1e9 == pytest.approx(27.03, abs=0.006)


def _like_rfdn(space: SearchSpace) -> Genotype:
    ones = Genotype.uniform(space, "simple_1x1", 8).layers
    threes = Genotype.uniform(space, "simple_3x3", 8).layers
    return Genotype.of(space, {n: ones[n] if "skip" in n else c for n, c in threes.items()}, adq=False)


def test_gradient_of_a_noisy_weight_is_the_float_convolutions() -> None:
    torch.manual_seed(0)
    spec = ConvSpec(4, 6, (3, 3))
    unit = QuantConv(spec, (2, 4), QuantSettings())
    x, target = torch.rand(2, 4, 9, 9), torch.randn(2, 6, 9, 9)
    assert float(steps_of(unit.weight, (2, 4), unit.settings, signed=True).min()) > 0.01
    still = NoisyOperand(x, torch.zeros(2), torch.randn_like(x))
    made = unit.noisy(still, torch.tensor([0.4, 0.6]), Scalar(torch.ones(()), 1.0), True, None)
    assert not torch.allclose(made, convolve(x, unit.weight, spec), atol=1e-2)
    (noisy,) = torch.autograd.grad((made * target).sum(), unit.weight)
    (plain,) = torch.autograd.grad((convolve(x, unit.weight, spec) * target).sum(), unit.weight)
    assert torch.equal(noisy, plain)


@pytest.mark.parametrize("name", ["basic", "rfdn"])
def test_one_hot_direct_supernet_is_the_derived_network_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    space = load_space(name).resized(width=12, cells=2)
    net = Supernet(space, QuantSettings(mode=Mode.DIRECT), adq=True)
    x = torch.rand(2, 3, 16, 17)
    net.measure_steps(x)
    with torch.no_grad():
        for logits in net.logits.values():
            logits.normal_()
    genotype = derive(space, {s.name: net.logits_of(s) for s in net.sites}, adq=True)
    assert len({choice.bits for choice in genotype.layers.values()}) == 2
    assert len({choice.operation for choice in genotype.layers.values()}) > 2
    network = QuantisedNetwork(genotype)
    alphas = {}
    for site, layer in net.mixtures():
        choice = genotype.layers[site.name]
        at, bit = site.tokens.index(choice.operation), space.bits.index(choice.bits)
        alphas[site.name] = torch.zeros(len(site.operations), len(space.bits))
        alphas[site.name][at, bit] = 1
        for unit, source in zip(network.body.layer(site.name).units, layer.candidates[at].units, strict=True):
            unit.weight.data = source.weight.data
            copied = source.quantisers[bit]
            assert isinstance(copied, BitQuantisers)
            unit.quantisers[0].load_state_dict(copied.state_dict())
    network.body.fixed.load_state_dict(net.body.fixed.state_dict())
    network.body.adq.load_state_dict(net.body.adq.state_dict())
    net.eval()
    network.eval()
    with torch.no_grad():
        assert torch.equal(net.weighted(x, alphas), network(x))
