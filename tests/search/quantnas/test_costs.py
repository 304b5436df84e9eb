"""Cost tables against the golden figures of the method."""

from __future__ import annotations

import itertools

import pytest
import torch

from bitwright.foundation.errors import ConstraintError, UsageError
from hw_profiles import Emulation, load_profile
from hw_profiles.kernel import Kernel, TensorType
from hw_profiles.latency_table import LatencyRow, LatencyTable, Quantiles
from search.quantnas import Where, bitops_costs, derive_within, latency_costs, network_bitops
from search.quantnas.cost_table import fixed_macs
from search.quantnas.latency_costs import native_widths, off_step
from workloads.super_resolution.models.searched import Choice, Genotype, SearchSpace, load_space


def _published() -> Genotype:
    layers = {
        "head.0": Choice("simple_3x3_grouped_3", 8),
        "head.1": Choice("simple_3x3", 8),
        "upsample.0": Choice("conv_3x1_1x3", 8),
        "tail.0": Choice("simple_3x3", 8),
        "tail.1": Choice("simple_3x3", 8),
    }
    for cell in range(3):
        layers[f"cells.{cell}.body.0"] = Choice("simple_3x3", 4)
        layers[f"cells.{cell}.body.1"] = Choice("conv_3x1_1x3", 4)
        layers[f"cells.{cell}.skip.0"] = Choice("simple_1x1", 8)
    return Genotype.of(load_space("basic"), layers, adq=False)


def test_published_architecture_has_the_published_bitops() -> None:
    assert network_bitops(_published(), 32, 32) == 4_628_938_752
    assert network_bitops(_published(), 256, 256) == 64 * 4_628_938_752


def test_rfdn_space_counts_what_rfdn_does() -> None:
    space = load_space("rfdn")
    macs = sum(
        s.operations[s.tokens.index("simple_1x1" if "skip" in s.name else "simple_3x3")].macs_per_position
        * (256 * s.factor) ** 2
        for s in space.wiring.sites
    )
    assert macs == 21_375_221_760
    assert fixed_macs(space, 256, 256) == 3_620_388_096


def test_rfdn_space_bounds() -> None:
    table = bitops_costs(load_space("rfdn"))
    assert table.least == pytest.approx(0.399e9, rel=2e-3)
    assert table.most == pytest.approx(196.3e9, rel=2e-4)
    assert table.fixed == pytest.approx(3.594e9, rel=2e-4)


def test_expectation_is_exact_for_one_hot_and_uniform_mixtures() -> None:
    space = load_space("basic")
    table, genotype = bitops_costs(space), _published()
    alphas = {}
    for site in space.wiring.sites:
        choice = genotype.layers[site.name]
        alphas[site.name] = torch.zeros(len(site.operations), 2, dtype=torch.float64)
        alphas[site.name][site.tokens.index(choice.operation), space.bits.index(choice.bits)] = 1
    assert float(table.expected(alphas)) == table.of(genotype) == 4_628_938_752
    # At 32x32, 8 bits beside 4: 40 a multiply-accumulate on average. Positions: 1024, in the tail 16 times as many.
    head = (3 * 36 + 36 * 36) * (9 + 25 + 9 / 3 + 25 / 3) / 4
    body = 3 * 2 * 36 * 36 * (10 + 6 + 9 + 25) / 4
    skip = 3 * 36 * 36 * (1 + 9 + 25) / 3
    upsample = ((36 * 36 + 36 * 48) * (5 + 3) + 36 * 48 * (9 + 25)) / 4
    tail = 16 * 2 * 3 * 36 * (1 + 9 + 25) / 3
    by_hand = 1024 * 40 * (head + body + skip + upsample + tail)
    assert table.uniform() == pytest.approx(by_hand, rel=1e-6)


def test_cost_falls_as_mass_moves_to_fewer_bits() -> None:
    table = bitops_costs(load_space("basic"))
    alphas = {n: torch.full_like(c, 1 / c.numel()) for n, c in table.costs.items()}
    seen = []
    for share in (0.0, 0.2, 0.5, 1.0):
        moved = dict(alphas)
        one = alphas["tail.0"].clone()
        one[1, 0] += share * one[1, 1]
        one[1, 1] *= 1 - share
        moved["tail.0"] = one
        seen.append(float(table.expected(moved)))
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 4


def test_exponent_two_by_default_and_one_for_the_ablation() -> None:
    """The authors' search counts bits once, so that 4 bits look twice as cheap as 8 instead of four times."""
    space = load_space("basic")
    for exponent, ratio in ((2, 4.0), (1, 2.0)):
        costs = bitops_costs(space, exponent=exponent).costs["tail.0"]
        assert float(costs[1, 1] / costs[1, 0]) == ratio
    assert float(bitops_costs(space).costs["tail.0"][1, 1] / bitops_costs(space).costs["tail.0"][1, 0]) == 4
    with pytest.raises(UsageError, match="exponent"):
        bitops_costs(space, exponent=3)


def test_gradient_reaches_the_probabilities_only() -> None:
    table = bitops_costs(load_space("basic"))
    alphas = {n: torch.full_like(c, 1 / c.numel(), requires_grad=True) for n, c in table.costs.items()}
    table.expected(alphas).backward()
    assert torch.equal(alphas["tail.1"].grad, table.costs["tail.1"])


def test_budget_is_kept_by_changing_the_least_certain_layers() -> None:
    space = load_space("basic").resized(cells=1)
    table = bitops_costs(space)
    torch.manual_seed(0)
    logits = {s.name: torch.randn(2 * len(s.operations)) for s in space.wiring.sites}
    for site in space.wiring.sites:
        logits[site.name][-1] = 4.0
    logits["tail.0"][-1] = 40.0
    dear, none = derive_within(space, logits, table, table.most)
    assert none == 0
    assert dear.layers["tail.0"] == Choice("simple_5x5", 8)
    budget = 0.7 * table.of(dear)
    cheaper, changed = derive_within(space, logits, table, budget)
    assert table.of(cheaper) <= budget
    assert 0 < changed < len(space.wiring.sites)
    assert cheaper.layers["tail.0"] == Choice("simple_5x5", 8)
    with pytest.raises(ConstraintError, match="no network"):
        derive_within(space, logits, table, 0.9 * table.least)


X86 = "x86-avx512-vnni-bf16"


def test_latency_names_what_widths_run_as_and_counts_no_gain_where_there_is_none() -> None:
    space = load_space("rfdn")
    found = latency_costs(space, Where(load_profile(X86), "openvino"))
    assert found.runs_as == {4: "int8", 8: "int8"}
    assert found.native == {4: False, 8: True}
    assert native_widths(space, load_profile(X86), "openvino") == (8,)
    assert found.measured == 0.0
    assert "estimated" in found.table.source
    assert found.table.boundaries == ()
    with pytest.raises(UsageError, match="3-bit"):
        latency_costs(space.resized(bits=(3,)), Where(load_profile(X86), "openvino"))


def _row(ms: float) -> LatencyRow:
    """A measured 3x3 convolution of 48 channels in int8."""
    tensor = TensorType(shape=(1, 48, 64, 64), dtype="int8")
    kernel = Kernel(op="Convolution", precision="int8", inputs=(tensor,), outputs=(tensor,), window=(3, 3), macs=1)
    return LatencyRow(
        profile=X86, runtime="openvino", runtime_version="2026", threads=1, ms=Quantiles.of([ms]), n=1,
        source="test", fingerprint="here", created="now", kernel=kernel,
    )  # fmt: skip


def test_an_emulated_width_costs_what_it_is_executed_as() -> None:
    """4 bits are stored in bytes there: neither fewer bytes nor less work, estimated or corrected by a measurement."""
    profile, row = load_profile(X86), _row(7.0)
    rules = [r.model_copy(update={"emulation": Emulation(kind="container", slowdown=1.5)}) if r.id == "w4a4" else r
             for r in profile.precisions]  # fmt: skip
    slower = profile.model_copy(update={"precisions": tuple(rules)})
    for bits, measured in itertools.product(((4, 8), (8, 4)), (None, LatencyTable([row]))):
        space = load_space("rfdn").resized(bits=bits)
        assumed, known = (
            latency_costs(space, Where(p, "openvino", height=64, width=64), measured).table for p in (profile, slower)
        )
        for name, costs in assumed.costs.items():
            assert torch.equal(costs[:, 0], costs[:, 1]), name
            four, eight = known.costs[name][:, bits.index(4)], known.costs[name][:, bits.index(8)]
            torch.testing.assert_close(four, 1.5 * eight)
            assert torch.equal(eight, costs[:, 0])
        assert "slowdown of emulated w4a4 not measured, taken as 1" in assumed.source
        assert "slowdown" not in known.source


def test_latency_charges_a_change_of_precision_in_expectation() -> None:
    space = load_space("rfdn").resized(bits=(8, 32))
    table = latency_costs(space, Where(load_profile(X86), "openvino")).table
    assert len(table.boundaries) == len(space.wiring.edges)
    same = Genotype.uniform(space, "simple_3x3", 8)
    mixed = Genotype.of(space, same.layers | {"cells.1.body.1": Choice("simple_3x3", 32)}, adq=False)
    layer = table.costs["cells.1.body.1"]
    at = space.wiring.sites[0].tokens.index("simple_3x3")
    kernel_only = float(layer[at, 1] - layer[at, 0])
    assert table.of(mixed) - table.of(same) > kernel_only + 1e-3
    alphas = {n: torch.zeros_like(c) for n, c in table.costs.items()}
    for site in space.wiring.sites:
        alphas[site.name][site.tokens.index("simple_3x3"), 0] = 1
    assert float(table.expected(alphas)) == pytest.approx(table.of(same))


def test_measured_kernels_come_before_the_roofline_and_correct_it() -> None:
    space = load_space("rfdn").resized(bits=(8,))
    where = Where(load_profile(X86), "openvino", height=64, width=64)
    estimated = latency_costs(space, where)
    found = latency_costs(space, where, LatencyTable([_row(7.0)]))
    at = space.wiring.sites[1].tokens.index("simple_3x3")
    assert float(found.table.costs["cells.0.body.0"][at, 0]) == 7.0
    assert 0 < found.measured < 1
    ratio = 7.0 / float(estimated.table.costs["cells.0.body.0"][at, 0])
    assert float(found.table.costs["cells.0.body.0"][0, 0]) == pytest.approx(
        ratio * float(estimated.table.costs["cells.0.body.0"][0, 0])
    )


def test_a_measured_kernel_stands_for_its_own_stride_and_dilation_alone() -> None:
    where = Where(load_profile(X86), "openvino", height=64, width=64)
    tensor = TensorType(shape=(1, 48, 64, 64), dtype="int8")

    def measured(stride: tuple[int, int]) -> LatencyTable:
        kernel = Kernel(op="Convolution", precision="int8", inputs=(tensor,), outputs=(tensor,), window=(3, 3),
                        stride=stride, macs=1)  # fmt: skip
        return LatencyTable([LatencyRow(
            profile=X86, runtime="openvino", runtime_version="2026", threads=1, ms=Quantiles.of([7.0]), n=1,
            source="test", fingerprint="here", created="now", kernel=kernel,
        )])  # fmt: skip

    data = load_space("rfdn").resized(bits=(8,)).model_dump(by_alias=True)
    data["candidates"]["standard"] = ["simple_3x3", "simple_3x3_d2"]
    space = SearchSpace.model_validate(data | {"name": "dilated"})
    alike = [s for s in space.wiring.sites if (s.inputs, s.outputs, s.factor) == (48, 48, 1)]
    convs = sum(len(o.convs) for s in space.wiring.sites for o in s.operations)
    assert latency_costs(space, where, measured((1, 1))).measured == pytest.approx(len(alike) / convs)
    assert latency_costs(space, where, measured((2, 2))).measured == 0.0


def test_a_picture_too_small_for_attention_has_no_cost() -> None:
    space = load_space("rfdn")
    bitops_costs(space, height=15, width=15)
    for count in (
        lambda: bitops_costs(space, height=14, width=32),
        lambda: latency_costs(space, Where(load_profile(X86), "openvino", height=64, width=14)),
    ):
        with pytest.raises(UsageError, match="at least 15 pixels"):
            count()


def test_widths_off_the_devices_step_are_named() -> None:
    profile = load_profile(X86)
    assert set(off_step(load_space("rfdn"), profile)) == {
        f"cells.{c}.{n}" for c in range(4) for n in ("body.3", "skip.0", "skip.1", "skip.2")
    }
    assert "head.0" in off_step(load_space("basic"), profile)
    assert off_step(load_space("rfdn").resized(width=96), profile) == ()


def test_a_weighted_sum_of_costs_is_each_over_its_own_start() -> None:
    space = load_space("basic")
    work, time = bitops_costs(space), latency_costs(space, Where(load_profile(X86), "openvino")).table
    both = work.plus(time, 0.5, 100.0)
    assert both.uniform() == pytest.approx(150.0)
    genotype = _published()
    expected = 100 * (work.of(genotype) / work.uniform() + 0.5 * time.of(genotype) / time.uniform())
    assert both.of(genotype) == pytest.approx(expected)
