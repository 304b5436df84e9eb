"""`bitwright compress --narrow`: the engine has the device's widths, the report says so, and a stopped run goes on."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from bitwright.foundation.errors import UsageError
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import NARROWED, Job
from bitwright.runs.narrowing import narrowed
from bitwright.runs.request import CompressRequest
from bitwright.runs.stages import float_baseline
from tests.bitwright.job_helpers import compress, read_json, some_photos, tiny_checkpoint, tiny_request


@pytest.mark.engine
def test_whole_job_builds_the_narrow_network_and_trains_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, photos, out = tiny_checkpoint(tmp_path, width=17), some_photos(data, tmp_path / "photos"), tmp_path / "run"
    ended = compress(capsys, net, photos, out, "--narrow", "50", "--recover", "4")
    assert ended.code == 0, ended.err
    told = read_json(out / "report.json")["narrowed"]
    assert told["step"] == 16
    assert set(map(tuple, told["layers"].values())) == {(17, 16)}
    weights = {tuple(w.dims) for w in onnx.load(out / "model.onnx").graph.initializer if len(w.dims) == 4}
    assert (16, 16, 3, 3) in weights
    assert not any(17 in dims for dims in weights)
    assert "narrowed from" in (out / "report.html").read_text()


def test_a_run_that_goes_on_has_the_same_network(data: Path, tmp_path: Path) -> None:
    given = tiny_request(data, tmp_path, width=17, narrow=50.0)
    with RunFolder.open(given) as run:
        job = Job.open(given, run)
        float_baseline(job)
        narrowed(job)
        wanted = job.evaluate(job.graph)
    assert job.narrower
    with RunFolder.open(given, resume=True) as run:
        again = Job.open(given, run)
        assert again.narrower
        assert again.table.rows[0].output_shape[1] == 16
        assert again.evaluate(again.graph) == wanted


def test_widths_that_fit_stay_as_they_are(data: Path, tmp_path: Path) -> None:
    given = tiny_request(data, tmp_path, width=16, narrow=50.0)
    with RunFolder.open(given) as run:
        job = Job.open(given, run)
        narrowed(job)
        assert not job.narrower
        assert run.values(NARROWED)["widths"] == {}
    with pytest.raises(UsageError, match="give one of them"):
        CompressRequest.model_validate({**given.model_dump(), "sparsity": "2:4"})
