"""The torch engine: its package, what it executes, and what it refuses; see `test_trained_networks` too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import DeviceError, MissingPackageError, UsageError, VerificationError
from compress.compressed import CompressedModel
from compress.graph import capture
from compress.plan import Placement
from compress.quantizers import QuantFormat
from deploy.audit import audit
from deploy.engine import FloatPrecision, Runtime
from deploy.engines import SPEC_FILE, build_engine, load_engine
from deploy.engines.torch_engine import TorchEngine
from deploy.engines.torch_nodes import executed_nodes
from deploy.onnx_export import export_float, export_quantized
from deploy.torch_aot.network import OnnxNetwork
from deploy.torch_aot.package import Package
from deploy.torch_aot.proof import require_equal
from hw_profiles import load_profile
from tests.deploy.conftest import BuildOnce
from tests.marks import needs_compiler

TORCH = Runtime.TORCH

pytestmark = needs_compiler


def built(path: Path, folder: Path, precision: FloatPrecision = FloatPrecision.FP32, threads: int = 1) -> TorchEngine:
    build_engine(path, folder, runtime=TORCH, profile="any", float_precision=precision)
    engine = load_engine(folder, threads)
    assert isinstance(engine, TorchEngine)
    return engine


@pytest.fixture(scope="module")
def integers(quantized_file: Path, build_once: BuildOnce, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small network's engine on integers."""
    folder = tmp_path_factory.mktemp("engine")
    build_once(quantized_file, TORCH, folder)
    return folder


def test_the_artefact_is_one_package_that_says_what_it_is(integers: Path) -> None:
    spec = json.loads((integers / SPEC_FILE).read_text())
    assert (spec["artefact"], spec["source"]) == ("quantized.pt2", "quantized.onnx")
    assert spec["runtime_version"] == torch.__version__
    assert sorted(file.name for file in integers.iterdir()) == ["engine.json", "quantized.onnx", "quantized.pt2"]
    described = Package.read(integers / "quantized.pt2").described
    assert described.layers == ("head", "body", "body#2", "tail")
    assert (described.shape, described.smallest, described.device) == ((None, 3, None, None), (1, 1), "cpu")


def test_the_layers_are_integer_kernels_of_onednn(integers: Path) -> None:
    nodes = load_engine(integers, 1).executed_nodes()
    layers = [node for node in nodes if node.op == "Convolution"]
    assert [(node.name, node.precision) for node in layers] == [
        ("head", "int8"), ("body", "int8"), ("body#2", "int8"), ("tail", "int8")
    ]  # fmt: skip
    assert {node.kernel for node in layers} <= {"_qconv_pointwise_tensor", "_qconv2d_pointwise_binary_tensor"}
    # The last loop turns the integers of the output into reals.
    assert [node.precision for node in nodes if node.op == "Loop"][-1] == "fp32"


def test_onednn_itself_reports_bytes_as_inputs_and_weights(integers: Path) -> None:
    script = (
        "import sys, numpy; from pathlib import Path; from deploy.engines import load_engine;"
        "load_engine(Path(sys.argv[1]), 1).run(numpy.zeros((1, 3, 24, 32), 'float32'))"
    )
    environment = os.environ | {"ONEDNN_VERBOSE": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    told = subprocess.run(
        [sys.executable, "-c", script, str(integers)], env=environment, capture_output=True, text=True, check=True
    ).stdout
    executed = [line for line in told.splitlines() if ",exec,cpu,convolution," in line]
    assert len(executed) == 4
    assert all("src:u8" in line or "src_u8" in line for line in executed)
    assert all("wei:s8" in line or "wei_s8" in line for line in executed)


def test_a_mixed_plan_runs_in_bf16_and_on_integers(
    quantize, network: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    model = quantize(network, Placement.INPUTS, float_layers=("body", "body#2"), float_precision="bf16")
    path = tmp_path / "model.onnx"
    export_quantized(model, inputs[:1], path)
    engine = built(path, tmp_path, FloatPrecision.BF16)
    result = audit(engine, path, model.plan)
    result.require()
    assert result.executed == {"int8": 2, "bf16": 2}
    expected = model.simulate()(inputs).numpy()
    assert np.abs(engine.run(inputs.numpy()) - expected).max() < 0.03 * np.ptp(expected)


def test_a_transposed_convolution_runs_in_float_and_is_named(quantize, inputs: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(16, 4, 4, 2, 1)).eval()
    narrow = QuantFormat(bits=4, granularity="channel", symmetric=True, signed=True)
    model = quantize(network, Placement.EVERYTHING, weight=narrow)
    path = tmp_path / "model.onnx"
    export_quantized(model, inputs[:1], path)
    engine = built(path, tmp_path)
    result = audit(engine, path, model.plan)
    assert {layer.layer: layer.executed for layer in result.layers} == {"0": "int8", "2": "fp32"}
    with pytest.raises(VerificationError, match=r"1 of 2 .* 2: planned int8, executed fp32 by convolution"):
        result.require()
    difference = np.abs(engine.run(inputs.numpy()) - model.simulate()(inputs).numpy())
    assert difference.max() < 1.01 * max(float(params.scale) for params in model.activations.values())


def test_threads_are_set_for_a_run_and_set_back(integers: Path) -> None:
    before = torch.get_num_threads()
    x = np.zeros((1, 3, 24, 32), np.float32)
    outputs = [load_engine(integers, threads).run(x) for threads in (1, 2)]
    np.testing.assert_array_equal(*outputs)
    assert torch.get_num_threads() == before


def test_a_changed_package_is_refused_before_its_code_is_loaded(integers: Path, tmp_path: Path) -> None:
    for file in integers.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "quantized.pt2").write_bytes((integers / "quantized.pt2").read_bytes() + b"\0")
    with pytest.raises(UsageError, match=r"quantized\.pt2 is not the file .* rebuild"):
        load_engine(tmp_path, 1)


def test_a_file_that_is_no_package_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.pt2"
    path.write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"other\.pt2 is not a package .* rebuild") as caught:
        Package.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("network/readme", "")
    with pytest.raises(UsageError, match="not a package of one network"):
        Package.read(path)
    assert "\n" not in str(caught.value)


def test_a_package_for_another_processor_is_read_but_not_run(
    integers: Path, quantized_file: Path, model: CompressedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = torch.cpu.get_capabilities()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: here | {"sse2": False})
    engine = load_engine(integers, 1)
    audit(engine, quantized_file, model.plan).require()
    if not here.get("sse2"):
        pytest.skip("not an x86 processor")
    with pytest.raises(DeviceError, match="compiled for a processor with sse2, which this one lacks; build it here"):
        engine.run(np.zeros((1, 3, 24, 32), np.float32))


def test_without_a_compiler_it_says_what_to_install(
    float_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingPackageError, match=r"finds no compiler; install g\+\+") as caught:
        build_engine(float_file, tmp_path / "engine", runtime=TORCH, profile="any")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "engine").exists()


def test_a_device_that_torch_cannot_compile_for_here_is_refused(
    float_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "engine"
    with pytest.raises(UsageError, match=r"ethos-u55-256 is neither"):
        build_engine(float_file, folder, runtime=TORCH, profile="x", device=load_profile("ethos-u55-256"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"9\.0 \(x\) and there is no GPU here that torch can use") as caught:
        build_engine(float_file, folder, runtime=TORCH, profile="x", device=load_profile("h100-sxm"))
    assert caught.value.exit_code == 5
    assert not folder.exists()


def test_it_tells_no_time_for_each_node(integers: Path) -> None:
    with pytest.raises(UsageError, match="torch tells no time per node"):
        load_engine(integers, 1).time_calls(np.zeros((1, 3, 8, 8), np.float32), warm_up=0, runs=1, blocks=1)


def test_a_kernel_on_integers_whose_weight_is_not_of_8_bits_is_not_believed() -> None:
    source = (
        '    constants_info_[0].name = "layer0_bias";\n    constants_info_[0].dtype = cached_torch_dtype_float32;\n'
        "    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu__qconv_pointwise_tensor(buf0, buf1, layer0_bias, &buf2));\n"
    )
    (node,) = executed_nodes(source, ["head"])
    assert (node.origins, node.precision) == (("head",), "unknown")


def test_kernels_whose_constants_were_renamed_are_layers_only_if_all_have_one_precision() -> None:
    kinds = {"layer0_bias": "float32", "frozen1": "bfloat16", "frozen2": "bfloat16", "frozen3": "float32"}
    constants = "".join(
        f'    constants_info_[{i}].name = "{name}";\n    constants_info_[{i}].dtype = cached_torch_dtype_{kind};\n'
        for i, (name, kind) in enumerate(kinds.items())
    )

    def executed(*names: str) -> list[tuple[tuple[str, ...], str]]:
        call = "    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mkldnn__convolution_pointwise(buf0, {}, &buf1));\n"
        source = constants + "".join(call.format(name) for name in names)
        return [(node.origins, node.precision) for node in executed_nodes(source, ["head", "body", "tail"])]

    assert executed("frozen1", "layer0_bias", "frozen2") == [
        (("body",), "bf16"),
        (("head",), "fp32"),
        (("tail",), "bf16"),
    ]
    assert executed("frozen1", "layer0_bias", "frozen3") == [((), "bf16"), (("head",), "fp32"), ((), "fp32")]
    assert executed("frozen1", "layer0_bias") == [((), "bf16"), (("head",), "fp32")]


def test_a_picture_that_a_window_does_not_fit_in_is_refused(tmp_path: Path, inputs: Tensor) -> None:
    network = nn.Sequential(nn.MaxPool2d((7, 5), 3), nn.Conv2d(3, 4, 1)).eval()
    path = tmp_path / "model.onnx"
    export_float(capture(network, inputs[:1]), inputs[:1], path)
    engine = built(path, tmp_path)
    with torch.no_grad():
        x = inputs[:1, :, :7, :5]
        np.testing.assert_allclose(engine.run(x.numpy()), network(x).numpy(), atol=2e-6)
    for x in (inputs[:1, :, :6, :9], inputs[:1, :, :9, :4]):
        with pytest.raises(UsageError, match=r"takes float32 \[any, 3, any, any\] of 7 x 5 pixels at least"):
            engine.run(x.numpy())


def test_a_package_that_computes_something_else_is_refused(
    integers: Path, model: CompressedModel, inputs: Tensor, tmp_path: Path
) -> None:
    """As where Inductor errs in the strides that a kernel of oneDNN gives."""
    package, precision = integers / "quantized.pt2", FloatPrecision.FP32
    require_equal(OnnxNetwork(integers / "quantized.onnx", precision).eval(), inputs, package, precision)
    model.weights["body.weight"].integers.neg_()
    try:
        export_quantized(model, inputs[:1], tmp_path / "other.onnx")
    finally:
        model.weights["body.weight"].integers.neg_()
    with pytest.raises(UsageError, match=r"4 layers quantised to code that computes something else") as caught:
        require_equal(OnnxNetwork(tmp_path / "other.onnx", precision).eval(), inputs, package, precision)
    assert "\n" not in str(caught.value)


def test_engines_of_other_runtimes_load_without_torch() -> None:
    script = "import sys, deploy.engines; print('torch' in sys.modules)"
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
