"""Check of the one assumption: that errors add up at the output. Predicted against simulated, on random plans."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import track
from search.sensitivity.precision import Alternatives, Assignment
from search.sensitivity.quality import QualityModel
from search.sensitivity.variants import Variant


@dataclass(frozen=True)
class Agreement:
    """`pairs`: (predicted, simulated). Correlations in -1 ... 1; `relative`: median absolute relative error."""

    pairs: tuple[tuple[float, float], ...]
    pearson: float
    kendall: float
    relative: float

    @staticmethod
    def of(pairs: Sequence[tuple[float, float]]) -> Agreement:
        """Compare at least three pairs."""
        from scipy.stats import kendalltau, pearsonr

        if len(pairs) < 3:
            raise UsageError(f"agreement needs at least 3 plans, not {len(pairs)}")
        predicted, simulated = zip(*pairs, strict=True)
        relative = sorted(abs(p - s) / max(abs(s), 1e-30) for p, s in pairs)
        pearson, kendall = pearsonr(predicted, simulated).statistic, kendalltau(predicted, simulated).statistic
        return Agreement(tuple(pairs), float(pearson), float(kendall), relative[len(relative) // 2])


def random_assignments(
    allowed: Mapping[str, Sequence[str]], count: int, seed: int, ties: Sequence[Sequence[str]] = ()
) -> list[dict[str, str]]:
    """Plans with every share of integer layers equally likely; layers that share a weight agree."""
    generator = random.Random(seed)
    made = []
    for _ in range(count):
        share = generator.random()
        chosen = {}
        for name, precisions in allowed.items():
            weights = [1.0 - share if p == precisions[-1] else share / max(len(precisions) - 1, 1) for p in precisions]
            chosen[name] = generator.choices(list(precisions), weights)[0]
        made.append(chosen | {name: chosen[members[0]] for members in ties for name in members})
    return made


def simulated_error(alternatives: Alternatives, assignment: Assignment, float_precision: str, inputs: Tensor) -> float:
    """Mean squared output error of a plan on `inputs` [N, C, H, W], crop by crop."""
    variant = Variant.of(alternatives, alternatives.plan(assignment, float_precision))
    total, count = 0.0, 0
    with torch.inference_mode():
        for crop in torch.split(inputs, 1):
            exact = alternatives.float_graph(crop)
            total += float((variant.predict(alternatives.float_graph, crop) - exact).double().square().sum())
            count += exact.numel()
    return total / count


def check_additivity(
    alternatives: Alternatives,
    quality: QualityModel,
    allowed: Mapping[str, Sequence[str]],
    float_precision: str,
    inputs: Tensor,
    *,
    plans: int = 10,
    seed: int = 0,
    ties: Sequence[Sequence[str]] = (),
) -> Agreement:
    """Predicted and simulated output error of random plans; `inputs` need not be those that were measured on."""
    chosen = random_assignments(allowed, plans, seed, ties)
    return Agreement.of(
        [
            (quality.error(a), simulated_error(alternatives, a, float_precision, inputs))
            for a in track(chosen, "checking that errors add up")
        ]
    )
