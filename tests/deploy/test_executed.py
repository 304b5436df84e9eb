"""What a runtime executes on the machine of a bundle comes back, and is held against the plan at home."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import onnx
import pytest

from bitwright.foundation.errors import UsageError
from compress.compressed import CompressedModel
from deploy.audit import Audit, audit
from deploy.engines import load_engine
from deploy.remote import Results, audit_elsewhere
from tests.deploy.bundle_helpers import Bundle, make_bundle, start
from tests.deploy.runtimes import TELL_EXECUTED


@pytest.fixture(scope="module", params=TELL_EXECUTED)
def bundle(
    request: pytest.FixtureRequest, quantized_file: Path, float_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp(request.param), quantized_file, float_file, request.param)


@pytest.fixture(scope="module")
def results(bundle: Bundle) -> Results:
    ended = start(sys.executable, bundle.file, bundle.file.parent / "out")
    assert ended.returncode == 0, ended.stderr
    return Results.read(bundle.file.parent / "out")


def audit_of(file: Path, bundle: Bundle, quantized_file: Path, model: CompressedModel) -> Audit:
    engine = bundle.file.parent / "engine"
    return audit_elsewhere(file, engine, bundle.manifest.arms[0].spec, quantized_file, model.plan)


def test_the_audit_of_what_came_back_is_the_audit_of_the_engine(
    bundle: Bundle, results: Results, quantized_file: Path, model: CompressedModel
) -> None:
    found = results.executed(bundle.manifest)
    assert list(found) == ["engine"], "the float network has no plan"
    here = audit(load_engine(bundle.file.parent / "engine", 1), quantized_file, model.plan)
    assert here.executed == {"int8": len(model.plan.layers)}
    assert audit_of(found["engine"], bundle, quantized_file, model) == here


def test_what_a_machine_executes_in_float_is_named(
    bundle: Bundle, results: Results, quantized_file: Path, model: CompressedModel, tmp_path: Path
) -> None:
    file = tmp_path / "other"
    original = results.executed(bundle.manifest)["engine"]
    if original.suffix == ".onnx":
        graph = onnx.load(original, load_external_data=False)
        node = next(n for n in graph.graph.node if n.op_type == "QLinearConv")
        node.op_type, node.domain = "FusedConv", "com.microsoft"
        kept = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        graph.graph.value_info.append(kept)
        file.write_bytes(graph.SerializeToString())
    else:
        told = json.loads(original.read_text())
        convolution = next(o for o in told["operators"] if o["op_name"] == "CONV_2D")
        for tensor in (*convolution["inputs"], *convolution["outputs"]):
            told["tensors"][str(tensor)]["dtype"] = "float32"
        file.write_text(json.dumps(told))
    found = audit_of(file, bundle, quantized_file, model)
    # In LiteRT, the operator that reads what is made in float then has an input of each kind.
    assert {m.executed for m in found.mismatches} - {"int8+fp32"} == {"fp32"}


def of_unknown_type(original: Path) -> bytes:
    """What a machine tells, with a type that is none."""
    if original.suffix == ".json":
        return original.read_bytes().replace(b'"int8"', b'"int7"')
    graph = onnx.load(original, load_external_data=False)
    first = next(node for node in graph.graph.node if node.op_type == "QuantizeLinear")
    graph.graph.value_info.append(onnx.helper.make_tensor_value_info(first.output[0], 999, None))
    return graph.SerializeToString()


def test_weights_do_not_travel(bundle: Bundle, results: Results, quantized_file: Path) -> None:
    (file,) = results.executed(bundle.manifest).values()
    assert sorted(path.name for path in file.parent.iterdir()) == sorted(["lock", "samples.jsonl", file.name])
    if file.suffix == ".onnx":
        initializers = onnx.load(file, load_external_data=False).graph.initializer
        assert max(len(tensor.raw_data) for tensor in initializers) < 1024
        assert any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in initializers)


def test_a_file_that_was_changed_or_is_none_is_refused(
    bundle: Bundle, results: Results, quantized_file: Path, model: CompressedModel, tmp_path: Path
) -> None:
    copied = tmp_path / "out"
    shutil.copytree(results.path.parent, copied)
    name = bundle.manifest.arms[0].executed
    assert name is not None
    (copied / name).write_bytes(b"\xffno graph")
    with pytest.raises(UsageError, match=f"{name} is not as its runner wrote it"):
        Results.read(copied).executed(bundle.manifest)
    no_graph = r"is no graph of ONNX Runtime|does not tell what LiteRT executes"
    with pytest.raises(UsageError, match=no_graph):
        audit_of(copied / name, bundle, quantized_file, model)
    (copied / name).write_bytes(of_unknown_type(results.executed(bundle.manifest)["engine"]))
    with pytest.raises(UsageError, match=no_graph):
        audit_of(copied / name, bundle, quantized_file, model)
    (copied / name).unlink()
    assert Results.read(copied).executed(bundle.manifest) == {}
