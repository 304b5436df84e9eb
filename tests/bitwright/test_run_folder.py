"""The run folder: nothing is lost, nothing is shared, nothing is left behind."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitwright.foundation import progress
from bitwright.foundation.errors import DataError, OutputError, UsageError
from bitwright.recipes import load_recipe
from bitwright.runs.folder import LAST_STAGE, RunFolder
from bitwright.runs.request import CompressRequest


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"picture")
    (tmp_path / "net.pth").write_bytes(b"weights")
    return {
        "checkpoint": tmp_path / "net.pth",
        "device": "x86-avx2",
        "data": tmp_path / "photos",
        "out": tmp_path / "deep" / "run",
    }


@pytest.fixture
def request_(values: dict[str, Any]) -> CompressRequest:
    return CompressRequest(**values)


def write_stage(run: RunFolder, name: str, text: str = "x") -> None:
    (run.path / f"{name}.txt").write_text(text)
    run.finish_stage(name, [f"{name}.txt"], {"drop": 0.25, "names": ["a"]})


def test_stages_survive_a_reopening(request_: CompressRequest) -> None:
    with RunFolder.open(request_) as run:
        assert not run.stage_done("nearest")
        write_stage(run, "nearest")
    with RunFolder.open(request_, resume=True) as run:
        assert run.stage_done("nearest")
        assert run.values("nearest") == {"drop": 0.25, "names": ["a"]}
        assert list(run.timings()) == ["nearest"]
        assert not run.finished


def test_a_changed_file_undoes_its_stage_and_those_behind_it(request_: CompressRequest) -> None:
    with RunFolder.open(request_) as run:
        for name in ("a", "b", "c"):
            write_stage(run, name)
    (request_.run_folder / "b.txt").write_text("tampered")
    with RunFolder.open(request_, resume=True) as run:
        assert [run.stage_done(name) for name in ("a", "b", "c")] == [True, False, False]
        write_stage(run, "b", "again")
        assert run.stage_done("b")
        assert not run.stage_done("c")
    with RunFolder.open(request_, resume=True) as run:
        assert [run.stage_done(name) for name in ("a", "b", "c")] == [True, True, False]


def test_a_journal_line_cut_off_by_a_kill_is_dropped(request_: CompressRequest) -> None:
    with RunFolder.open(request_) as run:
        write_stage(run, "a")
        write_stage(run, "b")
    journal = request_.run_folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    with RunFolder.open(request_, resume=True) as run:
        assert [run.stage_done(name) for name in ("a", "b")] == [True, False]
        write_stage(run, "b")
    with RunFolder.open(request_, resume=True) as run:
        assert run.stage_done("b")


def test_a_journal_damaged_in_the_middle_is_an_error(request_: CompressRequest) -> None:
    with RunFolder.open(request_) as run:
        write_stage(run, "a")
        write_stage(run, "b")
    journal = request_.run_folder / "journal.jsonl"
    journal.write_text("garbage\n" + journal.read_text())
    with pytest.raises(OutputError, match="line 1 is damaged"):
        RunFolder.open(request_, resume=True)


def test_unfinished_and_finished_runs_are_not_overwritten(request_: CompressRequest) -> None:
    with RunFolder.open(request_) as run:
        write_stage(run, "a")
    with pytest.raises(UsageError, match="unfinished run; add --resume"):
        RunFolder.open(request_)
    with RunFolder.open(request_, resume=True) as run:
        write_stage(run, LAST_STAGE)
    with pytest.raises(UsageError, match="finished run of this very request"):
        RunFolder.open(request_)
    with RunFolder.open(request_, resume=True) as run:
        assert run.finished
    with RunFolder.open(request_, overwrite=True) as run:
        assert not run.finished
        assert not (run.path / "a.txt").exists()
        write_stage(run, "a")


def test_resume_names_the_setting_that_differs(request_: CompressRequest, values: dict[str, Any]) -> None:
    with RunFolder.open(request_) as run:
        write_stage(run, "a")
    other = CompressRequest(**values, max_drop=0.1)
    with pytest.raises(UsageError, match=r"--max-drop is None there and 0\.1 here"):
        RunFolder.open(other, resume=True)
    assert (request_.run_folder / "a.txt").is_file()


@pytest.mark.parametrize(("file", "named"), [("net.pth", "CHECKPOINT"), ("photos/a.png", "--data")])
def test_resume_names_the_input_that_changed(request_: CompressRequest, tmp_path: Path, file: str, named: str) -> None:
    with RunFolder.open(request_) as run:
        write_stage(run, "a")
    (tmp_path / file).write_bytes(b"another")
    with pytest.raises(UsageError, match=f"content of {named} .* has changed"):
        RunFolder.open(request_, resume=True)


def test_nothing_is_left_behind_by_a_failure_before_the_first_stage(request_: CompressRequest, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))

    def fail() -> None:
        with RunFolder.open(request_) as run:
            (run.path / "half").mkdir()
            (run.path / "half" / "engine.bin").write_bytes(b"1")
            raise DataError("no picture")

    with pytest.raises(DataError, match="no picture"):
        fail()
    with pytest.raises(KeyboardInterrupt), RunFolder.open(request_):
        raise KeyboardInterrupt
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_was_there_stays(request_: CompressRequest) -> None:
    request_.run_folder.mkdir(parents=True)
    with pytest.raises(DataError), RunFolder.open(request_):
        raise DataError("no picture")
    assert list(request_.run_folder.iterdir()) == []


def test_finished_stages_outlive_a_failure(request_: CompressRequest) -> None:
    def fail() -> None:
        with RunFolder.open(request_) as run:
            write_stage(run, "a")
            raise DataError("gone")

    with pytest.raises(DataError, match="gone"):
        fail()
    with RunFolder.open(request_, resume=True) as run:
        assert run.stage_done("a")


def test_an_unforeseen_error_leaves_its_traceback_in_the_log(request_: CompressRequest) -> None:
    with pytest.raises(ZeroDivisionError) as caught, RunFolder.open(request_):
        _ = 1 // 0
    log = request_.run_folder / "log"
    assert "ZeroDivisionError" in log.read_text()
    assert caught.value.__notes__ == [f"the full traceback is in {log}"]


def test_two_jobs_do_not_share_a_folder(request_: CompressRequest) -> None:
    with RunFolder.open(request_) as run:
        write_stage(run, "a")
        with pytest.raises(OutputError, match=f"in use by process {os.getpid()}"):
            RunFolder.open(request_, resume=True)
        with pytest.raises(OutputError, match="in use"):
            RunFolder.open(request_, overwrite=True)
        assert run.stage_done("a")
    assert not (request_.run_folder / "lock").exists()


def test_the_lock_of_a_killed_job_is_taken_over(request_: CompressRequest, tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from bitwright.runs.folder import RunFolder;"
        "from bitwright.runs.request import CompressRequest;"
        "r = CompressRequest.model_validate_json(sys.argv[1]); run = RunFolder.open(r).__enter__();"
        "run.finish_stage('a', [], {'v': 3}); (run.path / '.model.onnx.x.part').write_text('half');"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, request_.model_dump_json()], check=False)
    assert done.returncode == -9
    assert (request_.run_folder / "lock").is_file()
    with RunFolder.open(request_, resume=True) as run:
        assert run.values("a") == {"v": 3}
        assert not list(run.path.glob(".*.part"))


def test_the_log_holds_what_the_listener_heard(request_: CompressRequest) -> None:
    with RunFolder.open(request_) as run:
        progress.note("skipped broken.jpg")
        assert list(progress.track([1, 2], "calibrating")) == [1, 2]
        write_stage(run, "a")
    log = (request_.run_folder / "log").read_text()
    assert "$ bitwright compress" in log
    assert "skipped broken.jpg" in log
    assert "calibrating: 0.0 s" in log
    assert "stage a done in" in log


def test_request_yaml_holds_hashes_and_versions(request_: CompressRequest) -> None:
    with RunFolder.open(request_) as run:
        write_stage(run, "a")
    recipe = load_recipe(request_.run_folder / "request.yaml")
    assert recipe.inputs is not None
    assert recipe.inputs.checkpoint == hashlib.sha256(b"weights").hexdigest()
    assert recipe.versions is not None
    assert recipe.versions["torch"].startswith("2.13.0")


@pytest.mark.parametrize("out", ["/proc/bitwright/run", "net.pth/run", "net.pth"])
def test_a_place_that_cannot_be_written_is_told_before_work_starts(
    values: dict[str, Any], tmp_path: Path, out: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    request = CompressRequest(**{**values, "out": tmp_path / out})
    with pytest.raises(OutputError) as caught:
        RunFolder.open(request)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_too_little_space_is_told_before_work_starts(request_: CompressRequest, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="MB are free and a run needs"):
        RunFolder.open(request_, needed_bytes=1 << 60)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_other_things_is_left_alone(request_: CompressRequest) -> None:
    request_.run_folder.mkdir(parents=True)
    (request_.run_folder / "thesis.txt").write_text("ten years")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"not a run folder \(it holds thesis\.txt\)"):
            RunFolder.open(request_, overwrite=overwrite)
    assert (request_.run_folder / "thesis.txt").read_text() == "ten years"


def test_a_stage_cannot_claim_a_file_outside(request_: CompressRequest) -> None:
    with RunFolder.open(request_) as run:
        write_stage(run, "a")
        with pytest.raises(UsageError, match="does not lie in the run folder"):
            run.finish_stage("b", ["../../net.pth"], {})
        with pytest.raises(ValueError, match="JSON"):
            run.finish_stage("b", [], {"drop": float("nan")})
        assert not run.stage_done("b")


def test_a_profile_goes_on_as_a_file_of_the_same_content(values: dict[str, Any], tmp_path: Path) -> None:
    paths = [tmp_path / name / "mine.yaml" for name in ("here", "there")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("schema: 1\nid: mine\nextends: x86-avx2\nname: Mine\n")
    with RunFolder.open(CompressRequest(**{**values, "device": str(paths[0])})) as run:
        write_stage(run, "a")
    moved = CompressRequest(**{**values, "device": str(paths[1])})
    with RunFolder.open(moved, resume=True) as run:
        assert run.stage_done("a")
    paths[1].write_text(paths[1].read_text().replace("Mine", "Another"))
    with pytest.raises(UsageError, match=r"content of --device .* has changed since"):
        RunFolder.open(moved, resume=True)
