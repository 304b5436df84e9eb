"""What each device of the catalogue executes, read as a form and widths; costs there; and the plan that is chosen."""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
import pytest
import torch

from bitwright.foundation.errors import ConstraintError, UsageError
from compress.layer_table import LayerTable
from compress.plan import LayerPlan, Placement, Plan
from hw_profiles import DeviceKind, load_profile, profile_ids
from search.eqnet.accounting import Accounting
from search.eqnet.cqap import CqapSettings, train_cqap
from search.eqnet.device_search import DeviceSearchSettings, search_device
from search.eqnet.devices import DeviceChoice, device_choice, device_cost, illegal_layers
from search.eqnet.encoder import Bits, bits_of, configuration_of, forms_of
from search.eqnet.export import Target, export
from search.eqnet.forms import activation_grid, weight_grid
from search.eqnet.genetic import GeneticSettings
from search.eqnet.norms import Calibrator
from search.eqnet.predictor import Predictor
from search.eqnet.repair import Limit
from search.eqnet.samples import collect
from search.eqnet.space import ALL_BITS, Configuration, ElasticSpace
from search.eqnet.subnets import Subnets
from tests.search.eqnet.helpers import SIDE, images, resnet_graph, supernet_of

TABLE = LayerTable.from_graph(resnet_graph(), torch.zeros(1, 3, SIDE, SIDE))
SPACE = ElasticSpace.of(resnet_graph(), ALL_BITS)
X86 = "x86-avx512-vnni-bf16"


def _choice(device: str, *, native_only: bool = True, runtime: str | None = None) -> DeviceChoice:
    profile = load_profile(device)
    engine = profile.runtimes[0].engine.value if runtime is None else runtime
    return device_choice(profile, engine, TABLE, SPACE, native_only=native_only)


IN_FLOAT_ONLY = "rtx-2080-ti"


def test_a_device_without_integer_kernels_is_refused() -> None:
    with pytest.raises(UsageError, match=f"{IN_FLOAT_ONLY} executes no layer of this network on 8-bit integers"):
        _choice(IN_FLOAT_ONLY)


@pytest.mark.parametrize("device", [name for name in profile_ids() if name != IN_FLOAT_ONLY])
def test_every_device_of_the_catalogue_gets_a_legal_plan(device: str) -> None:
    choice = _choice(device)
    assert choice.form.weight_symmetric
    if choice.profile.kind is DeviceKind.FPGA:
        assert list(choice.allowed.values()) == [(layer.weight_bits, layer.activation_bits) for layer in SPACE.layers]
        assert choice.has_choice
    else:
        assert all(widths == ((8,), (8,)) for widths in choice.allowed.values())
        assert not choice.has_choice
    supernet = supernet_of(resnet_graph(), images(), ALL_BITS)
    target = Target("test", device, choice.runtime, unsigned=choice.unsigned, reduce_range=choice.reduce_range)
    plan = export(supernet, SPACE.uniform(8, choice.form), target).plan
    plan = plan.with_float(set(choice.in_float), "no rule")
    assert illegal_layers(plan, choice.profile, TABLE) == []
    other = export(supernet, SPACE.uniform(8, choice.form), dataclasses.replace(target, unsigned=not choice.unsigned))
    assert illegal_layers(other.plan, choice.profile, TABLE)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_narrow_inputs_that_may_be_negative_are_legal_where_inputs_are_symmetric(bits: int) -> None:
    choice = _choice("fpga-dataflow")
    assert choice.form.activation_symmetric
    signed = activation_grid(bits, symmetric=True, signed=True)
    layer = LayerPlan(weight=weight_grid(bits, choice.form.granularity, symmetric=True), activation=signed)
    plan = Plan(architecture="test", device="fpga-dataflow", runtime=choice.runtime, float_precision="fp32",
                placement=Placement.INPUTS, layers=dict.fromkeys((row.name for row in TABLE.rows), layer))  # fmt: skip
    assert illegal_layers(plan, choice.profile, TABLE) == []


def test_forms_differ_between_devices_as_their_runtimes_do() -> None:
    graphics, pocket, server = _choice("rtx-4090"), _choice("raspberry-pi-5"), _choice(X86)
    assert graphics.form.name == "channel-sym-sym"
    assert pocket.form.name == server.form.name == "channel-sym-asym"
    assert (graphics.unsigned, pocket.unsigned, server.unsigned) == (False, False, True)
    assert _choice("x86-avx2").reduce_range
    assert not server.reduce_range


def test_emulated_widths_are_told_and_every_pair_of_them_is_legal() -> None:
    choice = _choice(X86, native_only=False)
    assert choice.has_choice
    weights, inputs = choice.allowed["layer1.0.conv1"]
    legal = choice.profile.legal_bits("conv", choice.runtime, native_only=False)
    assert {(w, a) for w in weights for a in inputs} <= set(legal)
    assert len(weights) * len(inputs) > 1
    assert choice.runs_as["int4"] == "int8"
    assert choice.allowed["conv1"] == ((8,), (8,))


def test_a_device_without_integers_for_the_network_is_refused() -> None:
    with pytest.raises(UsageError, match="executes no layer of this network"):
        _choice(X86, runtime="tensorrt")


def test_costs_are_estimated_where_the_profile_has_figures_and_counted_elsewhere() -> None:
    server = _choice(X86)
    cost = device_cost(server, TABLE, SPACE, resnet_graph(), "bf16")
    member = bits_of([SPACE.uniform(8, server.form)])
    assert (cost.unit, "estimated" in cost.source) == ("ms", True)
    assert 0 < float(cost(member)[0]) < 10
    bare = _choice("arm-dotprod")
    counted = device_cost(bare, TABLE, SPACE, resnet_graph(), "fp32")
    assert counted.unit == "BitOps"
    assert "no peak" in counted.source
    assert float(counted(member)[0]) == 64 * TABLE.macs


def test_widths_that_are_stored_and_run_as_int8_cost_what_int8_costs_and_no_conversion() -> None:
    choice = _choice(X86, native_only=False, runtime="openvino")
    cost = device_cost(choice, TABLE, SPACE, resnet_graph(), "bf16")
    mixed = [list(numbers) for numbers in SPACE.uniform(8, choice.form).numbers]
    for number in SPACE.free[::2]:
        mixed[number][0] = 4
    costs = cost(bits_of([SPACE.uniform(8, choice.form), Configuration.of(mixed)]))
    assert costs[0] == costs[1] > 0


def test_a_plan_in_a_form_that_the_device_lacks_is_named() -> None:
    choice = _choice("rtx-4090")
    supernet = supernet_of(resnet_graph(), images(), ALL_BITS)
    plan = export(supernet, SPACE.uniform(4, choice.form), Target("test", "rtx-4090", "tensorrt", unsigned=False)).plan
    complaints = illegal_layers(plan, choice.profile, TABLE)
    assert len(complaints) == len(SPACE.free)
    assert "4-bit weights" in complaints[0]
    left = plan.model_copy(update={"layers": dict.fromkeys(plan.layers, LayerPlan(reason="float"))})
    assert illegal_layers(left, choice.profile, TABLE) == []


def _quality(configuration: Configuration) -> float:
    bits = bits_of([configuration])[0].astype(float)
    return float(90 - (2.0 ** -(bits - 2)).sum() + 0.0 * forms_of([configuration])[0])


def test_the_chosen_plan_keeps_its_budget_and_is_the_truly_best_of_those_checked() -> None:
    choice = _choice(X86, native_only=False)
    accounting = Accounting.of(TABLE, SPACE)
    samples = collect(SPACE, accounting, _quality, 120, seed=0, owner="toy")
    net, _ = train_cqap(SPACE, samples, CqapSettings(epochs=20))
    cost = accounting.bitops()
    ends = [float(cost(bits_of([SPACE.uniform(b, choice.form)]))[0]) for b in (2, 8)]
    budget = 0.5 * sum(ends)
    quick = GeneticSettings(population=20, generations=8, parents=5)
    settings = DeviceSearchSettings(budget=budget, verified=5, candidates=100, steps_of_front=1, genetic=quick)
    found = search_device(choice, SPACE, cost, net, _quality, settings)
    assert found.cost <= budget
    assert found.chosen.true == max(v.true for v in found.checked)
    assert len(found.checked) <= 5
    for layer, one in zip(SPACE.layers, found.chosen.configuration.layers, strict=True):
        weights, inputs = choice.allowed[layer.name]
        assert one.weight_bits in weights
        assert one.activation_bits in inputs
    free = search_device(choice, SPACE, cost, net, _quality, dataclasses.replace(settings, budget=None, tolerance=50.0))
    prices = [float(cost(bits_of([v.configuration]))[0]) for v in free.checked]
    assert free.cost == min(prices)
    with pytest.raises(ConstraintError, match="cannot be reached"):
        search_device(choice, SPACE, cost, net, _quality, dataclasses.replace(settings, budget=1.0))
    size = accounting.size()
    whole = float(size(bits_of([SPACE.uniform(8, choice.form)]))[0])
    small = dataclasses.replace(settings, limits=(Limit.of(size, 0.6 * whole),))
    for one in (small, dataclasses.replace(small, budget=None)):
        found = search_device(choice, SPACE, cost, net, _quality, one)
        assert 0.5 * whole < float(size(bits_of([found.chosen.configuration]))[0]) <= 0.6 * whole
        assert found.cost <= budget or one.budget is None
    only = search_device(_choice(X86), SPACE, cost, None, _quality, dataclasses.replace(settings, budget=None))
    assert only.chosen.configuration == SPACE.uniform(8, choice.form)
    assert np.isclose(only.cost, ends[1])


def test_members_that_are_evaluated_reach_to_the_cheapest_that_may_be_near_the_best() -> None:
    choice = _choice(X86, native_only=False)
    accounting = Accounting.of(TABLE, SPACE)
    cost = accounting.bitops()

    class Exact:
        """Predicts the truth."""

        def quality(self, bits: Bits, form: object) -> np.ndarray:
            return np.array([_quality(configuration_of(b, choice.form)) for b in bits])

    settings = DeviceSearchSettings(
        tolerance=1.0, verified=3, candidates=3000, steps_of_front=1,
        genetic=GeneticSettings(population=20, generations=8, parents=5),
    )  # fmt: skip
    found = search_device(choice, SPACE, cost, cast("Predictor", Exact()), _quality, settings)
    assert len(found.checked) == 3
    assert found.checked[0].true == found.front[-1].quality
    assert found.chosen.true >= found.checked[0].true - 1.0
    # Of the three best predicted none is as cheap.
    assert found.cost < min(m.cost for m in found.front[-3:])
    # What costs nothing in the task's metric is not paid for: all that is near the best there is equal.
    flat = search_device(
        choice, SPACE, cost, cast("Predictor", Exact()), _quality, settings,
        lambda quality: min(quality, found.checked[0].true - 2.0),
    )  # fmt: skip
    assert flat.chosen.true < found.chosen.true
    assert flat.chosen.true >= found.checked[0].true - 4.0
    assert flat.cost < found.cost


def test_quality_of_a_subnet_is_that_of_its_exported_integers() -> None:
    supernet, held_out = supernet_of(resnet_graph(), images()), images(12, seed=8)
    with torch.no_grad():
        Calibrator(supernet, images(32, seed=9), batch=16).choose(supernet.space.uniform(8, _choice("rtx-4090").form))
        exact = supernet(held_out)

    def evaluate(predict: object) -> float:
        assert callable(predict)
        with torch.no_grad():
            return -float((predict(held_out) - exact).norm() / exact.norm())

    subnets = Subnets(supernet, images(32, seed=9), evaluate, batch=16)
    low, high = (supernet.space.uniform(bits, _choice(X86).form) for bits in (2, 8))
    first = subnets.quality(low)
    assert first < subnets.quality(high)
    assert subnets.quality(low) == first
    assert subnets.calibrator.taken == 2
    assert evaluate(subnets.export(high, Target("test")).simulate()) == pytest.approx(subnets.quality(high), abs=2e-3)
