"""A run that was begun on another machine: it keeps its runtime, and what does not fit this machine is built again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bitwright.foundation import progress
from bitwright.foundation.errors import UsageError
from bitwright.runs import runtime_choice, stages
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import Job
from bitwright.runs.reopen import request_of
from bitwright.runs.request import CompressRequest
from deploy.engine import Runtime
from deploy.engines import load_engine, read_spec
from tests.bitwright.job_helpers import DEVICE, some_photos, tiny_checkpoint
from tests.listener import Listener


@pytest.fixture
def request_here(data: Path, tmp_path: Path) -> CompressRequest:
    return CompressRequest.model_validate(
        {
            "checkpoint": tiny_checkpoint(tmp_path), "device": DEVICE, "data": some_photos(data, tmp_path / "photos"),
            "out": tmp_path / "run", "calibration_count": 8, "calibration_size": 32, "reconstruct": False,
        }
    )  # fmt: skip


def test_the_runtime_of_the_beginning_is_kept(request_here: CompressRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(runtime_choice, "installed_runtimes", lambda: {"onnxruntime": "1.27", "openvino": None})
        with RunFolder.open(request_here) as run:
            job = Job.open(request_here, run)
            assert job.runtime is Runtime.ONNXRUNTIME
            stages.float_baseline(job)
    with RunFolder.open(request_here, resume=True) as run:
        assert Job.open(request_here, run).runtime is Runtime.ONNXRUNTIME


def test_an_engine_of_another_version_is_built_again_and_nothing_else(request_here: CompressRequest) -> None:
    with RunFolder.open(request_here) as run:
        job = Job.open(request_here, run)
        stages.float_baseline(job)
        stages.nearest(job)
        folder = job.float_onnx.parent
        stamp = json.loads((folder / "engine.json").read_text())
        here = stamp["runtime_version"]
        (folder / "engine.json").write_text(json.dumps({**stamp, "runtime_version": "0.1"}))
        run.renew_stage("float", stages.baseline_files(run.path))
    with RunFolder.open(request_here, resume=True) as run:
        stages.renew_baseline(Job.open(request_here, run), "quality")
        assert read_spec(folder).runtime_version == here
        load_engine(folder, 1)
        assert run.stage_done("float")
        assert run.stage_done("nearest")
    with RunFolder.open(request_here, resume=True) as run:
        assert run.stage_done("float")
        assert run.stage_done("nearest")


def test_a_baseline_of_another_runtime_is_built_again_and_judged_again(
    request_here: CompressRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder.open(request_here) as run:
        job = Job.open(request_here, run)
        with monkeypatch.context() as earlier:
            earlier.setattr(stages, "baseline_runtime", lambda *_: Runtime.OPENVINO)
            stages.float_baseline(job)
        assert read_spec(job.float_onnx.parent).runtime is Runtime.OPENVINO
        stages.nearest(job)
        run.finish_stage("quality", [], {})
    heard = Listener()
    with progress.reporting_to(heard), RunFolder.open(request_here, resume=True) as run:
        stages.renew_baseline(Job.open(request_here, run), "quality")
    assert read_spec(job.float_onnx.parent).runtime is Runtime.ONNXRUNTIME
    assert any("was built with openvino" in line and "built again with onnxruntime" in line for line in heard.notes)
    with RunFolder.open(request_here, resume=True) as run:
        assert [run.stage_done(name) for name in ("float", "nearest")] == [True, True]
        assert not run.stage_done("quality")


def test_a_copied_run_goes_on_with_the_same_files_at_other_places(
    request_here: CompressRequest, tmp_path: Path
) -> None:
    with RunFolder.open(request_here) as run:
        stages.float_baseline(Job.open(request_here, run))
    there = tmp_path / "there"
    there.mkdir()
    paths = {"checkpoint": request_here.checkpoint, "data": request_here.data, "out": request_here.run_folder}
    moved = {name: there / path.name for name, path in paths.items()}
    for name, path in paths.items():
        shutil.move(path, moved[name])
    request, heard = request_here.model_copy(update=moved), Listener()
    with progress.reporting_to(heard), RunFolder.open(request, resume=True) as run:
        assert run.stage_done("float")
        stages.nearest(Job.open(request, run))
    found = request_of(moved["out"])
    assert (found.checkpoint, found.data, found.out) == (moved["checkpoint"], moved["data"], moved["out"])
    assert any(f"{moved['checkpoint']}, {moved['data']}" in line for line in heard.notes)
    with RunFolder.open(request, resume=True) as run:
        assert run.stage_done("nearest")


def test_another_file_at_another_place_is_another_request(request_here: CompressRequest, tmp_path: Path) -> None:
    with RunFolder.open(request_here):
        pass
    other = tmp_path / "other"
    shutil.copytree(request_here.data, other)
    next(iter(sorted(other.iterdir()))).unlink()
    before = (request_here.run_folder / "request.yaml").read_bytes()
    with pytest.raises(UsageError, match=rf"--data is {request_here.data} there and {other} here"):
        RunFolder.open(request_here.model_copy(update={"data": other}), resume=True)
    assert (request_here.run_folder / "request.yaml").read_bytes() == before
