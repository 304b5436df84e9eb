"""Jobs that quantise nothing, with every layer in a 16-bit float; and how runtimes are chosen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from bitwright.foundation.errors import MissingPackageError, UsageError
from bitwright.runs import runtime_choice
from bitwright.runs.precision import Precision
from bitwright.runs.runtime_choice import baseline_runtime, choose_runtime, require_installed
from deploy.engine import Runtime
from deploy.engines import read_spec
from hw_profiles import list_profiles, load_profile
from tests.bitwright.job_helpers import (
    command,
    compress,
    for_a_gpu_elsewhere,
    read_json,
    some_photos,
    tiny_checkpoint,
)
from tests.marks import GPU, needs_compiler, needs_gpu


@pytest.mark.engine
@pytest.mark.parametrize("runtime", ["openvino", pytest.param("torch", marks=needs_compiler)])
def test_every_layer_in_bf16_on_a_processor(
    runtime: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not torch.cpu.get_capabilities().get("avx512_bf16"):
        pytest.skip("this processor does not multiply in bf16")
    # torch has no counterpart of the first one's repeated input; OpenVINO rounds less often than torch does.
    checkpoint = tiny_checkpoint(tmp_path) if runtime == "openvino" else data / "checkpoints" / "espcn_x2.pth"
    photos, run = some_photos(data, tmp_path / "photos", 3), tmp_path / "run"
    ended = compress(capsys, checkpoint, photos, run, "--precision", "bf16", "--runtime", runtime)
    assert ended.code == 0, ended.err
    report = read_json(run / "report.json")
    assert report["audit"]["planned"] == report["audit"]["executed"] == {"bf16": 3}
    assert {(layer["weight_bits"], layer["act_bits"]) for layer in report["layers"]} == {(16, 16)}
    assert report["runtime"]["float_precision"] == "bf16"
    assert 0 < abs(report["quality"]["drop"]) < 0.5
    assert "bf16: nothing is quantised; what it costs is measured on the engine" in ended.err
    assert "rounded" not in ended.err
    step = {"step": 0, "quantized_layers": 0, "drop_db": None, "note": "nothing quantised, all layers in bf16"}
    assert report["plan_search"] == [{**step, "chosen": True}]
    assert report["latency"]["baseline"] == "ONNX Runtime fp32"
    assert report["latency"]["engine"]["gpu"] is None
    assert "all 3 layers executed in bf16" in (run / "report.html").read_text()


@for_a_gpu_elsewhere
@pytest.mark.parametrize(
    ("device", "precision"),
    [("rtx-2080-ti", "fp16"), ("rtx-4090", "fp16"), ("rtx-5090", "bf16"), ("rtx-5090", "int8"), ("rtx-5090", "fp8")],
)
def test_engines_for_gpus_of_other_generations_are_built_as_planned(
    device: str, precision: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos, run = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 3), tmp_path / "run"
    more = ("--device", device, "--precision", precision, "--runtime", "tensorrt-rtx")
    ended = compress(capsys, checkpoint, photos, run, *more, "--no-reconstruct")
    assert ended.code == 0, ended.err
    report = read_json(run / "report.json")
    assert report["audit"]["planned"] == report["audit"]["executed"] == {precision: 3}
    isa = load_profile(device).arch.isa
    for folder in ("engine", "float"):
        assert str(read_spec(run / folder).compute_capability).replace(".", "") == str(isa).removeprefix("sm_")


def test_a_precision_that_the_device_lacks_is_refused_by_name(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 1)

    def refusal(device: str, precision: str, *more: str) -> str:
        ended = compress(
            capsys, checkpoint, photos, tmp_path / "run", "--device", device, "--precision", precision, *more
        )
        return ended.refusal()

    line = refusal("x86-avx512-vnni-bf16", "fp16")
    assert "--precision fp16: x86-avx512-vnni-bf16 has no native fp16; these devices have: a100-sxm-80gb" in line
    assert "--precision bf16: rtx-2080-ti with torch has no native bf16" in refusal(
        "rtx-2080-ti", "bf16", "--runtime", "torch"
    )
    assert "--recover needs integers" in refusal("rtx-4090", "fp16", "--recover", "9")
    line = refusal("rtx-2080-ti", "int8", "--runtime", "torch")
    assert "rtx-2080-ti with torch has no native int8; give --precision fp16, or another --runtime" in line
    # Of matrix products it has, and this network has none.
    for precision, how in (("int8", "on integers"), ("fp8", "in fp8")):
        line = refusal("h100-sxm", precision, "--runtime", "torch")
        assert f"h100-sxm executes no layer of this network {how} in torch; choose another --precision" in line
    assert not (tmp_path / "run" / "report.json").exists()


@pytest.mark.usefixtures("no_gpu")
@needs_compiler
@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm-80gb", "rtx-4090"])
def test_torch_for_a_gpu_that_is_not_here_says_so_before_any_work(
    device: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 1)
    more = ("--device", device, "--runtime", "torch", "--precision", "fp16")
    line = compress(capsys, checkpoint, photos, tmp_path / "run", *more).refusal(5)
    assert f"({device}) and there is no GPU here that torch can use" in line
    assert "build it on such a machine with a torch that has CUDA" in line


@needs_gpu
@pytest.mark.engine
@needs_compiler
def test_a_job_on_the_gpu_that_is_here_times_both_engines_on_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitting = [p.id for p in list_profiles() if p.arch.isa == GPU and p.runtime("torch") is not None]
    if not fitting:
        pytest.skip(f"no profile with torch is of {GPU}")
    photos, run = some_photos(data, tmp_path / "photos", 3), tmp_path / "run"
    more = ("--device", fitting[0], "--runtime", "torch", "--precision", "fp16")
    ended = compress(capsys, data / "checkpoints" / "espcn_x2.pth", photos, run, *more)
    assert ended.code == 0, ended.err
    report = read_json(run / "report.json")
    assert report["audit"]["executed"] == {"fp16": 3}
    assert report["latency"]["baseline"] == "torch fp32"
    for side in ("engine", "float"):
        assert min(report["latency"][side]["gpu"][f"{stage}_ms"] for stage in ("to_device", "compute", "to_host")) > 0
        assert report["latency"][side]["gpu"]["cuda_graph"] is False
    ended = command(capsys, "measure", run, "--seconds", "0.3", "--cuda-graph")
    assert ended.code == 0, ended.err
    assert ended.out.count("as a CUDA graph") == 2


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    monkeypatch.setattr(
        runtime_choice, "installed_runtimes", lambda: {k.replace("_", "-"): v for k, v in versions.items()}
    )


def test_a_version_that_the_profile_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    orin, ada = load_profile("jetson-agx-orin-64gb"), load_profile("rtx-4090")
    for version in ("10.3.0", "10.13.3.9"):
        installed(monkeypatch, tensorrt=version)
        assert choose_runtime(orin, None) is Runtime.TENSORRT
    installed(monkeypatch, tensorrt="11.3.0")
    with pytest.raises(UsageError) as caught:
        choose_runtime(orin, None)
    assert str(caught.value) == (
        "tensorrt 11.3.0 is installed, and jetson-agx-orin-64gb takes >=10,<11; install it with: "
        "pip install 'tensorrt>=10,<11' --extra-index-url https://pypi.nvidia.com"
    )
    # One in range is taken before one that is not; named, the other is still refused.
    installed(monkeypatch, tensorrt="11.3.0", tensorrt_rtx="1.2")
    assert choose_runtime(ada, None) is Runtime.TENSORRT
    with pytest.raises(UsageError, match=r"tensorrt-rtx 1\.2 is installed, and rtx-4090 takes >=1\.7; install it with"):
        choose_runtime(ada, "tensorrt-rtx")


def test_the_runtime_goes_by_what_is_installed_and_has_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    hopper, ada = load_profile("h100-sxm"), load_profile("rtx-4090")
    installed(monkeypatch, torch="2.13.0+cu130", tensorrt=None, tensorrt_rtx="1.7.1")
    for precision in (Precision.INT8, Precision.FP8):
        # What torch has there for matrix products alone is taken by name only.
        assert choose_runtime(hopper, None, precision) is Runtime.TENSORRT
        assert choose_runtime(hopper, "torch", precision) is Runtime.TORCH
    assert choose_runtime(hopper, None, Precision.FP16) is Runtime.TORCH
    assert choose_runtime(ada, None, Precision.FP16) is Runtime.TENSORRT_RTX
    with pytest.raises(UsageError, match="h100-sxm has no runtime 'openvino'; it has tensorrt, torch"):
        choose_runtime(hopper, "openvino")


def test_a_torch_for_processors_alone_comes_after_what_is_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    ada = load_profile("rtx-4090")
    installed(monkeypatch, torch="2.13.0+cpu", tensorrt_rtx=None)
    assert choose_runtime(ada, None, Precision.FP16) is Runtime.TENSORRT_RTX
    assert choose_runtime(ada, "torch", Precision.FP16) is Runtime.TORCH
    assert choose_runtime(load_profile("x86-avx512-vnni"), "torch") is Runtime.TORCH
    installed(monkeypatch, torch="2.13.0+cpu", tensorrt="11.3.0")
    assert choose_runtime(ada, None, Precision.FP16) is Runtime.TENSORRT
    installed(monkeypatch, torch="2.13.0+cu130", tensorrt_rtx=None)
    assert choose_runtime(ada, None, Precision.FP16) is Runtime.TORCH
    # Its range is another matter, and told of a torch that was asked for.
    installed(monkeypatch, torch="2.11.0+cpu")
    assert choose_runtime(ada, None, Precision.FP16) is Runtime.TENSORRT_RTX
    with pytest.raises(UsageError, match=r"torch 2\.11\.0\+cpu is installed, and rtx-4090 takes >=2\.13,<2\.14"):
        choose_runtime(ada, "torch", Precision.FP16)


def test_where_tensorrt_is_missing_the_other_ways_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    def told(device: str, precision: Precision = Precision.INT8) -> str:
        with pytest.raises(MissingPackageError) as caught:
            require_installed(load_profile(device), Runtime.TENSORRT, precision)
        return str(caught.value)

    assert "take --runtime tensorrt-rtx, or take --runtime torch --precision fp16" in told("rtx-4090")
    assert "take --runtime tensorrt-rtx --precision fp16, or" in told("rtx-2080-ti")
    assert "take --runtime torch;" in told("h100-sxm", Precision.BF16)
    assert "pip install 'tensorrt>=10,<11'" in told("jetson-orin-nano-8gb")
    assert "does not name" not in told("rtx-4090")
    assert told("h100-sxm").endswith(", or take --runtime torch --precision fp16; h100-sxm does not name TensorRT-RTX")


@pytest.mark.engine
def test_a_graph_is_for_a_gpu_and_an_old_baseline_on_the_processor_is_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    ended = compress(
        capsys, tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 1), run, "--runtime", "onnxruntime"
    )
    assert ended.code == 0, ended.err
    for there in ((), ("--on", "ssh://nowhere")):
        line = command(capsys, "measure", run, "--seconds", "0.2", "--cuda-graph", *there).refusal()
        assert "runs on the processor; CUDA graphs are for engines that run on a GPU" in line
    spec = read_spec(run / "float")
    (run / "float" / "engine.json").write_text(spec.model_copy(update={"runtime": Runtime.OPENVINO}).model_dump_json())
    line = command(capsys, "measure", run, "--seconds", "0.2").refusal()
    assert "float baseline" in line


@pytest.mark.parametrize(
    ("device", "runtime", "baseline"),
    [
        ("x86-avx512-vnni", "openvino", "onnxruntime"),
        ("x86-avx512-vnni", "torch", "onnxruntime"),
        ("h100-sxm", "torch", "torch"),
        ("rtx-4090", "tensorrt-rtx", "tensorrt-rtx"),
        ("jetson-orin-nano-8gb", "tensorrt", "tensorrt"),
    ],
)
def test_a_baseline_runs_where_its_engine_runs(device: str, runtime: str, baseline: str) -> None:
    assert baseline_runtime(load_profile(device), Runtime(runtime)).value == baseline
