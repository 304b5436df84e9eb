"""Recognition from keys and shapes alone, under other spellings, and what is said when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.foundation.errors import CheckpointError
from workloads.architecture import StateDict
from workloads.classification.models.resnet import ResNet, ResNetConfig
from workloads.loading import load_checkpoint
from workloads.recognise import ARCHITECTURES, UnrecognisedError, recognise
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.models.carn import CARN, CARNConfig
from workloads.super_resolution.models.edsr import EDSR, EDSRConfig, from_basicsr
from workloads.super_resolution.models.msrresnet import MSRResNet, MSRResNetConfig
from workloads.super_resolution.models.plain import PlainSR, PlainSRConfig
from workloads.super_resolution.models.rfdn import RFDN, RFDNConfig
from workloads.super_resolution.models.srresnet import SRResNet, SRResNetConfig

HERE = Path("weights.pth")
SMALL_RFDN = RFDNConfig(width=8, distilled=4, blocks=2, esa_inner=4)


# An architecture that translates another repository's keys has a test of its own.
OWN_KEYS = [architecture for architecture in ARCHITECTURES if architecture.translate is None]


@pytest.mark.parametrize("architecture", OWN_KEYS, ids=lambda a: f"{a.name}-{a.marks[0]}")
def test_every_reference_network_is_recognised_as_itself(architecture) -> None:
    state = architecture.reference().state_dict()
    found, network = recognise(state, HERE)
    assert found is architecture
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize(
    "network",
    [
        RFDN(SMALL_RFDN),
        EDSR(EDSRConfig(scale=3, width=8, blocks=2)),
        EDSR(EDSRConfig(scale=2, width=8, blocks=2)),
        MSRResNet(MSRResNetConfig(scale=3, width=8, blocks=2)),
        SRResNet(SRResNetConfig(width=8, blocks=2, factor=3, stages=1)),
        PlainSR(PlainSRConfig(scale=3, width=12, depth=5)),
        CARN(CARNConfig(scales=(3,), width=8, groups=2)),
        CARN(CARNConfig(scales=(2, 4), width=8, groups=1, tail_groups=1, mobile=False)),
        ResNet(ResNetConfig(blocks=2, width=8, classes=7)),
    ],
    ids=lambda n: f"{type(n).__name__}",
)
def test_sizes_are_read_off_the_shapes(network) -> None:
    if isinstance(network, EDSR):
        torch.nn.init.constant_(network.add_mean.bias, 111.0)
    _, rebuilt = recognise(network.state_dict(), HERE)
    assert rebuilt.config == network.config


def _basicsr_edsr(width: int, blocks: int) -> dict[str, Tensor]:
    def conv(name: str, out: int, into: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 0.05 * torch.randn(out, into, 3, 3), f"{name}.bias": torch.zeros(out)}

    state = conv("conv_first", width, 3)
    for i in range(blocks):
        state |= conv(f"body.{i}.conv1", width, width) | conv(f"body.{i}.conv2", width, width)
    state |= conv("conv_after_body", width, width) | conv("upsample.0", 4 * width, width)
    return state | conv("upsample.2", 4 * width, width) | conv("conv_last", 3, width)


def test_basicsr_edsr_is_translated() -> None:
    state = _basicsr_edsr(8, 3)
    found, network = recognise(state, HERE)
    assert found.name == "edsr"
    assert network.io == SRFormat(4, network.io.color, 255.0, halo=network.io.halo)
    assert torch.equal(network.state_dict()["body.3.weight"], state["conv_after_body.weight"])
    assert torch.equal(network.state_dict()["tail.0.2.weight"], state["upsample.2.weight"])
    grey = torch.tensor((0.4488, 0.4371, 0.4040)).view(1, 3, 1, 1) * 255
    # The mean colour becomes zero behind sub_mean, and zero biases keep it there.
    torch.testing.assert_close(network(grey.expand(1, 3, 9, 9)).mean((2, 3)), grey.flatten(1), rtol=1e-4, atol=1e-2)
    assert set(from_basicsr(state)) == set(network.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_are_taken_off(prefix: str) -> None:
    state = {prefix + key: value for key, value in RFDN(SMALL_RFDN).state_dict().items()}
    assert recognise(state, HERE)[0].name == "rfdn"


def test_batch_counters_may_be_absent_but_nothing_else() -> None:
    state = {k: v for k, v in ResNet(ResNetConfig()).state_dict().items() if not k.endswith("num_batches_tracked")}
    assert recognise(state, HERE)[0].name == "resnet"
    state.pop("bn1.running_var")
    with pytest.raises(UnrecognisedError, match=r"1 missing: bn1\.running_var"):
        recognise(state, HERE)


def test_does_not_disturb_the_random_state() -> None:
    state = RFDN(SMALL_RFDN).state_dict()
    before = torch.random.get_rng_state()
    recognise(state, HERE)
    assert torch.equal(before, torch.random.get_rng_state())


def _failure(state: StateDict) -> str:
    with pytest.raises(UnrecognisedError) as caught:
        recognise(state, HERE)
    return str(caught.value)


def test_missing_and_unexpected_keys_are_listed_with_the_nearest_architecture() -> None:
    state = RFDN(SMALL_RFDN).state_dict()
    for i in range(1, 4):
        state.pop(f"B2.c{i}_r.weight")
    state["B2.extra.weight"] = torch.zeros(1)
    message = _failure(state)
    assert "nearest is rfdn" in message
    assert "3 missing: B2.c1_r.weight, B2.c2_r.weight, B2.c3_r.weight" in message
    assert "1 unexpected: B2.extra.weight" in message
    assert "\n" not in message


def test_long_lists_are_cut_with_a_count() -> None:
    state = RFDN(SMALL_RFDN).state_dict()
    gone = [key for key in state if ".esa.conv" in key and key.startswith("B2")]
    message = _failure({key: value for key, value in state.items() if key not in gone})
    assert f"{len(gone)} missing: " in message
    assert f"and {len(gone) - 8} more" in message


def test_shape_mismatch_is_named() -> None:
    state = RFDN(SMALL_RFDN).state_dict()
    state["B1.c2_r.weight"] = torch.zeros(8, 8, 5, 5)
    assert "1 of another shape: B1.c2_r.weight is [8, 8, 5, 5] instead of [8, 8, 3, 3]" in _failure(state)


def test_a_stranger_is_told_what_is_known() -> None:
    message = _failure({"encoder.layers.0.attention.query": torch.zeros(4, 4)})
    assert "rfdn, imdn" in message
    assert "encoder.layers.0.attention.query" in message
    assert "--model" in message


@pytest.mark.data
def test_carn_keeps_one_tail(data: Path) -> None:
    path = data / "checkpoints" / "carn_m_x234.pth"
    with pytest.raises(CheckpointError, match=r"x2, x3, x4: say which"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no weights for x8"):
        load_checkpoint(path, scale=8)
    tails = [key for key in load_checkpoint(path, scale=3).module.state_dict() if key.startswith("upsample")]
    assert tails == ["upsample.up3.body.0.weight", "upsample.up3.body.0.bias"]


@pytest.mark.data
def test_an_asked_for_scale_overrules_or_is_refused(data: Path) -> None:
    folder = data / "checkpoints"
    assert load_checkpoint(folder / "pan_x2.pth", scale=3).module.io.scale == 3
    with pytest.raises(CheckpointError, match="only for x4"):
        load_checkpoint(folder / "rfdn_x4.pth", scale=2)
    with pytest.raises(CheckpointError, match="not for x5"):
        load_checkpoint(folder / "fsrcnn_x2.pth", scale=5)
