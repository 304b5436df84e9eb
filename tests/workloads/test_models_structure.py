"""Each architecture: its halo is the exact one, and it exports with dynamic height and width."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.export import Dim

from workloads.architecture import Network
from workloads.receptive_field import chain_halo, halo
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.models.carn import CARN, CARNConfig
from workloads.super_resolution.models.edsr import EDSR, EDSRConfig
from workloads.super_resolution.models.espcn import ESPCN, ESPCNConfig
from workloads.super_resolution.models.fsrcnn import FSRCNN, FSRCNNConfig
from workloads.super_resolution.models.imdn import CCA, IMDN, IMDNConfig
from workloads.super_resolution.models.imdn_rtc import IMDNRTC, IMDNRTCConfig
from workloads.super_resolution.models.msrresnet import MSRResNet, MSRResNetConfig
from workloads.super_resolution.models.pan import PAN, PANConfig
from workloads.super_resolution.models.plain import PlainSR, PlainSRConfig
from workloads.super_resolution.models.rfdn import RFDN, RFDNConfig
from workloads.super_resolution.models.rlfn import RLFN, RLFNConfig
from workloads.super_resolution.models.srresnet import SRResNet, SRResNetConfig

NETWORKS: dict[str, Callable[[], Network]] = {
    "carn_m x2": lambda: CARN(CARNConfig(scales=(2,), width=16)),
    "carn x4": lambda: CARN(CARNConfig(scales=(4,), width=8, groups=1, tail_groups=1, mobile=False)),
    "edsr x3": lambda: EDSR(EDSRConfig(scale=3, width=8, blocks=3)),
    "edsr x4 large": lambda: EDSR(EDSRConfig(width=8, blocks=2, residual_scale=0.1)),
    "espcn x3": lambda: ESPCN(ESPCNConfig()),
    "fsrcnn x2": lambda: FSRCNN(FSRCNNConfig()),
    "fsrcnn x3": lambda: FSRCNN(FSRCNNConfig(scale=3)),
    "fsrcnn x4": lambda: FSRCNN(FSRCNNConfig(scale=4)),
    "imdn_rtc x2": lambda: IMDNRTC(IMDNRTCConfig(blocks=2)),
    "msrresnet x4": lambda: MSRResNet(MSRResNetConfig(width=8, blocks=2)),
    "pan x3": lambda: PAN(PANConfig(scale=3, width=8, tail_width=8, blocks=2)),
    "pan x4": lambda: PAN(PANConfig(width=8, tail_width=8, blocks=2)),
    "plain x4": lambda: PlainSR(PlainSRConfig(width=8, depth=4)),
    "plain x2 of Y": lambda: PlainSR(PlainSRConfig(scale=2, width=8, depth=3, channels=1)),
    "srresnet x4": lambda: SRResNet(SRResNetConfig(width=8, blocks=2)),
    "rfdn x4": lambda: RFDN(RFDNConfig(width=8, distilled=4, blocks=1, esa_inner=4)),
    "rlfn x4": lambda: RLFN(RLFNConfig(width=8, inner=6, blocks=1, esa_inner=4)),
    "imdn x4": lambda: IMDN(IMDNConfig(width=16, distilled=4, blocks=1)),
}
UNTILEABLE = {"rfdn x4", "rlfn x4", "imdn x4"}


def _make(name: str) -> tuple[Network, SRFormat]:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    assert isinstance(network.io, SRFormat)
    return network, network.io


@pytest.mark.parametrize("name", NETWORKS)
def test_declared_halo_is_the_traced_one(name: str) -> None:
    network, io = _make(name)
    assert halo(network, channels=io.channels, scale=io.scale) == io.halo
    assert (io.halo is None) == (name in UNTILEABLE)


@pytest.mark.parametrize("name", NETWORKS)
def test_exports_with_dynamic_sides(name: str) -> None:
    network, io = _make(name)
    dynamic = ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    program = torch.export.export(network, (torch.rand(1, io.channels, 24, 32),), dynamic_shapes=dynamic)
    x = torch.rand(1, io.channels, 37, 29)
    expected = network(x)
    assert expected.shape == (1, io.channels, 37 * io.scale, 29 * io.scale)
    torch.testing.assert_close(program.module()(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["rfdn x4", "rlfn x4"])
def test_smallest_input_of_esa(name: str) -> None:
    network, io = _make(name)
    assert network(torch.rand(1, 3, io.min_input_side, io.min_input_side)).shape[-1] == 4 * io.min_input_side
    with pytest.raises(RuntimeError):
        network(torch.rand(1, 3, io.min_input_side - 1, 32))


def test_aligned_tiles_of_esa_still_differ() -> None:
    """ESA resizes by a factor that depends on the tile, so one on the grid, far from its borders, is not exact."""
    network, _ = _make("rlfn x4")
    double = network.double()
    whole = torch.rand(1, 3, 240, 24, dtype=torch.float64)
    with torch.no_grad():
        expected = double(whole)[:, :, 4 * 114 : 4 * 126]
        tile = double(whole[:, :, 48:192])[:, :, 4 * 66 : 4 * 78]
    assert float((tile - expected).abs().max()) > 1e-7


class _Strided(nn.Module):
    """Exact only for tiles that start on even rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x[:, :, ::2, ::2], scale_factor=2.0)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(3, 3, 5, padding=2), 2),
        (nn.Conv2d(3, 3, 3, padding=4, dilation=4), 4),
        (nn.Conv2d(3, 3, (3, 7), padding=(1, 3)), 3),
        (nn.Identity(), 0),
        (nn.MaxPool2d(3, stride=1, padding=1), 1),
        (_Strided(), None),
        (nn.Sequential(*(nn.Conv2d(3, 3, 9, padding=4, bias=False) for _ in range(60))), None),
    ],
)
def test_halo_of_known_operations(module: nn.Module, expected: int | None) -> None:
    assert halo(module, channels=3, scale=1) == expected


def test_halo_counts_zero_weights() -> None:
    """What a layer may read counts, not what today's weights make of it."""
    conv = nn.Conv2d(1, 1, 7, padding=3)
    nn.init.zeros_(conv.weight)
    assert halo(conv, channels=1) == 3


@pytest.mark.parametrize(
    ("stages", "expected"),
    [([(4, 3)], 4), ([(34, 3), (3, 1)], 35), ([(34, 2), (2, 2), (3, 1)], 36), ([(1, 4), (5, 1)], 3)],
)
def test_chain_halo(stages: list[tuple[int, int]], expected: int) -> None:
    assert chain_halo(stages) == expected


def test_plain_with_zero_weights_is_nearest_neighbour() -> None:
    network = PlainSR(PlainSRConfig(scale=3, width=4, depth=3))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(network(x), x.repeat_interleave(3, 2).repeat_interleave(3, 3), rtol=0, atol=0)
    assert set(network.state_dict()) == {f"convs.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}


def test_contrast_is_mean_plus_biased_standard_deviation() -> None:
    x = torch.rand(2, 8, 6, 5)
    attention = CCA(8, 2)
    contrast = x.mean((2, 3), keepdim=True) + x.std((2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(attention(x), x * attention.conv_du(contrast))
