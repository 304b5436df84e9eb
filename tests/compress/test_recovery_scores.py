"""The score of classifiers in recovery training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.recovery.scores import LogitAgreement
from workloads.workload import Sample

SAMPLES = [Sample("a", torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(5))]


def teacher(x: Tensor) -> Tensor:
    return x * torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_score_is_the_share_of_the_logits_variance_that_is_error() -> None:
    score = LogitAgreement(teacher, SAMPLES)
    assert score(teacher) == 0.0
    assert score(lambda x: teacher(x) * 0.9) == pytest.approx(-0.01, rel=1e-5)
    assert score(lambda x: teacher(x) * 0.8) == pytest.approx(-0.04, rel=1e-5)


def test_what_no_probability_depends_on_does_not_count() -> None:
    score = LogitAgreement(teacher, SAMPLES)
    assert score(lambda x: teacher(x) + 3.0) == pytest.approx(0.0, abs=1e-10)
