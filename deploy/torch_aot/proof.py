"""Proof: a package computes, on an example, what the network that it was compiled from computes before.

Inductor predicts the strides of what an integer convolution of oneDNN makes; where it errs (seen in torch 2.13 with
inputs of one channel), the code reads values from wrong places and says nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from deploy.runtimes import FloatPrecision
from deploy.torch_aot.network import OnnxNetwork
from deploy.torch_aot.package import MODEL

LIMITS = {FloatPrecision.FP32: 1e-3, FloatPrecision.BF16: 0.1}
"""Largest root mean square difference of a float network, as a share of the standard deviation of its output."""
INTEGER_LIMIT = 0.03
"""The same for layers on integers, where values on a rounding boundary may go either way."""


def require_equal(network: OnnxNetwork, example: Tensor, package: Path, float_precision: FloatPrecision) -> None:
    """UsageError where the package computes something else than the network; `example`: on the network's device."""
    with torch.no_grad():
        expected = network(example).double().cpu()
    loader = torch._C._aoti.AOTIModelPackageLoader(str(package), MODEL, False, 1, -1)
    found = loader.run([example])[0].double().cpu()
    spread = float(expected.std(correction=0)) or 1.0
    share = float((found - expected).square().mean().sqrt()) / spread
    limit = max(LIMITS[float_precision], INTEGER_LIMIT if network.quantized else 0.0)
    if not share <= limit:
        kind = f"{len(network.quantized)} layers on integers" if network.quantized else "all layers in float"
        raise UsageError(
            f"torch {torch.__version__} compiles this network with {kind} to code that computes something else "
            f"(differs by {share:.1%} of the output's spread, at most {limit:.1%} allowed); choose another --runtime, "
            "or a float plan"
        )
