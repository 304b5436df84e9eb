"""A job for a processor of another architecture: built and computed here, neither audited nor timed here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitwright.foundation.errors import DeviceError
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import Job
from bitwright.runs.runtime_choice import choose_runtime
from deploy.engine import Runtime
from hw_profiles import load_profile
from tests.bitwright.job_helpers import Ended, command, compress, read_json, some_photos, tiny_checkpoint, tiny_request
from tests.marks import needs_litert, on_x86

pytestmark = [pytest.mark.engine, on_x86]
PI = ("--device", "raspberry-pi-5")
NETWORKS = """
from torch import nn

class Sum(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.tail = nn.Conv2d(16, 12, 3, padding=1)
        self.step, self.shuffle = step, nn.PixelShuffle(2)

    def forward(self, x):
        first = self.step(self.head(x))
        return self.shuffle(self.tail(self.step(self.body(first)) + first))

def leaky():
    return Sum(nn.LeakyReLU(0.1))

def smooth():
    return Sum(nn.Softplus())
"""
PHONE = """
schema: 1
id: phone
extends: arm-dotprod
name: a phone
runtimes:
  - {engine: litert, version: ">=2.3,<3", qdq: explicit, precisions: [w8a8, fp32]}
  - {engine: ncnn, qdq: converter, precisions: [w8a8, w4a8, w2a8, fp32], bias: fp32}
measure: {via: adb}
"""


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of the networks of `networks.py`."""
    (tmp_path / "networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    sizes = {"head": (16, 3), "body": (16, 16), "tail": (12, 16)}
    weights = {f"{name}.weight": torch.randn(out, of, 3, 3) * 0.1 for name, (out, of) in sizes.items()}
    save_file(
        {**weights, **{f"{n}.bias": torch.zeros(out) for n, (out, _) in sizes.items()}}, tmp_path / "net.safetensors"
    )
    return tmp_path / "net.safetensors"


def job(capsys: pytest.CaptureFixture[str], data: Path, checkpoint: Path, run: Path, *more: str) -> Ended:
    photos = run.parent / "photos"
    if not photos.is_dir():
        some_photos(data, photos)
    return compress(capsys, checkpoint, photos, run, "--no-reconstruct", *PI, *more)


@pytest.mark.parametrize("runtime", [Runtime.ONNXRUNTIME, pytest.param(Runtime.LITERT, marks=needs_litert)])
def test_no_kernel_of_this_machine_changes_the_plan_and_no_time_of_it_is_told(
    runtime: Runtime, data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    ended = job(capsys, data, checkpoint, run, "--runtime", runtime, "--model", "networks:leaky")
    assert ended.code == 0, ended.err
    assert "latency: not measured, raspberry-pi-5 is for aarch64 processors, and this one is x86_64" in ended.err
    report = read_json(run / "report.json")
    # On x86, ONNX Runtime has no integer kernels for signed inputs behind a leaky ReLU.
    assert [layer["planned"] for layer in report["layers"]] == ["int8"] * 3
    assert [layer["executed"] for layer in report["layers"]] == [None] * 3
    assert report["audit"]["executed"] == {}
    assert report["audit"]["planned"] == {"int8": 3}
    assert report["latency"] is None
    assert report["quality"]["torch_engine_gap"] < 0.1
    assert report["next_command"] == f"bitwright measure {run} --on ssh://USER@HOST"
    shown = " ".join(ended.out.split())
    assert "Executed precision not audited" in shown
    assert "built for Raspberry Pi 5 (4 x Cortex-A76) and its quality computed here" in shown
    assert "Executed precision was read" not in (run / "report.html").read_text()

    verified = command(capsys, "verify", run)
    assert verified.code == 0, verified.err
    assert verified.out.startswith("executed precision not audited: raspberry-pi-5 is for aarch64 processors")
    refused = command(capsys, "measure", run).refusal(5)
    assert "times taken here would say nothing of it; measure there" in refused
    assert f"bitwright measure {run} --on ssh://USER@HOST" in refused


@needs_litert
def test_litert_comes_first_and_onnx_runtime_where_it_lacks_an_operator(
    data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose_runtime(load_profile("raspberry-pi-5"), None) is Runtime.LITERT
    named = job(capsys, data, checkpoint, tmp_path / "named", "--runtime", "litert", "--model", "networks:smooth")
    assert "(Softplus): this operator has no counterpart" in named.refusal()
    assert "rounded to nearest" not in named.err, "it is told before the work is done"
    ended = job(capsys, data, checkpoint, tmp_path / "run", "--model", "networks:smooth")
    assert ended.code == 0, ended.err
    assert "(Softplus): this operator has no counterpart; choose another --runtime: built for onnxruntime" in ended.err
    assert read_json(tmp_path / "run" / "report.json")["runtime"]["name"] == "onnxruntime"
    planned = job(capsys, data, checkpoint, tmp_path / "dry", "--model", "networks:smooth", "--dry-run")
    assert "where litert lacks an operator of this network, the job goes on with onnxruntime" in planned.out
    more = ("--model", "networks:smooth", "--runtime", "litert", "--dry-run")
    assert "lacks an operator" not in job(capsys, data, checkpoint, tmp_path / "dry", *more).out


@needs_litert
def test_a_device_of_litert_alone_is_told_what_litert_lacks(
    data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phone = tmp_path / "phone.yaml"
    phone.write_text(PHONE)
    more = ("--model", "networks:smooth", "--device", str(phone))
    assert (
        "(Softplus): this operator has no counterpart"
        in job(capsys, data, checkpoint, tmp_path / "run", *more).refusal()
    )
    planned = job(capsys, data, checkpoint, tmp_path / "dry", *more, "--dry-run")
    assert "for phone with litert" in planned.out
    assert "goes on with" not in planned.out


def test_a_phone_is_measured_by_its_serial_number(data: Path, tmp_path: Path) -> None:
    (tmp_path / "phone.yaml").write_text(PHONE)
    request = tiny_request(data, tmp_path, device=str(tmp_path / "phone.yaml"))
    with RunFolder.open(request) as run:
        opened = Job.open(request, run)
        assert opened.measure_there == f"bitwright measure {run.path} --on adb:SERIAL"
        with pytest.raises(DeviceError, match=rf"measure there, with `bitwright measure {run.path} --on adb:SERIAL`"):
            opened.require_timed()


def test_what_only_times_engines_is_refused_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos")
    why = "raspberry-pi-5 is for aarch64 processors, and this one is x86_64"
    curve = command(capsys, "curve", checkpoint, *PI, "--data", photos, "--out", tmp_path / "curve")
    assert f"a curve times every engine: {why}" in curve.refusal(5)
    more = ("--runtime", "onnxruntime", "--out", tmp_path / "table.jsonl")
    table = command(capsys, "profile", checkpoint, *PI, *more)
    assert f"a latency table holds what the device takes: {why}" in table.refusal(5)
    assert not (tmp_path / "table.jsonl").exists()
