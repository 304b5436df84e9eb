"""The quality that a search maximises, and the metric that it stands for."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from search.eqnet.forms import FORMS
from search.eqnet.quality import HIGHEST, Measure, Metric
from search.eqnet.samples import Measured
from search.eqnet.space import Configuration, LayerChoice
from workloads.classification.format import ClassificationFormat
from workloads.classification.task import Classification
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.task import SuperResolution
from workloads.workload import Sample

IO = ClassificationFormat(4, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 8)
LOGITS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
BATCHES = [Sample(str(i), part, part.argmax(1)) for i, part in enumerate(LOGITS.split(25))]
"""The inputs are the logits, so that networks are functions of them."""


def enlarged(x: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(x, scale_factor=2)


def same(x: Tensor) -> Tensor:
    return x


def test_classes_are_searched_by_how_near_their_logits_are_with_top_1_beside_it() -> None:
    measure = Measure(Classification(IO), BATCHES, same)
    assert (measure.name, measure.unit) == ("SQNR of logits", "dB")
    exact = measure(same)
    assert exact.value == HIGHEST
    assert exact.extra["top-1"] == 100.0
    # An error of a tenth has a hundredth of the power; top-1 does not see it, nor what is added to all classes.
    for network in (lambda x: 0.9 * x, lambda x: 0.9 * x + 5.0):
        found = measure(network)
        assert found.value == pytest.approx(20.0, abs=1e-3)
        assert found.extra["top-1"] == 100.0
    turned = measure(lambda x: -x)
    assert turned.value == pytest.approx(-6.02, abs=0.01)
    assert turned.extra["top-1"] == 0.0


def test_images_are_searched_by_the_metric_itself() -> None:
    workload = SuperResolution(SRFormat(2, Color.RGB, 1.0))
    random = torch.Generator().manual_seed(1)
    sample = Sample("a", torch.rand(1, 3, 16, 16, generator=random), torch.rand(1, 3, 32, 32, generator=random))
    measure = Measure(workload, [sample], enlarged)
    assert (measure.name, measure.unit) == ("PSNR-Y", "dB")
    found = measure(enlarged)
    wanted = workload.evaluate(enlarged, [sample])
    assert (found.value, dict(found.extra)) == (wanted.mean, wanted.extra)
    assert measure.metric_of([])(found.value) == found.value


def test_the_metric_of_a_quality_never_falls_and_ends_with_what_is_known() -> None:
    numbers = itertools.count()
    form = FORMS[0]

    def sample(quality: float, top1: float) -> Measured:
        return Measured(Configuration((LayerChoice(next(numbers) + 2, 8, form),)), quality, {"top-1": top1})

    measure = Measure(Classification(IO), BATCHES, same)
    metric = measure.metric_of([sample(5.0, 60.0), sample(20.0, 91.0), sample(10.0, 90.0), sample(15.0, 89.0)])
    assert metric(-3.0) == metric(5.0) == 60.0
    assert metric(10.0) == metric(12.0) == metric(15.0) == 89.5
    assert metric(7.5) == pytest.approx(74.75)
    assert metric(20.0) == metric(33.0) == 91.0
    assert Metric()(7.5) == 7.5
