"""`tensorrt` 10 and 11 without a GPU, as far as the builder uses it and as NVIDIA's documentation has it.

10: networks are typed weakly unless they are created with STRONGLY_TYPED, and flags for precisions exist. 11: all are
typed strongly, and neither exists. Both take kernels' times from a timing cache, of the same version and GPU only.
"""

from __future__ import annotations

import json
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx


class Cache:
    """Times of kernels by layer; its bytes begin with what wrote it."""

    def __init__(self, mark: bytes, content: bytes) -> None:
        self.mark, self.fits = mark, content == b"" or content.startswith(mark)
        self.times = set(content.removeprefix(mark).split(b"\n")) - {b""} if self.fits else set()

    def serialize(self) -> bytes:
        return self.mark + b"\n".join(sorted(self.times))


class Network:
    def __init__(self, strong: bool) -> None:
        self.strong = strong
        self.file = onnx.ModelProto()

    def get_input(self, index: int) -> Any:
        return SimpleNamespace(name=self.file.graph.input[index].name)


class Parser:
    def __init__(self, network: Network, log: Any) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        self._network.file = onnx.load(path)
        return True


class Config:
    """A builder's configuration. TF32 is on by default, as in TensorRT."""

    def __init__(self, module: ModuleType) -> None:
        self._mark = module.mark
        self.flags = {module.BuilderFlag.TF32}
        self.profiling_verbosity: Any = None
        self.profiles: list[Any] = []
        self.cache: Cache | None = None

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> Cache:
        return Cache(self._mark, content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self.cache = cache if cache.fits else None
        return cache.fits


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = shapes


class ILogger:
    """The base class of loggers."""


def fake_tensorrt(version: str, gpu: str = "sm89") -> ModuleType:
    """A module of this version on a machine with such a GPU; `seen`: what each build was given, and what it timed."""
    major = int(version.partition(".")[0])
    module = ModuleType("tensorrt")
    module.__version__ = version
    module.mark = f"{version}/{gpu}:".encode()
    module.seen = []
    newer = major >= 11
    module.NetworkDefinitionCreationFlag = IntEnum(
        "NetworkDefinitionCreationFlag", ["NOTHING"] if newer else [("EXPLICIT_BATCH", 0), ("STRONGLY_TYPED", 1)]
    )
    kinds = ["TF32", "SPARSE_WEIGHTS"] if newer else ["FP16", "INT8", "TF32", "SPARSE_WEIGHTS"]
    module.BuilderFlag = IntEnum("BuilderFlag", kinds)
    module.ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "DETAILED"])
    module.LayerInformationFormat = IntEnum("LayerInformationFormat", ["ONELINE", "JSON"])
    module.ILogger, module.OnnxParser = ILogger, Parser
    module.Logger = type("Logger", (ILogger,), {"ERROR": 1, "__init__": lambda self, severity: None})

    class Builder:
        def __init__(self, log: Any) -> None:
            assert isinstance(log, ILogger)

        def create_network(self, flags: int) -> Network:
            return Network(newer or bool(flags & 1 << 1))

        def create_builder_config(self) -> Config:
            return Config(module)

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes:
            layers = [node for node in network.file.graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
            known = set() if config.cache is None else config.cache.times
            fresh = [node.name for node in layers if node.name.encode() not in known]
            if config.cache is not None:
                config.cache.times |= {name.encode() for name in fresh}
            module.seen.append(SimpleNamespace(network=network, config=config, timed=fresh))
            # Weakly typed, nothing makes the builder keep to the types of the file.
            kind = "Int8" if network.strong else "Float"
            origin = "[ONNX Layer: {}]".format
            tensor = {"Name": "x", "Format/Datatype": f"Row major linear {kind} format"}
            told = [
                {
                    "Name": node.name, "LayerType": "CaskConvolution", "Weights": {"Type": kind, "Count": 1},
                    "Inputs": [tensor], "Outputs": [tensor], "TacticName": "t", "Metadata": origin(node.name),
                }
                for node in layers
            ]  # fmt: skip
            return json.dumps({"Layers": told}).encode()

    class Runtime:
        def __init__(self, log: Any) -> None:
            assert isinstance(log, ILogger)

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            inspector = SimpleNamespace(get_engine_information=lambda form: content.decode())
            return SimpleNamespace(create_engine_inspector=lambda: inspector)

    module.Builder, module.Runtime = Builder, Runtime
    return module
