"""The float part of a network: what the layers that are not on integers execute in."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compress.compressed import CompressedModel
from deploy.engine import Engine, FloatPrecision, Runtime
from deploy.verify import VerifyReport, compare, within
from hw_profiles import DeviceProfile
from workloads.workload import Sample, Workload

_HALVES = {FloatPrecision.FP16.value: torch.float16, FloatPrecision.BF16.value: torch.bfloat16}


def float_precision(profile: DeviceProfile, runtime: Runtime) -> FloatPrecision:
    """What the part that is not on integers executes in: the first of the runtime's that the device has natively.

    Measured with OpenVINO 2026.4 on a Zen 4 core, RFDN x4 compiled for 128x128: bf16 was 1.08 times faster than fp32
    with all convolutions on integers, 1.4 times with 77 % of the MACs on integers. On GPUs nothing was measured.
    """
    return float_precisions(profile, runtime)[0]


def float_precisions(profile: DeviceProfile, runtime: Runtime) -> tuple[FloatPrecision, ...]:
    """The precisions of the float part that the device has natively in the runtime, best first; fp32 is always last."""
    native = {rule.executes_as.value for rule in profile.rules(runtime.value) if rule.native}
    return tuple(p for p in runtime.float_precisions if p is FloatPrecision.FP32 or p.value in native)


def agreement(
    model: CompressedModel, engine: Engine, samples: Sequence[Sample], workload: Workload, tolerance: float | None
) -> VerifyReport:
    """The engine compared with the simulation in torch, which is fp32 between its quantisers.

    Where nothing is quantised, an engine in a 16-bit float rounds where its runtime does, at every operator or layers
    alone. It may then agree with torch in fp32 or with torch in that float: the report is of the nearer one.
    """
    network = model.simulate()
    floats = _HALVES.get(model.plan.float_precision)
    exact = compare(network, engine, samples, workload, tolerance)
    if floats is None or model.plan.quantized_layers or within(exact.gap, exact.tolerance):
        return exact
    network.to(floats)
    rounded = compare(lambda x: network(x.to(floats)).float(), engine, samples, workload, tolerance)
    return min(exact, rounded, key=lambda report: abs(report.gap))


def wider(profile: DeviceProfile, runtime: Runtime, planned: str) -> tuple[FloatPrecision, ...]:
    """What to try, in this order, where not every float layer runs in the planned precision; nothing after fp32."""
    known = float_precisions(profile, runtime)
    return known[known.index(FloatPrecision(planned)) + 1 :] if planned in known else (FloatPrecision.FP32,)
