"""Proof: a package computes, on an example, what the network that it was compiled from computes before.

Inductor predicts the strides of what an integer convolution of oneDNN makes; where it errs (seen in torch 2.13 with
inputs of one channel), the code reads values from wrong places and says nothing.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bitwright.foundation.errors import UsageError
from deploy.runtimes import FloatPrecision
from deploy.torch_aot.network import OnnxNetwork
from deploy.torch_aot.package import MODEL

LIMITS = {FloatPrecision.FP32: 1e-3, FloatPrecision.FP16: 0.02, FloatPrecision.BF16: 0.1}
"""Largest root mean square difference of a float network, as a share of the standard deviation of its output."""
INTEGER_LIMIT = 0.03
"""The same for quantised layers, where values on a rounding boundary may go either way."""
RANGES = (1.0, 255.0)
"""Largest values of pictures as networks take them."""
_SMOOTH = 8


def picture(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Smooth random pictures in 0..1, [batch, channels, height, width].

    White noise is none: PAN x4 amplifies it to 1e19, and of such outputs no digit is certain in float32.
    """
    coarse = torch.rand(batch, channels, max(height // _SMOOTH, 1), max(width // _SMOOTH, 1))
    return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)


def require_equal(network: OnnxNetwork, example: Tensor, package: Path, float_precision: FloatPrecision) -> None:
    """UsageError where the package computes something else than the network; `example`: as `picture` makes it.

    Without a quantiser at its input a file does not tell the range of it, and both usual ones are tried: a network that
    is fed a 255th of what it knows uses few steps of its quantisers, and each that falls to another side counts.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader(str(package), MODEL, False, 1, -1)
    ranges = RANGES if network.largest is None else (network.largest,)
    share = min(_difference(network, example * largest, loader) for largest in ranges)
    limit = max(LIMITS[float_precision], INTEGER_LIMIT if network.quantized else 0.0)
    if not share <= limit:
        kind = f"{len(network.quantized)} layers quantised" if network.quantized else "all layers in float"
        raise UsageError(
            f"torch {torch.__version__} compiles this network with {kind} to code that computes something else "
            f"(differs by {share:.1%} of the output's spread, at most {limit:.1%} allowed); choose another --runtime, "
            "or a float plan"
        )


def _difference(network: OnnxNetwork, example: Tensor, loader: torch._C._aoti.AOTIModelPackageLoader) -> float:
    """Root mean square, as a share of the standard deviation of the network's output; NaN becomes infinity."""
    with torch.no_grad():
        expected = network(example).double().cpu()
    found = loader.run([example])[0].double().cpu()
    share = float((found - expected).square().mean().sqrt()) / (float(expected.std(correction=0)) or 1.0)
    return share if math.isfinite(share) else math.inf
