"""Spaces, operations, genotypes, and the network that is built from one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from bitwright.foundation.errors import CheckpointError, UsageError
from workloads.loading import load_checkpoint
from workloads.super_resolution.models.searched import (
    Choice,
    Genotype,
    SearchedNetwork,
    load_space,
    operation,
    save_network,
)
from workloads.super_resolution.models.searched.adq import ADQ
from workloads.super_resolution.models.searched.network import ConvUnit
from workloads.super_resolution.models.searched.space import SPACES
from workloads.super_resolution.task import SuperResolution


@pytest.mark.parametrize(
    ("token", "macs"),
    [
        ("simple_3x3", 36 * 24 * 9),
        ("simple_5x5_grouped_3", 36 * 24 * 25 // 3),
        ("simple_3x3_d2", 36 * 24 * 9),
        ("conv_5x1_1x5", 36 * 12 * 5 + 12 * 24 * 5),
        ("growth2_3x3", 36 * 24 * 9 + 24 * 24 * 9),
        ("decenc_3x3_2", 36 * 6 * 9 + 6 * 6 * 9 + 6 * 24 * 9),
        ("decenc_3x3_2_g3", (36 * 6 + 6 * 6 + 6 * 24) * 9 // 3),
        ("DWS_5x5", 36 * 25 + 36 * 24),
        ("3x3_increase_2", 72 * 24 * 9),
        ("3x3_decrease_2", 36 * 12 * 9),
        ("zero", 0),
    ],
)
def test_operation_macs(token: str, macs: int) -> None:
    assert operation(token, 36, 24, 12).macs_per_position == macs


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("simple_4x4", "odd"),
        ("simple_3x5", "square"),
        ("simple_3x3_grouped_5", "divide"),
        ("skip_connect", "as many output"),
        ("decenc_3x3_5", "12 channels"),
        ("eval(1)", "not an operation"),
        ("DWS_3x3x3", "not an operation"),
    ],
)
def test_operation_that_cannot_be(token: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        operation(token, 36, 24, 12)


def test_depthwise_uses_its_kernel() -> None:
    """The authors' DWS ignores the kernel size; a real one has a k x k depthwise convolution."""
    first, second = operation("DWS_5x5", 36, 24, 36).convs
    assert (first.kernel, first.groups, second.kernel) == ((5, 5), 36, (1, 1))


def test_shipped_spaces_have_the_published_layers() -> None:
    basic, rfdn = load_space("basic"), load_space("rfdn")
    assert len(rfdn.wiring.sites) == 30
    options = 1
    for site in {s.shared: s for s in basic.wiring.sites}.values():
        options *= len(site.operations)
    assert options * 2**8 == 4 * 4 * 4 * 4 * 3 * 4 * 3 * 3 * 2**8 == 7_077_888
    assert [s.factor for s in rfdn.wiring.sites][-2:] == [1, 4]


def test_space_without_first_convolution_repeats_the_picture() -> None:
    network = SearchedNetwork(Genotype.uniform(load_space("rfdn").resized(width=12), "simple_1x1", 8)).eval()
    for unit in network.modules():
        if isinstance(unit, ConvUnit):
            torch.nn.init.zeros_(unit.weight)
    x = torch.rand(1, 3, 15, 16)
    enlarged = network(x)
    expected = torch.nn.functional.pixel_shuffle(torch.zeros(1, 48, 15, 16), 4)
    assert torch.equal(enlarged, expected)


def _edited(tmp_path: Path, **changes: object) -> Path:
    data = yaml.safe_load((SPACES / "basic.yaml").read_text())
    for key, value in changes.items():
        data[key] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_space_of_ones_own_is_one_small_file(tmp_path: Path) -> None:
    path = tmp_path / "espcn.yaml"
    path.write_text(
        "name: espcn\nscale: 2\nwidth: 16\nbits: [8]\n"
        "layers:\n"
        "  first: {out: width, candidates: [simple_5x5, simple_3x3]}\n"
        "  last: {out: colours*scale*scale, candidates: [simple_3x3, DWS_3x3]}\n"
        "network: ['a = first(x)', 'b = last(a)', 'y = shuffle(b)']\n"
    )
    space = load_space(path)
    network = SearchedNetwork(Genotype.uniform(space, "simple_3x3", 8)).eval()
    assert network(torch.rand(1, 3, 8, 9)).shape == (1, 3, 16, 18)
    assert Genotype.from_json(network.genotype.to_json(), "text") == network.genotype


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"network": ["a = head.0(q)"]}, "nothing is named 'q'"),
        ({"network": ["a = head.7(x)"]}, "'head.7' is neither"),
        ({"network": ["a = head.0 x"]}, "does not read"),
        ({"network": ["a = head.0(x)", "y = shuffle(a)"]}, "36 channels cannot be shuffled"),
        ({"network": ["a = head.0(x)", "y = add(a, x)"]}, "must be alike, not 36 channels at x1 and 3"),
        ({"network": ["a = head.0(x)"]}, "must end with 3 at 4"),
        ({"cell": ["n = normalise.cell(z)", "y = body.0(n)"]}, "no step uses it|belong together"),
        ({"bits": [4, 9]}, "9 is not a bit width"),
        ({"width": 35}, "groups do not divide"),
        ({"cells": 0}, "either cells"),
        ({"colour": 3}, "Extra inputs"),
        ({"network": ["a = head.0(x)", "c = cells(a)", "d = cells(c)"]}, "'d = cells.*the cells are used twice"),
        (
            {
                "network": [
                    "a = head.0(x)",
                    "b = head.1(x)",
                    "n = normalise.body(a)",
                    "c = cells(n)",
                    "f = residual.body(a, c)",
                    "e = upsample.0(f)",
                    "u = shuffle(e)",
                    "t = tail.0(u)",
                    "r = tail.1(t)",
                    "y = add(u, r)",
                ]
            },
            r"'b = head\.1\(x\)': no step reads 'b'",
        ),
        (
            {
                "cell": [
                    "n = normalise.cell(z)",
                    "b = body.0(n)",
                    "c = body.1(b)",
                    "s = skip.0(n)",
                    "g = add(s, c)",
                    "q = residual.cell(z, g)",
                    "y = residual.cell(q, g)",
                ]
            },
            r"residual\.cell is used twice",
        ),
        (
            {"cell": ["n = normalise.cell(z)", "m = normalise.cell(n)", "y = body.0(m)"]},
            r"normalise\.cell is used twice",
        ),
        (
            {
                "fixed": {"smooth": {"kind": "conv", "out": "width", "kernel": 4}},
                "network": ["a = head.0(x)", "y = smooth(a)"],
            },
            "smooth has a kernel of 4; it must be odd",
        ),
    ],
)
def test_a_space_that_does_not_fit_says_where(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_space(_edited(tmp_path, **changes))


def test_layers_may_have_bit_widths_of_their_own(tmp_path: Path) -> None:
    layers = yaml.safe_load((SPACES / "basic.yaml").read_text())["layers"]
    layers["tail.1"]["bits"] = [8, 32]
    space = load_space(_edited(tmp_path, layers=layers))
    widths = {site.name: site.bits for site in space.wiring.sites}
    assert widths.pop("tail.1") == (8, 32)
    assert set(widths.values()) == {(4, 8)}
    assert space.all_bits == (4, 8, 32)
    assert space.resized(bits=(2, 4)).all_bits == (2, 4, 8, 32)
    for wrong, says in (([9], r"layer tail\.1: 9 is not a bit width"), ([8, 8], "given twice"), ([], "tail.1.bits")):
        layers["tail.1"]["bits"] = wrong
        with pytest.raises(UsageError, match=says) as refused:
            load_space(_edited(tmp_path, layers=layers))
        assert "\n" not in str(refused.value)


def test_the_ends_of_a_space_read_or_make_the_picture(tmp_path: Path) -> None:
    basic, rfdn = load_space("basic"), load_space("rfdn")
    assert basic.wiring.ends == ("head.0", "upsample.0", "tail.1")
    assert rfdn.wiring.ends == ("upsample.0", "tail.0")
    wide = rfdn.with_ends(8)
    assert {s.name for s in wide.wiring.sites if s.bits == (8,)} == set(rfdn.wiring.ends)
    assert {s.bits for s in wide.wiring.sites} == {(8,), (4, 8)}
    assert {s.bits for s in rfdn.resized(bits=(2, 4)).with_ends(8).wiring.sites} == {(8,), (2, 4)}
    assert {s.bits for s in rfdn.resized(bits=(32,)).with_ends(8).wiring.sites} == {(32,)}
    layers = yaml.safe_load((SPACES / "basic.yaml").read_text())["layers"]
    layers["head.0"]["bits"] = [4]
    kept = load_space(_edited(tmp_path, layers=layers)).with_ends(8)
    assert [s.bits for s in kept.wiring.sites if s.name in kept.wiring.ends] == [(4,), (8,), (8,)]
    assert '"space":"rfdn"' in Genotype.uniform(wide, "simple_3x3", 8).to_json()


def test_an_unknown_space_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="rfdn"):
        load_space("rfdm")


def test_genotype_survives_json_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    space = load_space("basic").resized(width=12, cells=1)
    genotype = Genotype.uniform(space, "simple_3x3", 4, adq=True)
    genotype.save(tmp_path / "g.json")
    assert Genotype.load(tmp_path / "g.json") == genotype
    assert '"space":"basic"' in genotype.to_json()
    with pytest.raises(UsageError, match=r"simple_7x7.*not one of its candidates"):
        Genotype.of(space, genotype.layers | {"tail.0": Choice("simple_7x7", 4)}, adq=False)
    with pytest.raises(UsageError, match=r"head\.0 has no choice"):
        Genotype.of(space, {k: v for k, v in genotype.layers.items() if k != "head.0"}, adq=False)
    (tmp_path / "bad.json").write_text("__import__('os')")
    with pytest.raises(UsageError, match="no genotype"):
        Genotype.load(tmp_path / "bad.json")


def test_checkpoint_is_recognised_by_its_genotype(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SearchedNetwork(Genotype.uniform(load_space("basic").resized(width=12, cells=1), "simple_3x3", 8)).eval()
    units = [m for m in network.modules() if isinstance(m, ConvUnit)]
    units[1].clip_at(0.05)
    save_network(tmp_path / "found.safetensors", network)
    loaded = load_checkpoint(tmp_path / "found.safetensors")
    x = torch.rand(1, 3, 16, 17)
    assert loaded.architecture == "searched-basic"
    assert torch.equal(loaded.module(x), network(x))
    units[1].clip_at(0.0)
    assert not torch.equal(loaded.module(x), network(x))
    assert isinstance(loaded.workload, SuperResolution)
    with pytest.raises(CheckpointError, match="x4"):
        load_checkpoint(tmp_path / "found.safetensors", scale=2)


def test_halo_is_enough_for_exact_tiles() -> None:
    torch.manual_seed(0)
    network = SearchedNetwork(Genotype.uniform(load_space("basic").resized(width=6, cells=1), "simple_3x3", 8)).eval()
    halo = network.io.halo
    assert halo is not None
    x = torch.rand(1, 3, 40, 12)
    with torch.no_grad():
        whole, part = network(x), network(x[:, :, : 20 + halo])
    assert torch.allclose(whole[:, :, :80], part[:, :, :80], atol=1e-6)
    with_adq = Genotype.uniform(load_space("basic").resized(width=6), "simple_3x3", 8, adq=True)
    assert SearchedNetwork(with_adq).io.halo is None


def test_adq_at_its_start_multiplies_by_one_and_a_half_deviations() -> None:
    torch.manual_seed(0)
    adq, x, branch = ADQ(5), torch.randn(2, 5, 7, 6) * 3, torch.randn(2, 5, 7, 6)
    gain = (adq.rejoin(x, branch) - x) / branch
    for sample in range(2):
        expected = 1.5 * x[sample].double().std().float()
        assert torch.allclose(gain[sample], expected.expand_as(gain[sample]), rtol=1e-3)


def test_adq_leaves_a_constant_input_alone_with_finite_gradients() -> None:
    adq = ADQ(5)
    x = torch.full((2, 5, 7, 6), 0.3, requires_grad=True)
    y = adq.rejoin(x, torch.ones(2, 5, 7, 6))
    assert torch.equal(y, x)
    y.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_adq_freezes_running_statistics_on_request() -> None:
    adq = ADQ(3)
    x = torch.randn(2, 3, 8, 8) + 5
    adq.learning_statistics = False
    normalised = adq.normalise(x)
    assert torch.equal(adq.norm.running_mean, torch.zeros(3))
    assert abs(float(normalised.mean())) < 1e-5
    adq.learning_statistics = True
    adq.normalise(x)
    assert float(adq.norm.running_mean.mean()) > 0.1
