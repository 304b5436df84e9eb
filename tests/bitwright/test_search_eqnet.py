"""`bitwright search eqnet`: one supernet, a plan for each device, an engine where the runtime is here."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitwright.cli.app import run
from bitwright.foundation.errors import UsageError
from bitwright.runs.eqnet_request import EqnetRequest
from compress.compressed import CompressedModel
from compress.graph import capture
from compress.plan import Plan
from deploy.audit import Audit
from deploy.environment import Environment
from deploy.latency import ComparisonResult
from deploy.onnx_formats import verify_formats
from search.eqnet.guidance import LogitDistance
from search.eqnet.supernet import trainable_graph
from tests.bitwright.job_helpers import DEVICE, command, read_json, some_photos, tiny_checkpoint
from tests.marks import on_x86
from workloads.classification.cifar_sheets import read_split
from workloads.loading import load_checkpoint

SMALL = (
    "--measure-seconds",
    "0.1",
    "--steps",
    "2",
    "--set",
    "batch=2",
    "--set",
    "patch=16",
    "--bits",
    "4,7,8",
    "--calibration-count",
    "8",
)
MANY = (DEVICE, "x86-avx2", "arm-dotprod", "raspberry-pi-5", "rtx-4090", "coral-edge-tpu", "ethos-u55-256",
        "hexagon-htp-v73")  # fmt: skip


@on_x86
def test_one_supernet_gives_eight_devices_their_own_form(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 4)
    words = ["search", "eqnet", checkpoint, "--data", photos, "--out", tmp_path / "run", *SMALL, "--json"]
    for device in MANY:
        words += ["--device", device]
    ended = command(capsys, *words)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["method"] == "EQ-Net-style (adapted)"
    assert result["predictor"] is None
    assert [d["device"] for d in result["devices"]] == list(MANY)
    plans = {}
    for device in result["devices"]:
        folder = tmp_path / "run" / "devices" / device["folder"]
        plan = plans[device["device"]] = Plan.load(folder / "plan.json")
        assert set(map(tuple, device["widths"].values())) == {(8, 8)}
        assert abs(device["quality"] - device["float_quality"]) < 1.0
        assert verify_formats(folder / "model.onnx", plan) == len(plan.quantized_layers)
        compiled = device["runtime"] == "tensorrt-rtx"
        timed = device["latency"]
        assert (timed is not None) is device["device"].startswith("x86")
        if timed is not None:
            assert ComparisonResult.model_validate_json((folder / "latency.json").read_bytes()).order
            assert timed["machine"] == Environment.record().cpu_model
            assert timed["low_ms"] <= timed["median_ms"] <= timed["high_ms"]
        built = device["device"].startswith("x86") or compiled
        assert (device["engine"] is not None) is built
        remark = "the engine was built and audited, but not run: it needs an NVIDIA GPU of compute capability 8.9"
        assert [remark in note for note in device["notes"]].count(True) == int(compiled)
        if built:
            audit = Audit.model_validate_json((folder / "audit.json").read_bytes())
            assert audit.executed["int8"] == device["integer_layers"] == len(plan.quantized_layers)
            assert not audit.mismatches
    formats = {name: plan.layers["convs.1"] for name, plan in plans.items()}
    assert all(f.weight is not None and f.weight.symmetric and f.weight.signed for f in formats.values())
    inputs = {name: f.activation for name, f in formats.items()}
    assert inputs["rtx-4090"] is not None
    assert (inputs["rtx-4090"].signed, inputs["rtx-4090"].symmetric) == (True, True)
    assert inputs["raspberry-pi-5"] is not None
    assert (inputs["raspberry-pi-5"].signed, inputs["raspberry-pi-5"].symmetric) == (True, False)
    assert inputs[DEVICE] is not None
    assert not inputs[DEVICE].signed
    reduced = formats["x86-avx2"].weight
    assert reduced is not None
    assert reduced.reduce_range
    loaded = load_checkpoint(checkpoint)
    example = loaded.workload.example_input(32, 32)
    graph = trainable_graph(capture(loaded.module, example))
    model = CompressedModel.load(tmp_path / "run" / "devices" / "rtx-4090" / "model.safetensors", graph)
    with torch.no_grad():
        exact, found = graph(example), model.simulate()(example)
    assert float((found - exact).norm() / exact.norm()) < 0.1
    again = command(capsys, *words)
    assert "--resume" in again.refusal()
    assert json.loads(command(capsys, *words, "--resume").out) == result
    assert "another steps" in command(capsys, *words, "--resume", "--steps", "3").refusal()


def emulated_words(folder: Path, data: Path, *more: str | Path) -> list[str]:
    """A search among the widths that a device emulates, which is predicted."""
    checkpoint, photos = tiny_checkpoint(folder), some_photos(data, folder / "photos", 4)
    small = ("--samples", "16", "--candidates", "120", "--generations", "3", "--emulated", "--device", DEVICE)
    return list(map(str, ("search", "eqnet", checkpoint, "--data", photos, *SMALL, *small, *more)))


@pytest.fixture(scope="module")
def emulated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a search without a budget."""
    folder = tmp_path_factory.mktemp("emulated")
    assert run(emulated_words(folder, data, "--out", folder / "run")) == 0
    return folder / "run"


@on_x86
def test_widths_that_a_device_emulates_are_searched_with_a_predictor(emulated: Path) -> None:
    result = read_json(emulated / "result.json")
    assert result["predictor"]["samples"] == 3
    (device,) = result["devices"]
    assert device["runs_as"]["w4a8"] == "int8"
    assert device["widths"]["convs.0"] == [8, 8]
    assert device["widths"]["convs.1"][1] == 8
    qualities = [m["quality"] for m in device["front"]]
    assert qualities == sorted(qualities)
    _, *lines = (emulated / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 16
    assert all(0 < json.loads(line)["extra"]["SSIM-Y"] <= 1 for line in lines)
    assert list(read_json(emulated / "learning_curve.json")) == ["6"]
    plan = Plan.load(emulated / "devices" / DEVICE / "plan.json")
    assert plan.layers["convs.1"].weight is not None
    assert plan.layers["convs.1"].weight.bits == device["widths"]["convs.1"][0]
    assert read_json(emulated / "devices" / DEVICE / "device.json") == device


@on_x86
def test_a_budget_is_kept_by_the_engine_as_measured_or_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 4)
    quick = ("--steps", "2", "--set", "batch=2", "--set", "patch=16", "--bits", "8", "--calibration-count", "8")
    words = ("search", "eqnet", checkpoint, "--data", photos, "--device", DEVICE, *quick, "--measure-seconds", "0.1")
    free = command(capsys, *words, "--out", tmp_path / "free", "--json")
    (device,) = json.loads(free.out)["devices"]
    assert device["unit"] == "ms"
    measured, predicted = device["latency"]["median_ms"], device["cost"]
    # The roofline promises less than any engine takes: a budget between both is one that only a measurement refuses.
    assert predicted < measured / 1.3
    between = f"{1.1 * predicted:.6f}"
    told = command(capsys, *words, "--out", tmp_path / "refused", "--budget", between)
    assert told.code == 3
    assert "no plan keeps the budget" in told.err
    assert "as measured here" in told.err
    # A budget in one unit says nothing to a device whose cost is in the other.
    enough = 4 * measured
    many = (*words, "--device", "hexagon-htp-v73", "--out", tmp_path / "both", "--budget", f"{enough:.6f}", "--json")
    both = command(capsys, *many)
    assert both.code == 0, both.err
    assert json.loads(both.out)["devices"][0]["latency"]["median_ms"] <= 1.05 * enough
    assert "hexagon-htp-v73: its cost is in BitOps and no budget is given in it (--budget-bitops)" in both.err
    few = command(capsys, *words, "--device", "hexagon-htp-v73", "--out", tmp_path / "few", "--budget-bitops", "1k")
    assert few.code == 3
    assert "BitOps of 1000 cannot be reached" in few.err
    unreachable = command(capsys, *words, "--out", tmp_path / "no", "--budget", "1e-9")
    assert "the narrowest network has" in unreachable.err


@on_x86
def test_costs_are_corrected_by_the_time_of_an_engine_where_a_device_leaves_a_choice(
    emulated: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (plain,) = read_json(emulated / "result.json")["devices"]
    assert plain["cost"] < plain["latency"]["median_ms"] / 1.3
    words = emulated_words(tmp_path, data, "--out", tmp_path / "run", "--budget", "1000", "--json")
    ended = command(capsys, *words)
    assert ended.code == 0, ended.err
    (device,) = json.loads(ended.out)["devices"]
    assert "predicted were" in ended.err
    assert "corrected by the time of an engine" in device["cost_source"]
    assert "corrected" not in plain["cost_source"]
    timed = [float(ms) for ms in re.findall(r"the engine takes (\S+) ms", ended.err)]
    assert min(abs(device["cost"] / ms - 1) for ms in timed) < 1e-3
    assert {m["cost"] for m in device["front"]}.isdisjoint(m["cost"] for m in plain["front"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--device", "x86-avx3"], "x86-avx"),
        (["--device", DEVICE, "--device", DEVICE], "named twice"),
        (["--device", DEVICE, "--set", "lambda=1"], "unknown setting 'lambda'"),
        (["--device", DEVICE, "--set", "share=2"], "share of 0 to 1"),
        (["--device", DEVICE, "--bits", "4,x"], "such as 2,4,8"),
        (["--device", DEVICE, "--bits", "4,9"], "2 to 8 bits"),
        (["--device", DEVICE, "--pinned", "convs.9"], "no layer 'convs.9'"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    checkpoint, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 4)
    quick = [] if "--bits" in flags else ["--bits", "8"]
    words = ["search", "eqnet", checkpoint, "--data", photos, "--out", tmp_path / "run", "--steps", "1", *quick]
    assert says in command(capsys, *words, "--calibration-count", "4", *flags).refusal()


def test_a_size_that_no_width_of_a_device_gives_is_told_before_the_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 4)
    words = ["search", "eqnet", checkpoint, "--data", photos, "--out", tmp_path / "run", "--device", DEVICE]
    line = command(capsys, *words, "--steps", "1", "--budget-size", "0.5k").refusal(3)
    assert f"{DEVICE}: weight bytes of 500 cannot be reached: the narrowest network has" in line
    assert line.endswith("give a larger --budget-size")
    assert not (tmp_path / "run" / "supernet.safetensors").exists()


def test_settings_depend_on_the_task() -> None:
    request = EqnetRequest(checkpoint=Path("x"), devices=(DEVICE,), data=Path(), out=Path("y"), settings={"share": 0.2})
    images, classes = request.training(images=True), request.training(images=False)
    assert (images.wdr_share, classes.wdr_share) == (0.05, None)
    assert (images.logits, classes.logits) == (LogitDistance.KL, LogitDistance.SQUARED)
    assert images.logarithm
    assert classes.logarithm
    kept = request.model_copy(update={"settings": {"logits": "kl"}})
    assert kept.training(images=False).logits is LogitDistance.KL
    assert request.training(images=True).share == 0.2
    assert request.widths(images=True) == (4, 5, 6, 7, 8)
    assert request.widths(images=False) == (2, 3, 4, 5, 6, 7, 8)
    assert request.model_copy(update={"bits": (2, 8)}).widths(images=True) == (2, 8)
    with pytest.raises(UsageError, match="does not exist"):
        request.check_inputs()


def test_norms_of_a_classifier_have_the_statistics_of_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Taken from images that are not mirrored and shifted, they cost this network 4 to 5 % of its top-1.
    checkpoint = data / "classification" / "checkpoints" / "resnet20_cifar10.pth"
    words = ["search", "eqnet", checkpoint, "--data", data / "classification" / "cifar10", "--out", tmp_path / "run"]
    quick = ["--steps", "1", "--bits", "8", "--set", "weight_rate=0", "--set", "batch=8", "--calibration-count", "1024"]
    ended = command(capsys, *words, *quick, "--device", "hexagon-htp-v73", "--json")
    assert ended.code == 0, ended.err
    (device,) = json.loads(ended.out)["devices"]
    assert device["quality"] > device["float_quality"] - 1.5


def test_a_classifier_is_searched_by_its_logits_and_told_in_top_1(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = data / "classification" / "checkpoints" / "resnet20_cifar10.pth"
    images = read_split(data / "classification" / "cifar10", "test", 32, 10)
    for label in range(10):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True)
        for number, pixels in enumerate(images.images[images.labels == label][:8]):
            Image.fromarray(pixels).save(folder / f"{number}.png")
    words = ["search", "eqnet", checkpoint, "--data", tmp_path / "images", "--out", tmp_path / "run"]
    quick = ["--steps", "1", "--set", "batch=8", "--calibration-count", "16", "--samples", "8", "--generations", "3"]
    ended = command(capsys, *words, *quick, "--candidates", "120", "--device", "fpga-dataflow", "--json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert (result["metric"], result["searched_by"]) == ("top-1", "SQNR of logits, dB")
    _, *lines = map(json.loads, (tmp_path / "run" / "samples.jsonl").read_text().splitlines())
    tops = [line["extra"]["top-1"] for line in lines]
    (device,) = result["devices"]
    searched, told = ([point[key] for point in device["front"]] for key in ("searched", "quality"))
    assert searched == sorted(searched)
    assert told == sorted(told)
    assert min(tops) <= min(told) <= max(told) <= max(tops)
    assert min(tops) <= device["predicted"] <= max(tops)
    assert all(-20 < line["value"] < 40 for line in lines)
    again = command(capsys, *words, *quick, "--candidates", "120", "--device", "fpga-dataflow", "--json", "--resume")
    assert json.loads(again.out) == result
    # A predictor whose samples are gone may have learnt another quality: it is not taken, but trained again.
    run_folder = tmp_path / "run"
    (run_folder / "samples.jsonl").unlink()
    (run_folder / "predictor.safetensors").write_bytes(b"of another quality")
    shutil.rmtree(run_folder / "devices")
    again = command(capsys, *words, *quick, "--candidates", "120", "--device", "fpga-dataflow", "--json", "--resume")
    assert json.loads(again.out)["predictor"] == result["predictor"]
