"""The supernet as a network, what is exported of it, and its space."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.foundation.errors import UsageError
from compress.bias_correction import correct_biases
from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes, tensor
from compress.plan import Placement
from search.eqnet.export import Target, export
from search.eqnet.forms import FORMS, Form, OffsetMode
from search.eqnet.sampling import sandwich
from search.eqnet.space import ALL_BITS, LIGHT_BITS, Configuration, ElasticSpace
from search.eqnet.supernet import trainable_graph
from tests.search.eqnet.helpers import images, resnet_graph, sr_graph, supernet_of

TARGET = Target("test")


def test_norms_are_kept_for_training_and_networks_without_them_are_prepared() -> None:
    kept = supernet_of(resnet_graph(), images())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in kept.modules()) == 7
    assert kept.has_norms
    assert not supernet_of(sr_graph(), images().sigmoid()).has_norms


def test_at_eight_bits_it_is_nearly_the_float_network_and_at_two_it_is_not() -> None:
    supernet, x = supernet_of(resnet_graph(), images()), images(8, seed=5)
    with torch.no_grad():
        exact = resnet_graph()(x)
        errors = []
        for bits in (8, 4, 2):
            supernet.choose(supernet.space.uniform(bits, FORMS[7]))
            errors.append(float((supernet(x) - exact).norm() / exact.norm()))
    assert errors[0] < 0.003
    assert 2 * errors[0] < errors[1] < errors[2]


def test_switching_there_and_back_reproduces_outputs_bit_by_bit(tmp_path: Path) -> None:
    supernet, x = supernet_of(resnet_graph(), images()), images(4, seed=2)
    with torch.no_grad():
        for form in FORMS:
            supernet.choose(supernet.space.uniform(8, form))
            before = supernet(x)
            supernet.choose(supernet.space.uniform(2, form))
            assert not torch.equal(supernet(x), before)
            supernet.choose(supernet.space.uniform(8, form))
            assert torch.equal(supernet(x), before)
        other = supernet_of(resnet_graph(), images(seed=9).abs())
        other.load_state_dict(supernet.state_dict())
        other.choose(other.space.uniform(8, FORMS[-1]))
        assert torch.equal(other(x), before)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_every_form_is_exported_as_integers_that_compute_the_same(form: Form, bits: int, tmp_path: Path) -> None:
    supernet, x = supernet_of(resnet_graph(), images()), images(4, seed=3)
    configuration = supernet.space.uniform(bits, form)
    model = export(supernet, configuration, TARGET)
    supernet.choose(configuration)
    with torch.no_grad():
        wanted, found = supernet(x), model.simulate()(x)
    # Biases are rounded to the integers that an engine adds.
    assert float((wanted - found).norm() / wanted.norm()) < (2e-3 if bits == 8 else 3e-2)
    for name, weight in model.weights.items():
        assert weight.integers.min() >= weight.form.qmin
        assert weight.integers.max() <= weight.form.qmax
        assert weight.form.bits == (8 if name in ("conv1.weight", "linear.weight") else bits)
    assert model.weights["linear.weight"].form.granularity is form.granularity
    model.save(tmp_path / "model.safetensors")
    loaded = CompressedModel.load(tmp_path / "model.safetensors", model.graph)
    with torch.no_grad():
        assert torch.equal(loaded.simulate()(x), found)


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_fake_quantised_layers_equal_integer_arithmetic(form: Form) -> None:
    """int32 accumulation of the four terms of the product (section 3.7), weights with and without zero point."""
    supernet = supernet_of(sr_graph(), images().sigmoid())
    configuration = supernet.space.uniform(4, form)
    supernet.choose(configuration)
    layer = supernet.space.layers[1]
    quantizer, reader = supernet.weights[layer.weight], supernet.activations[layer.source]
    x = torch.rand(2, 6, 9, 9) * 2
    weight = quantizer.quantized(tensor(supernet.graph, layer.weight))
    params, grid = reader.params(), reader.grid
    qx = torch.clamp(torch.round(x / params.scale) + params.zero_point, grid.qmin, grid.qmax).to(torch.int64)
    qw = weight.integers.to(torch.int64)
    zw = weight.params.zero_point.reshape(-1, 1, 1, 1).to(torch.int64).expand(qw.shape[0], 1, 1, 1)
    ones = torch.ones_like(qw)

    def conv(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        # Zero padding is padding with the zero point: only because 0.0 is exact may it be done on the integers.
        padded = nn.functional.pad(a, (1, 1, 1, 1), value=int(params.zero_point) if a is qx else 1)
        return nn.functional.conv2d(padded.double(), b.double()).to(torch.int64)

    zx, by_channel = int(params.zero_point), zw.reshape(1, -1, 1, 1)
    each = conv(torch.ones_like(qx), qw)
    total = conv(qx, qw) - by_channel * conv(qx, ones) - zx * each + by_channel * zx * conv(torch.ones_like(qx), ones)
    assert total.abs().max() < 2**31
    scale = (params.scale * weight.params.scale).reshape(1, -1, 1, 1)
    with torch.no_grad():
        rounded = nn.functional.conv2d(reader(x), quantizer(tensor(supernet.graph, layer.weight)), padding=1)
    integers = total * scale
    assert float((rounded - integers).abs().max() / integers.abs().max()) < 1e-4


def test_devices_with_signed_activations_or_a_spare_bit_get_grids_of_their_own() -> None:
    supernet, x = supernet_of(sr_graph(), images().sigmoid(), ALL_BITS), images(4, seed=3).sigmoid()
    for symmetric in (True, False):
        form = next(f for f in FORMS[4:] if f.weight_symmetric and f.activation_symmetric is symmetric)
        configuration = supernet.space.uniform(8, form)
        plain = export(supernet, configuration, TARGET)
        signed = export(supernet, configuration, Target("test", unsigned=False, reduce_range=True))
        for name, params in signed.activations.items():
            site = next(s for s in signed.sites() if s.tensor.name == name)
            assert site.form.signed
            assert site.form.symmetric is symmetric
            assert site.form.qmin <= int(params.zero_point) <= site.form.qmax
            assert int(params.zero_point) == 0 or not symmetric
        for weight in signed.weights.values():
            assert weight.form.reduce_range
            assert weight.integers.abs().max() <= 63
        with torch.no_grad():
            exact, first, second = sr_graph()(x), plain.simulate()(x), signed.simulate()(x)
        assert float((first - exact).norm() / exact.norm()) < 0.02
        assert float((second - exact).norm() / exact.norm()) < 0.03


def test_other_placements_need_inputs_to_calibrate_on() -> None:
    supernet = supernet_of(resnet_graph(), images())
    target = Target("test", placement=Placement.INPUTS_OUTPUTS)
    with pytest.raises(UsageError, match="give inputs to calibrate"):
        export(supernet, supernet.space.uniform(8, FORMS[6]), target)
    model = export(supernet, supernet.space.uniform(8, FORMS[6]), target, inputs=images())
    assert {site.tensor.name for site in model.sites()} == set(model.activations)
    x = images(4, seed=1)
    with torch.no_grad():
        assert float((model.simulate()(x) - resnet_graph()(x)).norm() / resnet_graph()(x).norm()) < 0.1


def test_biases_of_networks_without_norms_are_corrected_after_export() -> None:
    supernet, x = supernet_of(sr_graph(), images().sigmoid()), images(8, seed=4).sigmoid()
    model = export(supernet, supernet.space.uniform(2, FORMS[7]), TARGET)
    exact = supernet.float_graph()
    with torch.no_grad():
        before = (model.simulate()(x) - exact(x)).mean((0, 2, 3)).abs().max()
        correct_biases(model, x, exact)
        after = (model.simulate()(x) - exact(x)).mean((0, 2, 3)).abs().max()
    assert after < 0.5 * before


def test_a_float_offset_is_rounded_on_export() -> None:
    supernet = supernet_of(sr_graph(), images().sigmoid(), mode=OffsetMode.FLOAT)
    configuration = supernet.space.uniform(2, FORMS[0])
    model = export(supernet, configuration, TARGET)
    supernet.choose(configuration)
    moved = 0
    for name, weight in model.weights.items():
        quantizer = supernet.weights[name]
        shift, scale = quantizer.shift(), quantizer.scale().detach()
        assert shift is not None
        real = -shift.detach() / scale
        wanted = real.round().clamp(weight.form.qmin, weight.form.qmax)
        assert weight.params.zero_point.reshape(-1).tolist() == wanted.tolist()
        moved += int(((real - real.round()).abs() > 0.05).sum())
    assert moved


def test_pinned_layers_report_eight_bits_in_a_thousand_draws_and_light_networks_never_two() -> None:
    graph = resnet_graph()
    space = ElasticSpace.of(graph, LIGHT_BITS)
    ends = {space.names[0], space.names[-1]}
    seen = set()
    for step in range(334):
        for drawn in sandwich(space, 0, step):
            space.check(drawn.configuration)
            for layer, choice in zip(space.layers, drawn.configuration.layers, strict=True):
                if layer.name in ends:
                    assert (choice.weight_bits, choice.activation_bits) == (8, 8)
                seen.add(choice.weight_bits)
    assert seen == set(LIGHT_BITS)


def test_sandwich_has_its_ends_its_forms_and_depends_on_seed_and_step_alone() -> None:
    space = ElasticSpace.of(resnet_graph(), (2, 4, 8))
    one_form = 0
    for step in range(200):
        high, *randoms, low = sandwich(space, 7, step, randoms=2)
        assert len(randoms) == 2
        free = space.free
        assert all(high.configuration.layers[i].weight_bits == 8 for i in free)
        assert all(low.configuration.layers[i].activation_bits == 2 for i in free)
        assert (low.configuration.form is not None) >= low.one_form
        one_form += sum(d.one_form for d in (high, *randoms, low))
        assert sandwich(space, 7, step, randoms=2) == (high, *randoms, low)
    assert 0.4 < one_form / 800 < 0.6
    assert sandwich(space, 8, 0) != sandwich(space, 7, 0)
    widths = {c.weight_bits != c.activation_bits for c in sandwich(space, 7, 3)[1].configuration.layers}
    assert True in widths


def test_readers_of_one_tensor_have_one_width_and_configurations_are_checked() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x).relu()
            return self.d((self.b(y) + self.c(y)).relu())

    graph = trainable_graph(capture(Forked().eval(), torch.rand(1, 3, 8, 8)))
    space = ElasticSpace.of(graph, (2, 4, 8), least={"b": 4})
    assert space.layers[1].activation_bits == space.layers[2].activation_bits == (4, 8)
    assert space.layers[2].weight_bits == (2, 4, 8)
    for step in range(50):
        chosen = sandwich(space, 0, step)[1].configuration
        assert chosen.layers[1].activation_bits == chosen.layers[2].activation_bits
        assert chosen.layers[1].form.activation_symmetric == chosen.layers[2].form.activation_symmetric
        assert Configuration.of(chosen.numbers) == chosen
    wrong = [list(n) for n in space.uniform(4, FORMS[0]).numbers]
    wrong[2][1] = 8
    with pytest.raises(UsageError, match="c shares its input"):
        space.check(Configuration.of(wrong))
    wrong[0][0] = 4
    with pytest.raises(UsageError, match="layer a cannot have 4"):
        space.check(Configuration.of(wrong))
    with pytest.raises(UsageError, match="no layer 'z'"):
        ElasticSpace.of(graph, pinned={"z"})
    assert [name for name, _ in layer_nodes(graph)] == list(space.names)


def test_signed_inputs_become_unsigned_by_a_shift_for_devices_that_have_only_those() -> None:
    supernet, x = supernet_of(resnet_graph(), images()), images(4, seed=3)
    configuration = supernet.space.uniform(4, FORMS[6])
    models = [export(supernet, configuration, Target("test", unsigned=unsigned)) for unsigned in (None, True, False)]
    first = [model.plan.layers["conv1"].activation for model in models]
    assert [f.signed for f in first if f is not None] == [True, False, True]
    assert all(layer.activation is not None and not layer.activation.signed for layer in models[1].plan.layers.values())
    with torch.no_grad():
        outputs = [model.simulate()(x) for model in models]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-4)
    assert torch.allclose(outputs[0], outputs[2], atol=1e-4)


def test_where_outputs_are_quantised_a_reader_of_another_width_gets_a_calibrated_range() -> None:
    supernet, x = supernet_of(resnet_graph(), images()), images(4, seed=3)
    numbers = [list(n) for n in supernet.space.uniform(8, FORMS[6]).numbers]
    numbers[2][1] = 2
    target = Target("test", placement=Placement.INPUTS_OUTPUTS, unsigned=True)
    model = export(supernet, Configuration.of(numbers), target, inputs=images())
    for site in model.sites():
        zero = int(model.activations[site.tensor.name].zero_point)
        assert site.form.qmin <= zero <= site.form.qmax
    with torch.no_grad():
        exact = resnet_graph()(x)
        assert float((model.simulate()(x) - exact).norm() / exact.norm()) < 0.2
