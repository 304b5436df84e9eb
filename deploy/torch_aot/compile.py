"""Compiling an exported ONNX file to an AOTInductor package: native code for this machine, for inputs of any size.

Scales, zero points and integers are those of the file; nothing is calibrated. On a processor, a layer whose input and
weight are quantised becomes a kernel of oneDNN on integers, because Inductor knows the Q/DQ pairs around it; freezing
packs its weight at compile time. On a GPU matrix products alone are quantised, by the kernels in `products`. The
package holds the generated source beside the code, and from it the audit reads what runs.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import torch._inductor.config
import torch._inductor.exc
from torch import Tensor

from bitwright.foundation.errors import DeviceError, MissingPackageError, UsageError
from bitwright.foundation.files import write_bytes
from deploy.gpu import require_fp8, why_not_here, without_tf32
from deploy.runtimes import FloatPrecision, Runtime
from deploy.torch_aot.network import OnnxNetwork
from deploy.torch_aot.package import DESCRIPTION, Description, capabilities
from deploy.torch_aot.proof import picture, require_equal

_USUAL = 64
"""Height and width of the example that is traced; any size from 1 on runs."""


def compile_file(
    path: Path,
    package: Path,
    *,
    float_precision: FloatPrecision,
    compute_capability: str | None = None,
    profile: str = "any",
) -> None:
    """Write the package of the network in an ONNX file, for the processor of this machine or for its GPU.

    `compute_capability`: of the GPU that `profile` describes, which must be the one here; None: the processor.

    UsageError names the node that has no counterpart, or tells that torch compiles the network to wrong code, or that
    it has no kernels for its quantised layers; MissingPackageError says which compiler to install; DeviceError where
    there is no such GPU.
    """
    require_device(compute_capability, profile)
    require_compiler()
    on_gpu = compute_capability is not None
    network = OnnxNetwork(path, float_precision, on_gpu=on_gpu).eval()
    if not on_gpu and network.fp8:
        raise UsageError(f"torch has fp8 kernels for GPUs only, and {path.name} has layers in fp8; compress it to int8")
    if compute_capability is not None and network.fp8:
        require_fp8(compute_capability, profile)
    if on_gpu and network.quantized_convolutions:
        raise UsageError(
            f"torch has no integer convolutions on GPUs, nor in fp8, and {path.name} plans "
            f"{len(network.quantized_convolutions)} of them so; choose --precision fp16 or bf16, or another --runtime"
        )
    write_bytes(package, compile_network(network, float_precision, device="cuda" if on_gpu else "cpu", name=path.name))


def compile_network(network: OnnxNetwork, float_precision: FloatPrecision, *, device: str, name: str) -> bytes:
    """The package of a network for `device`, which is cpu or cuda.

    UsageError, with the `name` of its file, where torch cannot compile it or compiles it to wrong code.
    """
    dynamic = torch.export.Dim.DYNAMIC
    batch, channels, height, width = network.given
    example = picture(batch or 2, channels, height or _USUAL, width or _USUAL)
    described = Description(
        layers=network.layers,
        shape=network.given,
        smallest=_smallest(network, example),
        device=device,
        capabilities=capabilities(),
    )
    sizes = {i: dynamic for i, size in ((0, batch), (2, height), (3, width)) if size is None}
    options = {
        "freezing": True,
        # By its constants, the small ones too, the audit finds each layer in the generated source.
        "always_keep_tensor_constants": True,
        "cpp.dynamic_threads": True,
        "aot_inductor.metadata": {DESCRIPTION: described.model_dump_json()},
    }
    if device != "cpu":
        # Products become calls of ATen's kernels, which the audit reads, and none that Triton generates.
        options["max_autotune_gemm_backends"] = "ATEN"
    with torch.no_grad(), _quiet(), torch._inductor.config.patch(options), without_tf32():
        try:
            program = torch.export.export(network.to(device), (example.to(device),), dynamic_shapes=(sizes,))
            with tempfile.TemporaryDirectory() as folder:
                built = Path(folder) / "network.pt2"
                torch._inductor.aoti_compile_and_package(program, package_path=str(built))
                require_equal(network, example.to(device), built, float_precision)
                return built.read_bytes()
        except UsageError:
            raise
        except (RuntimeError, ValueError, TypeError, torch._inductor.exc.InductorError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(f"torch cannot compile {name}: {first}") from error


def require_device(compute_capability: str | None, profile: str) -> None:
    """DeviceError where a GPU is asked for that is not here: AOTInductor compiles for the GPU that it finds."""
    reason = None if compute_capability is None else why_not_here(Runtime.TORCH, compute_capability, profile)
    if reason is not None:
        raise DeviceError(
            "torch compiles an engine on a GPU like the one that it is for, so build it on such a machine with a torch "
            f"that has CUDA: {reason}"
        )


def require_compiler() -> None:
    """MissingPackageError where there is no C++ compiler."""
    wanted = torch._inductor.config.cpp.cxx
    names = [os.environ.get("CXX", ""), *(wanted if isinstance(wanted, (tuple, list)) else [wanted])]
    if not any(name and shutil.which(name) for name in names):
        raise MissingPackageError(
            "the torch runtime compiles C++ code and finds no compiler; install g++ (apt-get install g++, "
            "dnf install gcc-c++) or name one in the environment variable CXX"
        )


def _smallest(network: OnnxNetwork, example: Tensor) -> tuple[int, int]:
    """The least height and the least width that all windows of the network fit in, found without computing values."""
    bare = copy.deepcopy(network).to("meta")

    def runs(height: int, width: int) -> bool:
        try:
            with torch.no_grad():
                bare(torch.empty(2, example.shape[1], height, width, device="meta"))
        except (RuntimeError, IndexError, ValueError):
            return False
        return True

    high, wide = example.shape[2:]
    rows = bisect.bisect_left(range(1, high), True, key=lambda size: runs(size, wide)) + 1
    columns = bisect.bisect_left(range(1, wide), True, key=lambda size: runs(high, size)) + 1
    return rows, columns


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says of its own operators."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
