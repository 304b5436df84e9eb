"""Accounting, encoder, samples and the accuracy predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bitwright.foundation.errors import CheckpointError, UsageError
from search.eqnet import cqap as cqap_module
from search.eqnet import predictor_choice
from search.eqnet.cqap import Cqap, CqapSettings, train_cqap
from search.eqnet.encoder import Encoder, bits_of, configuration_of, forms_of
from search.eqnet.forms import FORMS
from search.eqnet.gaussian_process import GaussianProcess
from search.eqnet.noise_regression import NoiseRegression, features
from search.eqnet.predictor import Agreement, Predictor, agreement, learning_curve
from search.eqnet.predictor_choice import load, train
from search.eqnet.samples import Measured, Scored, collect, draw
from search.eqnet.sampling import sandwich
from search.eqnet.space import Configuration
from tests.search.eqnet.toy import ACCOUNTING, FORM, SPACE, evaluate_toy, network, toy_samples

TABLE_OF_SECTION_9 = [
    ("resnet18", 2, 14.11, 13.25, 14.37), ("resnet18", 3, 9.93, 9.56, 22.85), ("resnet18", 4, 7.66, 7.48, 34.71),
    ("resnet50", 2, 12.88, 15.34, 23.56), ("resnet50", 3, 9.40, 10.42, 43.41), ("resnet50", 4, 7.40, 7.89, 71.19),
    ("mobilenetv2", 3, 6.60, 10.28, 3.37), ("mobilenetv2", 4, 5.84, 7.82, 5.39),
    ("efficientnet", 3, 7.58, 10.29, 4.14), ("efficientnet", 4, 6.43, 7.83, 6.75),
]  # fmt: skip


@pytest.mark.parametrize(("name", "bits", "weights", "activations", "gigabitops"), TABLE_OF_SECTION_9)
def test_accounting_is_that_of_section_9(
    name: str, bits: int, weights: float, activations: float, gigabitops: float
) -> None:
    space, accounting = network(name)
    member = bits_of([space.uniform(bits, FORM)])
    assert round(float(accounting.weight_compression(member)[0]), 2) == weights
    assert round(float(accounting.activation_compression(member)[0]), 2) == activations
    assert round(float(accounting.bitops()(member)[0]) / 1e9, 2) == gigabitops
    # Averages leave the pinned layers out (trap T15).
    assert float(accounting.average_weight_bits()(member)[0]) == pytest.approx(bits)
    assert float(accounting.average_activation_bits()(member)[0]) == pytest.approx(bits)
    assert float(accounting.size()(member)[0]) == pytest.approx(4 * accounting.weights.sum() / weights, rel=1e-3)


def test_codes_are_one_hot_in_each_slot_and_decode_to_what_was_encoded() -> None:
    encoder = Encoder(SPACE)
    assert encoder.width == 272
    seen = set()
    for form in FORMS:
        configuration = configuration_of(bits_of([sandwich(SPACE, 0, form.index)[1].configuration])[0], form)
        code = encoder.encode(bits_of([configuration]), form)[0]
        assert all(code[at : at + 2].sum() == 1 for at in (0, 2, 4))
        assert all(code[at : at + 7].sum() == 1 for at in range(6, 272, 7))
        assert encoder.decode(code) == configuration
        seen.add(tuple(encoder.encode(bits_of([SPACE.uniform(4, form)]), form)[0]))
    assert len(seen) == 8
    with pytest.raises(UsageError, match="cannot be encoded"):
        Encoder(network("mobilenetv2")[0]).encode(np.full((1, 53, 2), 2), FORM)
    with pytest.raises(UsageError, match="one form only"):
        forms_of(
            [next(d.configuration for s in range(9) for d in sandwich(SPACE, 0, s) if d.configuration.form is None)]
        )


def test_draws_reach_the_ends_of_the_average_in_every_form() -> None:
    drawn = [draw(SPACE, ACCOUNTING, 0, index) for index in range(160)]
    assert {one.form for one in drawn} == set(FORMS)
    for average in (ACCOUNTING.average_weight_bits(), ACCOUNTING.average_activation_bits()):
        values = average(bits_of(drawn))
        assert values.min() < 2.8
        assert values.max() > 7.2
        assert np.histogram(values, bins=5, range=(2.4, 7.6))[0].min() > 12
    for one in drawn:
        SPACE.check(one)
    assert drawn[3] == draw(SPACE, ACCOUNTING, 0, 3)
    light, accounting = network("mobilenetv2")
    few = accounting.average_weight_bits()(bits_of([draw(light, accounting, 0, i) for i in range(40)]))
    assert few.min() < 3.9
    assert few.min() >= 3.0


def test_samples_are_kept_resumed_and_shared(tmp_path: Path) -> None:
    asked: list[str] = []

    def evaluate(configuration: Configuration) -> float:
        asked.append(configuration.key)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return evaluate_toy(configuration)

    path = tmp_path / "samples.jsonl"
    with pytest.raises(KeyboardInterrupt):
        collect(SPACE, ACCOUNTING, evaluate, 8, seed=0, owner="a", path=path)
    with path.open("a") as file:
        file.write('{"index": 3, "la')
    found = collect(SPACE, ACCOUNTING, evaluate, 8, seed=0, owner="a", path=path)
    assert len(asked) == 4 + 5
    assert [s.configuration.key for s in found] == [s.configuration.key for s in toy_samples(8, 0)]
    assert len({s.configuration.key for s in found}) == 8
    assert len(path.read_text().splitlines()) == 9
    # Other draws are other configurations: what is known of the first ones is not taken for theirs.
    others = collect(SPACE, ACCOUNTING, evaluate_toy, 4, seed=1, owner="a", path=path, form=FORM)
    assert [s.value for s in others] == [evaluate_toy(s.configuration) for s in others]
    assert [s.value for s in collect(SPACE, ACCOUNTING, evaluate, 8, seed=0, owner="a", path=path)] == [
        s.value for s in found
    ]
    assert len(asked) == 4 + 5
    parts = [collect(SPACE, ACCOUNTING, evaluate_toy, 8, seed=0, owner="a", part=p, parts=2) for p in range(2)]
    assert {s.configuration.key for part in parts for s in part} == {s.configuration.key for s in found}
    with pytest.raises(UsageError, match="another supernet"):
        collect(SPACE, ACCOUNTING, evaluate, 8, seed=0, owner="b", path=path)
    told = tmp_path / "told.jsonl"
    for _ in range(2):
        some = collect(
            SPACE, ACCOUNTING, lambda one: Scored(evaluate_toy(one), {"loss": 0.5}), 2, seed=0, owner="a", path=told
        )
        assert [(s.value, s.extra) for s in some] == [(evaluate_toy(s.configuration), {"loss": 0.5}) for s in some]
    path.write_text("[]\n")
    with pytest.raises(CheckpointError, match="damaged"):
        collect(SPACE, ACCOUNTING, evaluate, 8, seed=0, owner="a", path=path)


@pytest.fixture(scope="module")
def trained() -> tuple[Cqap, Agreement]:
    return train_cqap(SPACE, toy_samples(480, 0), CqapSettings(epochs=40))


def test_cqap_ranks_configurations_it_has_not_seen(trained: tuple[Cqap, Agreement], tmp_path: Path) -> None:
    net, told = trained
    held_out = toy_samples(200, 5)
    found = agreement(net, held_out)
    for one in (told, found):
        assert one.pearson is not None
        assert one.pearson > 0.92
        assert one.kendall is not None
        assert one.kendall > 0.80
        assert one.kendall_top_quartile is not None
        assert one.rmse < 2.0
    assert found.samples == 200
    # The release's output bias was meant for the mean and stayed zero.
    assert float(net.mean) == pytest.approx(np.mean([s.value for s in toy_samples(480, 0)]), abs=0.5)
    net.save(tmp_path / "predictor.safetensors")
    loaded = load(tmp_path / "predictor.safetensors")
    some = bits_of([s.configuration for s in held_out])
    assert np.array_equal(loaded.quality(some, FORM), net.quality(some, FORM))


def test_a_predictor_of_another_encoder_or_of_nothing_is_refused(
    trained: tuple[Cqap, Agreement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "predictor.safetensors"
    monkeypatch.setattr(cqap_module, "ENCODER", 0)
    trained[0].save(path)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="encoder 0, not 1"):
        load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is not an accuracy predictor"):
        load(path)
    with pytest.raises(UsageError, match="at least 4 samples"):
        train(SPACE, toy_samples(3, 0))


def test_more_samples_make_a_better_predictor() -> None:
    def cqap(some: Sequence[Measured]) -> Predictor:
        return train_cqap(SPACE, some, CqapSettings(epochs=15))[0]

    for fit in (cqap, lambda some: NoiseRegression.fit(SPACE, some), lambda some: GaussianProcess.fit(SPACE, some)):
        curve = learning_curve(fit, toy_samples(240, 0), toy_samples(100, 9), (40, 240, 1000))
        assert list(curve) == [40, 240]
        assert curve[240].rmse < curve[40].rmse


def test_the_regression_recovers_a_loss_that_is_linear_in_noise(tmp_path: Path) -> None:
    draws = [draw(SPACE, ACCOUNTING, 1, index) for index in range(240)]
    hurt = np.random.default_rng(2).exponential(1.0, (len(SPACE.layers), 2))

    def linear(one: Configuration) -> float:
        powers = 4.0 ** -bits_of([one])[0][list(SPACE.free)].astype(float)
        return 90.0 - 40.0 * float((hurt[list(SPACE.free)] * powers).sum()) - 0.5 * (forms_of([one])[0] & 1)

    samples = [Measured(one, linear(one)) for one in draws]
    fitted = NoiseRegression.fit(SPACE, samples[:160])
    told = agreement(fitted, samples[160:])
    assert told.kendall is not None
    assert told.kendall > 0.9
    assert told.rmse < 0.15 * np.std([s.value for s in samples])
    fitted.save(tmp_path / "regression.safetensors")
    some, form = bits_of(draws), forms_of(draws)
    assert np.array_equal(load(tmp_path / "regression.safetensors").quality(some, form), fitted.quality(some, form))
    assert features(SPACE, some, form).shape == (240, 3 + 10 * len(SPACE.free))
    # One form for all is the same as its index for each.
    assert np.array_equal(fitted.quality(some, FORM), fitted.quality(some, np.full(240, FORM.index)))


def test_a_file_that_lacks_a_part_is_refused_and_one_without_the_noise_is_not(tmp_path: Path) -> None:
    path, part, samples = tmp_path / "whole", tmp_path / "part", toy_samples(40, 0)
    net = Cqap(Encoder(SPACE)).eval()
    for predictor in (GaussianProcess.fit(SPACE, samples), NoiseRegression.fit(SPACE, samples), net):
        predictor.save(path)
        arrays = load_file(path)
        with safe_open(path, "numpy") as file:
            described = file.metadata()
        for name in arrays:
            save_file({n: a for n, a in arrays.items() if n != name}, part, described)
            if name != "noise":
                with pytest.raises(CheckpointError, match="damaged"):
                    load(part)
                continue
            some = bits_of([s.configuration for s in samples])
            assert np.array_equal(load(part).quality(some, FORM), predictor.quality(some, FORM))


def test_the_error_of_kendall_is_that_of_other_draws() -> None:
    draws = np.random.default_rng(0).standard_normal((300, 2, 80))
    told = [Agreement.of(x, x + 0.5 * y) for x, y in draws]
    errors = [one.kendall_error for one in told[:20] if one.kendall_error is not None]
    assert len(errors) == 20
    assert np.mean(errors) == pytest.approx(np.std([one.kendall for one in told]), rel=0.25)


def test_the_kind_is_taken_that_is_closest_on_samples_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = toy_samples(120, 0)
    settings = CqapSettings(epochs=5)
    chosen, told, noise = train(SPACE, samples, settings)
    assert noise is not None
    assert 0 <= noise < np.std([s.value for s in samples])
    assert set(told) == {"CQAP", "noise regression", "Gaussian process"}
    assert min(told, key=lambda kind: told[kind].rmse) == chosen.KIND
    assert told[chosen.KIND].rmse < told["CQAP"].rmse
    monkeypatch.setattr(GaussianProcess, "quality", lambda self, bits, form: np.zeros(len(bits)))
    chosen = train(SPACE, samples, settings).predictor
    assert isinstance(chosen, NoiseRegression)
    assert np.array_equal(chosen.slopes, NoiseRegression.fit(SPACE, samples).slopes), "refitted on all of them"
    monkeypatch.setattr(predictor_choice, "LARGEST", 119)
    left_out = train(SPACE, samples, settings)
    assert (list(left_out.told), left_out.noise) == (["CQAP", "noise regression"], None)
    monkeypatch.setattr(NoiseRegression, "quality", lambda self, bits, form: np.zeros(len(bits)))
    assert isinstance(train(SPACE, samples, settings).predictor, Cqap)


def test_agreement_is_undefined_where_nothing_varies() -> None:
    flat = Agreement.of(np.ones(8), np.arange(8.0))
    assert flat.pearson is None
    assert flat.kendall is None
    exact = Agreement.of(np.arange(8.0), np.arange(8.0))
    assert [exact.kendall, exact.pearson, exact.kendall_top_quartile] == pytest.approx([1.0, 1.0, 1.0])
    assert exact.rmse == 0.0
