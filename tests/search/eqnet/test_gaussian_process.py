"""The Gaussian process among the predictors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

from search.eqnet import gaussian_process as process_module
from search.eqnet.encoder import bits_of, forms_of
from search.eqnet.gaussian_process import GaussianProcess
from search.eqnet.gaussian_process import features as process_features
from search.eqnet.noise_regression import NoiseRegression
from search.eqnet.predictor import agreement
from search.eqnet.predictor_choice import load
from search.eqnet.samples import Measured, draw
from search.eqnet.space import Configuration
from tests.search.eqnet.toy import ACCOUNTING, FORM, SPACE, toy_samples


def test_the_process_knows_what_is_no_sum_over_layers(tmp_path: Path) -> None:
    draws = [draw(SPACE, ACCOUNTING, 1, index) for index in range(240)]

    def joint(one: Configuration) -> float:
        """Narrow weights hurt where the input is narrow too; PSNR is the logarithm of what is lost."""
        steps = 2.0 ** -bits_of([one])[0][list(SPACE.free)].astype(float)
        return -10 * float(np.log10(0.01 + (steps[:, 0] * steps[:, 1]).sum()))

    samples = [Measured(one, joint(one)) for one in draws]
    fitted = GaussianProcess.fit(SPACE, samples[:160])
    told, linear = (agreement(p, samples[160:]) for p in (fitted, NoiseRegression.fit(SPACE, samples[:160])))
    assert told.rmse < 0.85 * linear.rmse
    assert told.kendall is not None
    assert linear.kendall is not None
    assert told.kendall > linear.kendall
    path = tmp_path / "process.safetensors"
    fitted.save(path)
    some, form = bits_of(draws), forms_of(draws)
    assert np.array_equal(load(path).quality(some, form), fitted.quality(some, form))
    assert np.array_equal(fitted.quality(some, FORM), fitted.quality(some, np.full(240, FORM.index)))
    # One that never varied tells nothing, and is no division by zero.
    assert np.isfinite(GaussianProcess.fit(SPACE, [Measured(one, 1.0) for one in draws[:4]]).quality(some, form)).all()


def test_the_process_predicts_what_its_library_does() -> None:
    samples = toy_samples(60, 0)
    fitted = GaussianProcess.fit(SPACE, samples)
    amplitude, slopes, constant = fitted.variances
    kernel = amplitude * RBF(fitted.lengths) + ConstantKernel(slopes) * DotProduct((constant / slopes) ** 0.5)
    configurations = [sample.configuration for sample in toy_samples(40, 9)]
    bits, form = bits_of(configurations), forms_of(configurations)
    given = (process_features(SPACE, bits, form) - fitted.mean) / fitted.spread
    expected = fitted.level + fitted.scale * (kernel(given, fitted.seen) @ fitted.weights)
    np.testing.assert_allclose(fitted.quality(bits, form), expected, rtol=1e-9)


def test_the_process_finds_the_noise_of_its_samples_and_is_tuned_on_some_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_noise = np.random.default_rng(3)
    samples = [Measured(s.configuration, s.value + 0.5 * draw_noise.standard_normal()) for s in toy_samples(240, 0)]
    assert GaussianProcess.fit(SPACE, samples).noise == pytest.approx(0.5, rel=0.3)
    monkeypatch.setattr(process_module, "TUNED_ON", 120)
    few, many = GaussianProcess.fit(SPACE, samples[:120]), GaussianProcess.fit(SPACE, samples)
    assert len(many.seen) == 240
    held_out = toy_samples(100, 9)
    assert agreement(many, held_out).rmse < agreement(few, held_out).rmse
    some = bits_of([s.configuration for s in held_out])
    whole = many.quality(some, FORM)
    monkeypatch.setattr(process_module, "CHUNK", 7 * 240)
    np.testing.assert_allclose(many.quality(some, FORM), whole, rtol=1e-9)
    many.save(tmp_path / "process")
    loaded = load(tmp_path / "process")
    assert isinstance(loaded, GaussianProcess)
    assert loaded.noise == many.noise
