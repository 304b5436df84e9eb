"""TensorRT-RTX engines, built for several GPU architectures on a machine that needs none of them."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError, VerificationError
from compress.compressed import CompressedModel
from compress.nm_pattern import Sparsity
from compress.plan import Placement
from deploy.audit import audit
from deploy.engine import Runtime, ShapeRange, SparseTactics
from deploy.engines import build_engine, load_engine, read_spec
from deploy.engines.runtime_packages import runtime_version
from deploy.engines.tensorrt_engine import TensorRtEngine
from deploy.engines.tensorrt_record import BuildRecord, layers_in_json, sparse_tactics_in_log
from deploy.engines.tensorrt_target import GpuTarget
from deploy.onnx_export import export_quantized
from deploy.onnx_sparsity import verify_nm
from hw_profiles import DeviceProfile, load_profile
from tests.deploy.conftest import SIGNED

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'bitwright[tensorrt-rtx]'")

RTX = Runtime.TENSORRT_RTX
SHAPES = ShapeRange.around((1, 3, 24, 32), 8)
DEVICE = "rtx-3060"


def device_of(isa: str) -> DeviceProfile:
    """A profile of the catalogue with another architecture; Turing has no 2:4 kernels."""
    known = load_profile(DEVICE)
    features = () if isa == "sm_75" else known.arch.features
    return known.model_copy(update={"arch": known.arch.model_copy(update={"isa": isa, "features": features})})


def build(path: Path, folder: Path, device: DeviceProfile) -> TensorRtEngine:
    build_engine(path, folder, runtime=RTX, profile=device.id, device=device, shapes=SHAPES)
    engine = load_engine(folder, 1, device=device)
    assert isinstance(engine, TensorRtEngine)
    return engine


@pytest.mark.engine
@pytest.mark.parametrize("isa", ["sm_80", "sm_86", "sm_89", "sm_120"])
def test_one_file_is_built_for_every_architecture_with_all_layers_on_integers(
    isa: str, symmetric: CompressedModel, symmetric_file: Path, tmp_path: Path
) -> None:
    engine = build(symmetric_file, tmp_path, device_of(isa))
    result = audit(engine, symmetric_file, symmetric.plan)
    result.require()
    assert result.executed == {"int8": 4}
    assert {layer.kernel for layer in result.layers} == {"correlation"}
    spec = read_spec(tmp_path)
    assert spec.compute_capability == f"{isa[3:-1]}.{isa[-1]}"
    assert (spec.runtime_version, spec.onnx, spec.shapes) == (runtime_version(RTX), "net.onnx", SHAPES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["build.json", "engine.json", "net.engine", "net.onnx"]


@pytest.mark.engine
def test_turing_is_built_in_float_and_the_audit_says_so(
    symmetric: CompressedModel, symmetric_file: Path, tmp_path: Path
) -> None:
    result = audit(build(symmetric_file, tmp_path, device_of("sm_75")), symmetric_file, symmetric.plan)
    assert result.executed == {"fp32": 4}
    with pytest.raises(VerificationError, match="4 of 4 layers did not execute as planned in tensorrt-rtx: head"):
        result.require()


@pytest.mark.engine
def test_rfdn_is_built_for_three_architectures(quantize, data: Path, tmp_path: Path) -> None:
    from workloads.loading import load_checkpoint

    loaded = load_checkpoint(data / "checkpoints" / "rfdn_x4.pth")
    crops = loaded.workload.calibration(data / "sr" / "test" / "Set5", 1, 24, 0)
    model = quantize(loaded.module, Placement.INPUTS, activation=SIGNED, crops=crops)
    path = tmp_path / "rfdn.onnx"
    export_quantized(model, crops[:1], path, quantize_bias=False)
    shapes = ShapeRange.around((1, 3, 64, 64), loaded.workload.min_input_side)
    for name in ("a100-sxm-80gb", "rtx-3060", "rtx-4090"):
        device = load_profile(name)
        build_engine(path, tmp_path / name, runtime=RTX, profile=name, device=device, shapes=shapes)
        result = audit(load_engine(tmp_path / name, 1, device=device), path, model.plan)
        assert result.executed == {"int8": 64}
        result.require()


@pytest.mark.engine
def test_float_layers_and_float_networks_are_told_apart(
    quantize, network: nn.Module, inputs: Tensor, float_file: Path, tmp_path: Path
) -> None:
    model = quantize(network, Placement.INPUTS, activation=SIGNED, float_layers=("head",))
    path = tmp_path / "mixed.onnx"
    export_quantized(model, inputs[:1], path, quantize_bias=False)
    result = audit(build(path, tmp_path / "mixed", load_profile(DEVICE)), path, model.plan)
    assert {layer.layer: layer.executed for layer in result.layers} == {
        "head": "fp32", "body": "int8", "body#2": "int8", "tail": "int8",
    }  # fmt: skip
    result.require()
    wrong = audit(build(float_file, tmp_path / "float", load_profile(DEVICE)), float_file, model.plan)
    assert [layer.layer for layer in wrong.mismatches] == ["body", "body#2", "tail"]


@pytest.mark.engine
def test_a_file_for_cpus_is_explained_layer_by_layer_and_nothing_is_built(quantized_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    with pytest.raises(UsageError, match=r"tensorrt-rtx does not accept \d+ quantisers") as caught:
        build(quantized_file, folder, load_profile(DEVICE))
    message = str(caught.value)
    biases = "head, body, body#2, tail: its bias is int32 behind DequantizeLinear (export it with biases in float)"
    assert biases in message
    # The second call of `body` reads what a leaky ReLU made, which is not symmetric.
    assert "; body#2, tail: its input has a zero point other than 0 (quantise symmetrically)" in message
    assert "\n" not in message
    assert not folder.exists()


@pytest.mark.engine
def test_two_of_four_is_allowed_sparse_kernels_where_the_architecture_has_them(
    quantize, network: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    pruned = {name: value.clone() for name, value in network.state_dict().items()}
    body = pruned["body.weight"]
    smallest = body.abs().unflatten(1, (-1, 4)).argsort(dim=2)[:, :, :2]
    body.unflatten(1, (-1, 4)).scatter_(2, smallest, 0.0)
    sparse_network = type(network)().eval()
    sparse_network.load_state_dict(pruned)
    model = quantize(sparse_network, Placement.INPUTS, activation=SIGNED)
    pattern = Sparsity.parse("2:4")
    dense_path, sparse_path = tmp_path / "a" / "net.onnx", tmp_path / "b" / "net.onnx"
    dense_path.parent.mkdir()
    sparse_path.parent.mkdir()
    export_quantized(model, inputs[:1], dense_path, quantize_bias=False)
    for name in ("body", "body#2"):
        layer = model.plan.layers[name]
        model.plan.layers[name] = layer.model_copy(update={"sparsity": pattern})
    export_quantized(model, inputs[:1], sparse_path, quantize_bias=False)
    assert all(found.holds for found in verify_nm(sparse_path, dict(model.plan.sparse_layers)))
    allowed = {}
    for isa in ("sm_75", "sm_80", "sm_89", "sm_120"):
        folder = tmp_path / isa
        engine = build(sparse_path, folder, device_of(isa))
        record = BuildRecord.read(folder, engine.spec.artefact_sha256, engine.spec.record_sha256)
        allowed[isa] = record.sparse_weights
        result = audit(engine, sparse_path, model.plan)
        assert result.executed == {"fp32" if isa == "sm_75" else "int8": 4}
        # TensorRT-RTX 1.7 chooses kernels when an engine is first loaded, so its builder has nothing to tell.
        assert result.sparse is None
    assert allowed == {"sm_75": False, "sm_80": True, "sm_89": True, "sm_120": True}
    dense = build(dense_path, tmp_path / "dense", device_of("sm_80")).spec
    assert not BuildRecord.read(tmp_path / "dense", dense.artefact_sha256, dense.record_sha256).sparse_weights


def test_sparse_layers_are_read_from_a_log_in_any_wording() -> None:
    newer = ["(Sparsity) Found 3 layer(s) eligible to use sparse tactics: a, b, c",
             "(Sparsity) Chose 1 layer(s) using sparse tactics: b"]  # fmt: skip
    assert sparse_tactics_in_log(newer) == SparseTactics(
        eligible=3, picked=1, eligible_layers=("a", "b", "c"), picked_layers=("b",)
    )
    counted = ["(Sparsity) Found 39 layer(s) eligible to use sparse tactics",
               "(Sparsity) Chose 0 layer(s) using sparse tactics"]  # fmt: skip
    assert sparse_tactics_in_log(counted) == SparseTactics(eligible=39, picked=0)
    older = ["[I] (Sparsity) Layers eligible for sparse math: a, b",
             "[I] (Sparsity) TRT inference plan picked sparse implementation for layers: a"]  # fmt: skip
    assert sparse_tactics_in_log(older) == SparseTactics(
        eligible=2, picked=1, eligible_layers=("a", "b"), picked_layers=("a",)
    )
    assert sparse_tactics_in_log(["Layers:", "(Sparsity) Found 1 layer(s) eligible to use sparse tactics"]) is None


def test_inspectors_tell_types_in_two_ways() -> None:
    text = json.dumps({"Layers": [
        "only a name",
        {"Name": "c", "LayerType": "CaskConvolution", "Weights": {"Type": "Int8", "Count": 9},
         "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
         "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP16 format"}],
         "TacticName": "t", "Metadata": "[ONNX Layer: body]\x1f[ONNX Layer: a]"},
        {"Name": "g", "LayerType": "gemm", "Inputs": [{"Name": "x", "Datatype": "Half"}], "Outputs": []},
    ]})  # fmt: skip
    conv, product = layers_in_json(text)
    assert (conv.inputs, conv.constants, conv.outputs) == (("Int8",), ("Int8",), ("FP16",))
    assert conv.origins == ("body", "a")
    assert (product.inputs, product.constants) == (("Half",), ())


def test_a_target_that_cannot_be_built_for_is_refused(float_file: Path, tmp_path: Path) -> None:
    def refusal(runtime: Runtime, device: DeviceProfile | None) -> str:
        with pytest.raises(UsageError) as caught:
            build_engine(float_file, tmp_path / "e", runtime=runtime, profile="any", device=device)
        assert not (tmp_path / "e").exists()
        return str(caught.value)

    hopper = refusal(RTX, load_profile("h100-sxm"))
    assert "does not compile for SM 9.0 (h100-sxm); it compiles for 75, 80, 86, 89, 120" in hopper
    assert "x86-avx2 is x86_64, expected sm_" in refusal(RTX, load_profile("x86-avx2"))
    assert "give the device profile to build for" in refusal(RTX, None)


@pytest.mark.engine
def test_a_file_that_tensorrt_cannot_read_names_the_node(tmp_path: Path) -> None:
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 3, "H", "W"]) for n in ("input", "out"))
    node = onnx.helper.make_node("Celestial", ["input"], ["out"], name="star", domain="far.away")
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("far.away", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "star.onnx")
    with pytest.raises(UsageError, match=r"cannot read star\.onnx: node 'star' \(Celestial\)"):
        build_engine(tmp_path / "star.onnx", tmp_path / "e", runtime=RTX, profile=DEVICE, device=load_profile(DEVICE))


def test_targets_come_from_profiles() -> None:
    target = GpuTarget.of(load_profile("rtx-4090"))
    assert (target.compute_capability, target.member, target.sparse) == ("8.9", "SM89", True)
    assert GpuTarget.of(device_of("sm_120")).compute_capability == "12.0"
    assert not GpuTarget.of(device_of("sm_75")).sparse


def test_shapes_must_be_ordered() -> None:
    with pytest.raises(ValueError, match="smallest <= usual <= largest, not 8, 4, 16"):
        ShapeRange(smallest=(1, 3, 8, 8), usual=(1, 3, 4, 8), largest=(1, 3, 16, 16))
    assert SHAPES.takes((4, 3, 512, 512))
    assert not SHAPES.takes((5, 3, 24, 32))
    assert not SHAPES.takes((1, 4, 24, 32))
