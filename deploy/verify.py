"""Verification: an engine against the network that it was exported from, on the same samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bitwright.foundation.errors import UsageError, VerificationError
from deploy.engine import Engine
from workloads.workload import Predict, Quality, Sample, Workload

TOLERANCES = {"dB": 0.02, "%": 0.1}
"""Largest gap in quality between torch and engine, by the unit of the workload's metric."""

_ROWS = 512


def within(gap: float, tolerance: float) -> bool:
    """Whether a gap is tolerated: one image in a thousand is 0.1 %, whatever is left of rounding two means."""
    return abs(gap) <= tolerance + 1e-9


class VerifyReport(BaseModel):
    """How far an engine's outputs and quality are from torch's; differences in the unit of the network's output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    unit: str
    torch: Quality
    engine: Quality
    gap: float = Field(description="engine minus torch, mean quality over the samples")
    tolerance: float
    max_difference: float
    mean_difference: float = Field(description="mean absolute difference over all output values")
    output_psnr_db: float | None = Field(description="10 log10(range(torch)^2 / mse); null if the outputs are equal")

    @property
    def passed(self) -> bool:
        """Whether the gap is within the tolerance; a gap that is not a number is not."""
        return within(self.gap, self.tolerance)

    def require(self) -> None:
        """Raise VerificationError unless the engine agrees with torch."""
        if not self.passed:
            raise VerificationError(
                f"{self.metric} of the engine is {self.engine.mean:.3f} {self.unit} and of torch "
                f"{self.torch.mean:.3f}: a gap of {self.gap:+.3f}, more than {self.tolerance:g} allowed; "
                f"outputs differ by at most {self.max_difference:.3g}, {self.mean_difference:.3g} on average"
            )


class _Differences:
    """Accumulates |a - b|, its square and the range of a over many arrays."""

    def __init__(self) -> None:
        self.count = 0
        self.absolute = 0.0
        self.squared = 0.0
        self.largest = 0.0
        self.low = math.inf
        self.high = -math.inf

    def add(self, reference: Tensor, output: Tensor) -> None:
        if reference.shape != output.shape:
            raise VerificationError(
                f"the engine gave {list(output.shape)} where torch gave {list(reference.shape)}; export it again"
            )
        # By rows, because float64 copies of a large picture would take gigabytes.
        for wanted, found in zip(torch.split(reference, _ROWS, -2), torch.split(output, _ROWS, -2), strict=True):
            expected = wanted.double()
            difference = (found.double() - expected).abs()
            self.count += difference.numel()
            self.absolute += float(difference.sum())
            self.squared += float(difference.square().sum())
            self.largest = max(self.largest, float(difference.max()))
            self.low = min(self.low, float(expected.min()))
            self.high = max(self.high, float(expected.max()))

    @property
    def psnr_db(self) -> float | None:
        if self.squared == 0:
            return None
        spread = self.high - self.low
        return 10 * math.log10(spread**2 * self.count / self.squared) if spread > 0 else -math.inf


def engine_predict(engine: Engine) -> Predict:
    """An engine as a function on torch tensors, float32 [N, C, H, W] on the CPU in and out."""

    def predict(x: Tensor) -> Tensor:
        output = engine.run(np.ascontiguousarray(x.detach().numpy(), dtype=np.float32))
        return torch.from_numpy(output)

    return predict


def compare(
    reference: Predict,
    engine: Engine,
    samples: Sequence[Sample],
    workload: Workload,
    tolerance: float | None = None,
) -> VerifyReport:
    """Run both on every sample. `reference`: the fake-quantised (or float) network in torch.

    `tolerance`: largest gap in quality, by default that of the metric's unit. Raises VerificationError when the shapes
    differ or the engine returns NaN or infinite values; a gap beyond the tolerance is only reported.
    """
    allowed = TOLERANCES.get(workload.unit) if tolerance is None else tolerance
    if allowed is None:
        raise UsageError(f"no tolerance is known for {workload.metric} in {workload.unit}; state one")
    differences = _Differences()
    engine_run = engine_predict(engine)

    def compared(x: Tensor) -> Tensor:
        with torch.no_grad():
            expected = reference(x)
        output = engine_run(x)
        if not bool(torch.isfinite(output).all()):
            raise VerificationError(f"the engine returned NaN or infinite values for an input of {list(x.shape)}")
        differences.add(expected, output)
        return expected

    # The engine runs twice per sample, so that no output has to be kept.
    expected_quality = workload.evaluate(compared, samples)
    quality = workload.evaluate(engine_run, samples)
    return VerifyReport(
        metric=quality.metric,
        unit=quality.unit,
        torch=expected_quality,
        engine=quality,
        gap=quality.mean - expected_quality.mean,
        tolerance=allowed,
        max_difference=differences.largest,
        mean_difference=differences.absolute / differences.count,
        output_psnr_db=differences.psnr_db,
    )


def verify(
    reference: Predict,
    engine: Engine,
    samples: Sequence[Sample],
    workload: Workload,
    tolerance: float | None = None,
) -> VerifyReport:
    """As `compare`, and VerificationError when the gap is beyond the tolerance."""
    report = compare(reference, engine, samples, workload, tolerance)
    report.require()
    return report
