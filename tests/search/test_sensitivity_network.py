"""Sensitivities and fronts of real networks: equal to naive simulation, additive, resumable, non-dominated."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes, tensor, weight_name
from compress.layer_table import LayerTable
from compress.placement import place
from compress.plan import Cost, LayerPlan, Placement, Plan
from compress.quantizers import A8, W8
from compress.ranges import set_ranges
from compress.statistics import collect
from hw_profiles import load_profile
from search.sensitivity.additivity import Agreement, check_additivity
from search.sensitivity.cost import roofline_cost
from search.sensitivity.groups import GroupKind, edges, groups, ties
from search.sensitivity.measure import all_options, measure
from search.sensitivity.precision import Alternatives, assignment_of
from search.sensitivity.proxy import proxy_errors
from search.sensitivity.quality import QualityModel
from search.sensitivity.search import SearchSettings, native_precisions, refit_front, sensitivity_front
from search.sensitivity.sensitivities import Sensitivities
from search.sensitivity.variants import Variant, float_values
from workloads.loading import load_checkpoint

PROFILE = "x86-avx512-vnni-bf16"


class Skips(nn.Module):
    """Repeated blocks, a weight that is called twice, a tensor with two readers, a gate and an upsampling tail."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.b1 = nn.ModuleDict({"c1": nn.Conv2d(8, 8, 3, padding=1), "c2": nn.Conv2d(8, 8, 1, bias=False)})
        self.b2 = nn.ModuleDict({"c1": nn.Conv2d(8, 8, 3, padding=1), "c2": nn.Conv2d(8, 8, 1, bias=False)})
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.tail = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.shared(self.head(x)))
        for block in (self.b1, self.b2):
            x = torch.relu(block["c1"](x)) * torch.sigmoid(block["c2"](x)) + x
        return self.tail(self.shared(x))


def compressed(graph, inputs: Tensor, bits: int = 8, placement: Placement = Placement.INPUTS) -> CompressedModel:
    forms = W8.model_copy(update={"bits": bits}), A8.model_copy(update={"bits": bits})
    plan = Plan(
        architecture="test",
        device=PROFILE,
        runtime="openvino",
        float_precision="fp32",
        placement=placement,
        layers={name: LayerPlan(weight=forms[0], activation=forms[1]) for name, _ in layer_nodes(graph)},
    )
    return set_ranges(graph, plan, collect(graph, inputs, {s.tensor.name for s in place(graph, plan)}))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    graph = capture(Skips().eval(), torch.rand(1, 3, 16, 16))
    inputs = torch.rand(6, 3, 16, 16)
    return graph, inputs


@pytest.fixture(scope="module")
def espcn(data):
    loaded = load_checkpoint(data / "checkpoints" / "espcn_x4.pth")
    graph = capture(loaded.module, loaded.workload.example_input(32, 32))
    inputs = loaded.workload.calibration(data / "sr" / "train" / "BSDS500", 6, 32, 0)
    return loaded, graph, inputs


def naive(model: CompressedModel, graph, inputs: Tensor, layers: set[str]) -> float:
    alternatives = Alternatives.of(model, graph)
    chosen = {n: "int8" if n in layers else "fp32" for n in alternatives.layers}
    module = alternatives.realise(alternatives.plan(chosen, "fp32")).simulate()
    with torch.inference_mode():
        return float((module(inputs) - graph(inputs)).double().square().mean())


@pytest.mark.parametrize("placement", list(Placement))
def test_a_variant_computes_what_the_simulated_model_does(small, placement):
    graph, inputs = small
    alternatives = Alternatives.of(compressed(graph, inputs, placement=placement), graph)
    values = float_values(graph, inputs)
    for layers in ({"head"}, {"b1.c1", "tail"}, {"shared", "shared#2"}, set(alternatives.layers)):
        plan = alternatives.plan({n: "int8" if n in layers else "fp32" for n in alternatives.layers}, "fp32")
        variant = Variant.of(alternatives, plan)
        with torch.inference_mode():
            simulated = alternatives.realise(plan).simulate()(inputs)
        torch.testing.assert_close(variant.predict(graph, inputs), simulated, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(variant.again(graph, inputs, values), simulated, rtol=1e-5, atol=1e-6)


def test_sensitivities_equal_the_naive_ones(espcn):
    _, graph, inputs = espcn
    model = compressed(graph, inputs)
    alternatives = Alternatives.of(model, graph)
    found = measure(alternatives, inputs, all_options(alternatives, ["fp32"]), groups(graph), memory_bytes=2**24)
    for name in alternatives.layers:
        assert found.errors[name, "int8"] == pytest.approx(naive(model, graph, inputs, {name}), rel=1e-5)
    network = next(g for g in found.groups if g.group.kind is GroupKind.NETWORK)
    assert network.error == pytest.approx(naive(model, graph, inputs, set(network.group.layers)), rel=1e-5)
    assert network.summed == pytest.approx(network.error, rel=0.2)


def test_a_layer_left_in_float_has_its_float_weight_and_bias_back(small):
    graph, inputs = small
    model = compressed(graph, inputs, bits=3)
    for name, weight in model.weights.items():
        tensor(model.graph, name).copy_(weight.values)
    alternatives = Alternatives.of(model, graph)
    found = alternatives.realise(alternatives.plan(dict.fromkeys(alternatives.layers, "fp32"), "fp32"))
    assert torch.equal(found.simulate()(inputs), graph(inputs))


def test_bf16_layers_lose_a_little_and_fp32_ones_nothing(small):
    graph, inputs = small
    alternatives = Alternatives.of(compressed(graph, inputs), graph)
    found = measure(alternatives, inputs, all_options(alternatives, ["bf16", "fp32"])).errors
    assert {p for _, p in found} == {"int8", "bf16"}
    assert 0.0 < found["head", "bf16"] < 1e-3
    weight = tensor(graph, "tail.weight")
    calls = dict(layer_nodes(graph))
    assert weight_name(calls["tail"]) == "tail.weight"
    reference = graph(inputs)
    values = float_values(graph, inputs)
    source = values[calls["tail"].args[0].name]
    rounded = nn.functional.conv_transpose2d(
        source.bfloat16().float(), weight.bfloat16().float(), tensor(graph, "tail.bias"), stride=2, padding=1
    )
    expected = float((rounded.bfloat16().float() - reference).double().square().mean())
    assert found["tail", "bf16"] == pytest.approx(expected, rel=1e-5)


def test_groups_follow_the_structure(small):
    graph, _ = small
    found = {group.name: group for group in groups(graph)}
    assert [g.layers for g in ties(graph)] == [("shared", "shared#2")]
    assert found["input relu"].layers == ("b1.c1", "b1.c2")
    assert found["pattern b*.c1"].layers == ("b1.c1", "b2.c1")
    assert found["network"].layers == ("head", "shared", "b1.c1", "b1.c2", "b2.c1", "b2.c2", "shared#2", "tail")
    assert ("shared", "b1.c1") in edges(graph)
    assert ("b1.c1", "b2.c1") in edges(graph)
    assert ("head", "b1.c1") not in edges(graph)


def test_the_proxy_ranks_layers_like_the_measurement(espcn):
    _, graph, inputs = espcn
    alternatives = Alternatives.of(compressed(graph, inputs), graph)
    options = all_options(alternatives, ["bf16"])
    guessed, found = proxy_errors(alternatives, inputs, options), measure(alternatives, inputs, options).errors
    pairs = [(guessed[option], found[option]) for option in options]
    assert Agreement.of(pairs).kendall > 0.6


def test_errors_add_up_on_random_plans(espcn):
    _, graph, inputs = espcn
    alternatives = Alternatives.of(compressed(graph, inputs), graph)
    quality = QualityModel.of(measure(alternatives, inputs, all_options(alternatives, ["fp32"])))
    allowed = dict.fromkeys(alternatives.layers, ("int8", "fp32"))
    agreement = check_additivity(alternatives, quality, allowed, "fp32", inputs, plans=8)
    assert agreement.pearson > 0.99
    assert agreement.relative < 0.1


def front_of(model, graph, inputs, evaluate=None, **options):
    alternatives = model if isinstance(model, Alternatives) else Alternatives.of(model, graph)
    table = LayerTable.from_graph(graph, torch.zeros(1, inputs.shape[1], 128, 128))
    profile = load_profile(PROFILE)
    allowed = native_precisions(profile, "openvino", alternatives, {row.name: row.op for row in table.rows})
    precisions = {n: tuple(dict.fromkeys(p for a in allowed.values() for p in a[n])) for n in alternatives.layers}
    cost = roofline_cost(table, edges(graph), precisions, profile, "openvino")
    front = sensitivity_front(
        alternatives, graph, inputs, evaluate, cost, source=cost.source, allowed=allowed, **options
    )
    return alternatives, allowed, front


def test_a_front_is_monotone_resumable_and_refitted(small, tmp_path):
    graph, inputs = small
    saved = []
    settings = SearchSettings(budgets=12)
    model = compressed(graph, inputs)
    alternatives, allowed, front = front_of(model, graph, inputs, settings=settings, on_sensitivities=saved.append)
    assert set(allowed) == {"bf16", "fp32"}
    assert len(front.points) >= 6
    for a, b in pairwise(front.points):
        assert a.predicted_ms < b.predicted_ms
        assert a.predicted_drop > b.predicted_drop
    for point in front.points:
        assert point.assignment["shared"] == point.assignment["shared#2"]
        assert point.plan.cost == Cost(predicted_ms=point.predicted_ms, source="roofline (estimated)")
        assert set(point.assignment.values()) <= {"int8", point.plan.float_precision}
    saved[0].to_json(tmp_path / "s.json")
    known = Sensitivities.from_json(tmp_path / "s.json")
    assert known == saved[0]
    again = front_of(model, graph, inputs, settings=settings, known=known, on_sensitivities=saved.append)[2]
    assert again.points == front.points
    assert len(saved) == 1
    measured = [p.measured(2.0 * p.predicted_ms, None) for p in front.points]
    better = refit_front(front, alternatives, graph, measured, allowed=allowed, budgets=12)
    for point in better.points:
        assert better.cost.ms(point.assignment) == pytest.approx(2.0 * front.cost.ms(point.assignment), rel=0.05)
    assert any(p.measured_ms is not None and p.plan.cost.measured_ms == p.measured_ms for p in better.points)


def test_drops_come_in_the_unit_of_the_metric(espcn, data):
    loaded, graph, inputs = espcn
    samples = loaded.workload.samples(data / "sr" / "test" / "Set5", limit=2)
    model = compressed(graph, inputs)

    def evaluate(predict):
        with torch.inference_mode():
            return loaded.workload.evaluate(predict, samples).mean

    _, _, front = front_of(model, graph, inputs, evaluate, settings=SearchSettings(budgets=8, anchors=2))
    assert front.reference_quality == pytest.approx(evaluate(graph))
    whole = dict.fromkeys(assignment_of(model.plan), "int8")
    assert front.quality.drop(whole) == pytest.approx(evaluate(graph) - evaluate(model.simulate()), rel=0.3)


def test_widths_mix_and_each_keeps_its_own_ranges(small):
    graph, inputs = small
    models = {f"int{bits}": compressed(graph, inputs, bits) for bits in (4, 8)}
    alternatives = Alternatives(models, graph).checked()
    chosen = dict.fromkeys(alternatives.layers, "int8") | {"head": "int4", "b1.c1": "fp32"}
    plan = alternatives.plan(chosen, "fp32")
    assert assignment_of(plan) == chosen
    model = alternatives.realise(plan)
    assert torch.equal(model.weights["head.weight"].integers, models["int4"].weights["head.weight"].integers)
    expected = models["int4"].activations["x"].scale
    assert model.activations["x"].scale == expected
    simulated = model.simulate()(inputs)
    torch.testing.assert_close(Variant.of(alternatives, plan).predict(graph, inputs), simulated, rtol=1e-5, atol=1e-6)


def test_only_what_matters_is_measured_when_asked(small):
    graph, inputs = small
    model = compressed(graph, inputs)
    _, _, whole = front_of(model, graph, inputs, settings=SearchSettings(budgets=6))
    _, _, part = front_of(model, graph, inputs, settings=SearchSettings(budgets=6, measured_share=0.7))
    guessed = [o for o in part.sensitivities.options if not o.measured]
    assert 0 < len(guessed) < len(part.sensitivities.options)
    exact = whole.sensitivities.errors
    for option in guessed:
        assert 0.1 < option.error / exact[option.layer, option.precision] < 10
    assert part.sensitivities.matrix().shape == (len(exact), len(exact))


def test_bad_input_is_one_clear_error(small, tmp_path):
    graph, inputs = small
    model = compressed(graph, inputs)
    with pytest.raises(UsageError, match="differ"):
        Alternatives.of(model, capture(nn.Sequential(nn.Conv2d(3, 3, 1)).eval(), torch.rand(1, 3, 8, 8)))
    with pytest.raises(UsageError, match=r"head cannot be int2"):
        Alternatives.of(model, graph).plan(dict.fromkeys(Alternatives.of(model, graph).layers, "int2"), "fp32")
    (tmp_path / "s.json").write_text('{"options": []}')
    with pytest.raises(UsageError, match=r"s\.json holds no sensitivities"):
        Sensitivities.from_json(tmp_path / "s.json")
    with pytest.raises(UsageError, match="measured_share"):
        SearchSettings(measured_share=0.0)


def test_a_plan_without_cost_still_loads_and_float_edits_forget_the_cost(tmp_path, small):
    graph, inputs = small
    plan = compressed(graph, inputs).plan
    text = plan.model_dump(mode="json")
    del text["cost"]
    assert Plan.model_validate(text) == plan
    priced = plan.model_copy(update={"cost": Cost(predicted_ms=3.0, measured_ms=4.0, source="table")})
    priced.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == priced
    assert priced.with_float({"head"}, "test").cost is None
