"""Engines of OpenVINO IR files, which is what peers write; the static input shape is given as bitwright gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import sha256_file, write_text
from deploy.engine import Engine, EngineSpec, ExecutedNode, FloatPrecision, Runtime
from deploy.engines import SPEC_FILE, read_spec
from deploy.engines.openvino_engine import OpenVinoEngine
from deploy.engines.runtime_packages import import_runtime, runtime_version

LOADER = "benchmarks.ir_engine:load_ir"
ARTEFACT = "model.xml"
_INTEGERS = ("u8", "i8")


class IrEngine(OpenVinoEngine):
    """An OpenVINO engine without an exported ONNX file, so its nodes have no origins."""

    def executed_nodes(self) -> tuple[ExecutedNode, ...]:
        """The nodes of the network that was compiled for the engine's own input shape."""
        nodes = []
        for node in self._session.network.get_runtime_model().get_ordered_ops():
            info = {key: str(value.value) for key, value in node.get_rt_info().items()}
            precision = "int8" if info["runtimePrecision"] in _INTEGERS else info["runtimePrecision"]
            nodes.append(
                ExecutedNode(
                    name=node.get_friendly_name(),
                    op=info["layerType"],
                    precision=precision,
                    kernel=info["primitiveType"],
                )
            )
        return tuple(nodes)


def save_ir(
    network: Any, folder: Path, *, precision: FloatPrecision, input_shape: tuple[int, int, int, int], profile: str
) -> EngineSpec:
    """Write an `openvino.Model` and its `engine.json`; no weight is rounded to half precision on the way."""
    folder.mkdir(parents=True, exist_ok=True)
    import_runtime(Runtime.OPENVINO).save_model(network, str(folder / ARTEFACT), compress_to_fp16=False)
    spec = EngineSpec(
        runtime=Runtime.OPENVINO,
        artefact=ARTEFACT,
        float_precision=precision,
        runtime_version=runtime_version(Runtime.OPENVINO),
        artefact_sha256=_hash(folder),
        profile=profile,
        input_shape=input_shape,
    )
    write_text(folder / SPEC_FILE, spec.model_dump_json(indent=1) + "\n")
    return spec


def load_ir(folder: Path, threads: int) -> Engine:
    """Load what `save_ir` wrote; UsageError for another file or another version of OpenVINO."""
    spec = read_spec(folder)
    if _hash(folder) != spec.artefact_sha256 or runtime_version(spec.runtime) != spec.runtime_version:
        raise UsageError(f"{folder} was written with another file or OpenVINO version; remove it and run again")
    return IrEngine(spec, folder, threads)


def _hash(folder: Path) -> str:
    # The graph and the weights are two files, and the spec has room for one hash: the weights decide the numbers.
    return sha256_file((folder / ARTEFACT).with_suffix(".bin"))
