"""NNCF's post-training quantisation for OpenVINO, without its telemetry and its log."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterable
from enum import StrEnum
from types import ModuleType
from typing import Any, cast

import torch

from benchmarks.arms import Network
from bitwright.foundation.optional import require
from deploy.engine import Runtime
from deploy.engines.runtime_packages import import_runtime
from workloads.workload import Sample

SUBSET = 300
"""NNCF's own default for the number of calibration items; fewer are used where there are fewer."""

_TELEMETRY = "openvino_telemetry"

Validate = Callable[[Any, Iterable[Sample]], tuple[float, list[float]]]


class Mode(StrEnum):
    """How NNCF is asked to quantise."""

    DEFAULT = "nncf default"
    MIXED = "nncf mixed preset"
    ACCURACY_CONTROL = "nncf accuracy control"


def import_nncf() -> ModuleType:
    """The package `nncf`, or MissingPackageError; it finds no telemetry package and so sends nothing."""
    # bitwright's own import of OpenVINO goes first: importing nncf would import it with its telemetry.
    import_runtime(Runtime.OPENVINO)
    if "nncf" not in sys.modules:
        modules = cast("dict[str, ModuleType | None]", sys.modules)
        before = modules.get(_TELEMETRY)
        modules[_TELEMETRY] = None
        try:
            require("nncf", extra="peers")
        finally:
            if before is None:
                del modules[_TELEMETRY]
            else:
                modules[_TELEMETRY] = before
    nncf = require("nncf", extra="peers")
    nncf.set_log_level(logging.ERROR)
    return nncf


def quantize(
    network: Network, float_model: Any, crops: torch.Tensor, mode: Mode, *, max_drop: float, images: int | None = None
) -> Any:
    """The `openvino.Model` that NNCF makes of a float one, calibrated on `crops` [N, C, H, W], one item each.

    `max_drop` in dB and the first `images` held-out training pictures are for `Mode.ACCURACY_CONTROL` only.
    """
    nncf = import_nncf()
    items = nncf.Dataset([crop[None].numpy() for crop in crops])
    with contextlib.redirect_stdout(io.StringIO()):
        if mode is not Mode.ACCURACY_CONTROL:
            return nncf.quantize(
                float_model,
                items,
                target_device=nncf.TargetDevice.CPU,
                subset_size=SUBSET,
                preset=nncf.QuantizationPreset.MIXED if mode is Mode.MIXED else None,
            )
        held_out = network.loaded.workload.held_out(network.train)
        return nncf.quantize_with_accuracy_control(
            float_model,
            items,
            nncf.Dataset(list(held_out[:images]), lambda sample: sample.input.numpy()),
            _validator(network),
            max_drop=max_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            target_device=nncf.TargetDevice.CPU,
            subset_size=SUBSET,
        )


def _validator(network: Network) -> Validate:
    """The workload's metric in the form that NNCF calls: a mean and the value of each sample."""
    workload = network.loaded.workload

    def validate(compiled: Any, samples: Iterable[Sample]) -> tuple[float, list[float]]:
        def predict(x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(compiled(x.numpy())[0].copy())

        quality = workload.evaluate(predict, list(samples))
        return quality.mean, list(quality.per_sample.values())

    return validate
