"""TensorRT's builder: an ONNX file with explicit Q/DQ in, a serialised engine and the builder's log out.

The same calls serve `tensorrt_rtx` and `tensorrt`: what differs between the packages and their versions is asked of the
package itself. TensorRT-RTX 1.7 compiles for a given architecture and needs no GPU; TensorRT times kernels on the GPU
that it compiles for, and remembers the times in a timing cache (in TensorRT-RTX the cache does nothing).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from bitwright.foundation.caches import keep_cached, read_cached
from bitwright.foundation.errors import UsageError
from deploy.engine import Runtime, ShapeRange
from deploy.engines.tensorrt_log import logger, reasons
from deploy.engines.tensorrt_target import GpuTarget


@dataclass(frozen=True)
class Compiled:
    """A serialised engine, and every line that the builder logged, whatever its severity."""

    engine: bytes
    log: tuple[str, ...]


def compile_network(
    api: ModuleType,
    runtime: Runtime,
    path: Path,
    target: GpuTarget,
    shapes: ShapeRange,
    *,
    sparse_weights: bool,
    cache: Path,
) -> Compiled:
    """Compile an ONNX file for `target`. `cache`: where TensorRT keeps its timing cache from build to build.

    UsageError, with the parser's or the builder's own reason and the node that it names, when it refuses the file.
    """
    log = logger(api)
    builder = api.Builder(log)
    network = builder.create_network(_creation_flags(api))
    parser = api.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        raise UsageError(f"{runtime} cannot read {path.name}: {_parse_error(parser)}")
    config = builder.create_builder_config()
    _configure(api, config, target, runtime, sparse_weights)
    profile = builder.create_optimization_profile()
    given = network.get_input(0)
    profile.set_shape(given.name, shapes.smallest, shapes.usual, shapes.largest)
    if config.add_optimization_profile(profile) < 0:
        raise UsageError(
            f"{runtime} does not take inputs from {list(shapes.smallest)} to {list(shapes.largest)} for {path.name}: "
            f"{reasons(log.lines)}"
        )
    timings = _timing_cache(config, cache) if runtime is Runtime.TENSORRT else None
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UsageError(f"{runtime} cannot build {path.name}: {reasons(log.lines)}")
    if timings is not None:
        keep_cached(cache, bytes(timings.serialize()))
    return Compiled(bytes(engine), tuple(text for _, text in log.lines))


def _creation_flags(api: ModuleType) -> int:
    """Strong typing: precisions are those of the file, and only Q/DQ pairs make integers.

    A version that knows nothing else has no flag for it.
    """
    flags = api.NetworkDefinitionCreationFlag.__members__
    return 1 << int(flags["STRONGLY_TYPED"]) if "STRONGLY_TYPED" in flags else 0


def _configure(api: ModuleType, config: Any, target: GpuTarget, runtime: Runtime, sparse_weights: bool) -> None:
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    # On by default, it would run what is planned as fp32 with 10 bits of mantissa.
    config.clear_flag(api.BuilderFlag.TF32)
    if sparse_weights:
        config.set_flag(api.BuilderFlag.SPARSE_WEIGHTS)
    if runtime is Runtime.TENSORRT_RTX:
        config.num_compute_capabilities = 1
        config.set_compute_capability(api.ComputeCapability.__members__[target.member], 0)


def _timing_cache(config: Any, path: Path) -> Any:
    cache = config.create_timing_cache(read_cached(path))
    # A cache of another GPU or version is refused, and an empty one takes its place.
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _parse_error(parser: Any) -> str:
    told = parser.get_error(0)
    first = told.desc().strip().splitlines()
    lines = [line for line in first if not line.startswith("[")] or first
    return f"node {told.node_name()!r} ({told.node_operator()}): {lines[-1]}"
