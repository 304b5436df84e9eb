"""Engine: a built artefact that a runtime loads on a device; the interface each runtime implements in one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bitwright.foundation.errors import DeviceError, UsageError
from deploy.runtimes import FloatPrecision, Runtime
from hw_profiles.kernel import TensorType
from workloads.super_resolution.format import SRFormat

__all__ = ["CallTimes", "Engine", "EngineSpec", "ExecutedCall", "ExecutedNode", "FloatPrecision", "Runtime"]


class ShapeRange(BaseModel):
    """The inputs, [N, C, H, W], that a compiled engine takes: each size from `smallest` to `largest`, tuned for one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    smallest: tuple[int, int, int, int]
    usual: tuple[int, int, int, int]
    largest: tuple[int, int, int, int]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, middle, high in zip(self.smallest, self.usual, self.largest, strict=True):
            if not 1 <= low <= middle <= high:
                raise ValueError(f"each size must be smallest <= usual <= largest, not {low}, {middle}, {high}")
        return self

    @staticmethod
    def around(usual: tuple[int, int, int, int], least: int = 16) -> ShapeRange:
        """From 1 x `least` x `least` to twice the usual height and width (512 at least) in a batch of 4 at least."""
        batch, channels, height, width = usual
        return ShapeRange(
            smallest=(1, channels, min(least, height), min(least, width)),
            usual=usual,
            largest=(max(4, batch), channels, max(512, 2 * height), max(512, 2 * width)),
        )

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an input of this shape lies in the range."""
        sizes = zip(self.smallest, shape, self.largest, strict=True)
        return len(shape) == 4 and all(low <= size <= high for low, size, high in sizes)

    @property
    def sides(self) -> tuple[int, int]:
        """The least and the largest side of the squares that it takes."""
        return max(self.smallest[2:]), min(self.largest[2:])


class EngineSpec(BaseModel):
    """All that is needed to load an engine again; written beside the artefact as `engine.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: Runtime
    artefact: str = Field(description="file name of the model, relative to the folder of engine.json")
    float_precision: FloatPrecision = FloatPrecision.FP32
    runtime_version: str = Field(description="version of the runtime package that the engine was built with")
    artefact_sha256: str
    profile: str = Field(description="id of the device profile")
    input_shape: tuple[int, int, int, int] | None = Field(
        default=None,
        description="[N, C, H, W] that the runtime specialises on if it can; other shapes still run, at general speed",
    )
    super_resolution: SRFormat | None = Field(
        default=None, description="what the network takes and gives; null for what does not enlarge pictures"
    )
    source: str | None = Field(
        default=None, description="for a compiled engine the ONNX file, beside it, that it was compiled from"
    )
    shapes: ShapeRange | None = Field(default=None, description="the inputs that a compiled engine takes")
    compute_capability: str | None = Field(
        default=None, description="compute capability that it was compiled for, such as 8.9"
    )
    profile_hash: str | None = Field(default=None, description="hash of the device profile that it was compiled for")
    record_sha256: str | None = Field(default=None, description="of what its builder told of it, where that is kept")

    @property
    def onnx(self) -> str:
        """File name of the ONNX file that the engine came from: the artefact itself unless that was compiled."""
        return self.artefact if self.source is None else self.source


class ExecutedNode(BaseModel):
    """One node of the graph that a runtime really executes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    op: str
    precision: str = Field(description="int8, bf16, fp32 ... as the runtime reports it")
    kernel: str = Field(description="the runtime's own name of the kernel")
    origins: tuple[str, ...] = Field(
        default=(), description="names of the exported nodes that were fused into this one"
    )


class ExecutedCall(ExecutedNode):
    """One node with the activations that it reads and writes at one input shape; constants are left out."""

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]


class SparseTactics(BaseModel):
    """What a builder told of structured sparsity: layers whose weights allow it, and layers that it chose it for.

    The names are empty where the builder told only the numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    eligible: int
    picked: int
    eligible_layers: tuple[str, ...] = ()
    picked_layers: tuple[str, ...] = ()


class CallTimes(BaseModel):
    """The calls of an inference in order, and `blocks_ms`: for each block of inferences the mean ms of each call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: tuple[ExecutedCall, ...]
    blocks_ms: tuple[tuple[float, ...], ...]


class Engine(ABC):
    """A loaded engine. One network input and one output, float32, NCHW, any batch, height and width."""

    def __init__(self, spec: EngineSpec, folder: Path, threads: int) -> None:
        self.spec = spec
        self.folder = folder
        self.threads = threads

    @abstractmethod
    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32 and return the output, float32."""

    @abstractmethod
    def executed_nodes(self) -> tuple[ExecutedNode, ...]:
        """The graph as the runtime optimised it, with the precision of each node, read from the runtime itself."""

    def require_takes(self, x: np.ndarray) -> None:
        """UsageError where a compiled engine does not take an input of this type and shape, [N, C, H, W]."""
        shapes = self.spec.shapes
        if x.dtype != np.float32 or (shapes is not None and not shapes.takes(x.shape)):
            takes = "" if shapes is None else f" from {list(shapes.smallest)} to {list(shapes.largest)}"
            raise UsageError(
                f"{self.spec.runtime} cannot run {x.dtype} {list(x.shape)}: the engine takes float32{takes}"
            )

    def file_for(self, shape: tuple[int, ...]) -> bytes:
        """The file with which a machine that has the runtime alone runs inputs of `shape`, [N, C, H, W]."""
        del shape
        return (self.folder / self.spec.artefact).read_bytes()

    def why_not_here(self) -> str | None:
        """Why the engine cannot run on this machine, in words; None where it can."""
        return None

    def require_here(self, instead: str = "") -> None:
        """DeviceError where the engine cannot run on this machine; it ends with what to do `instead`."""
        reason = self.why_not_here()
        if reason is not None:
            raise DeviceError(f"{self.folder / self.spec.artefact} cannot run here: {reason}{instead}")

    def use_cuda_graph(self) -> None:
        """From its first run on, replay the computation as a captured CUDA graph; UsageError for one not on a GPU."""
        raise UsageError(
            f"{self.folder / self.spec.artefact} runs on the processor; CUDA graphs are for engines that run on a GPU"
        )

    def gpu_stages_ms(self) -> tuple[float, float, float] | None:
        """Ms of the last run by CUDA events: copy to the GPU, computation, copy back; None for one not on a GPU."""
        return None

    def sparse_tactics(self) -> SparseTactics | None:
        """What the builder told of structured sparsity; None where it told nothing."""
        return None

    def time_calls(self, x: np.ndarray, *, warm_up: int, runs: int, blocks: int) -> CallTimes:
        """Load the network anew with the runtime's own profiler on, and time each call of `blocks` x `runs` inferences.

        `x`: [N, C, H, W] float32; `warm_up` inferences come first and are not counted. The whole takes longer than
        without the profiler. UsageError for a runtime that tells no time per node.
        """
        raise UsageError(f"{self.spec.runtime} tells no time per node, so it cannot be profiled (input {x.shape})")
