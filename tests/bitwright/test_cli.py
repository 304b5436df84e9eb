"""The command line as a user meets it: its own process, real files, exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitwright.cli.app import run
from bitwright.cli.bars import LineReporter
from bitwright.cli.failures import explain
from bitwright.foundation.errors import ConstraintError, DeviceError, VerificationError
from bitwright.recipes import load_recipe
from hw_profiles import load_profile, profile_ids

HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "plotly", "matplotlib", "numpy", "skimage", "optuna")


def bitwright(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(root), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "bitwright", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=120)


def loaded_modules(code: str) -> set[str]:
    text = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def error_line(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one line on stderr; nothing may be on stdout."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    (tmp_path / "net.pth").write_bytes(b"not a checkpoint")
    return tmp_path / "net.pth", tmp_path / "photos"


def test_importing_bitwright_loads_nothing_heavy() -> None:
    assert not loaded_modules("import bitwright").intersection((*HEAVY, "pydantic", "typer", "rich", "yaml"))


@pytest.mark.parametrize("arguments", [["--help"], ["compress", "--help"], ["devices", "--help"], ["upscale", "-h"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"from bitwright.cli.app import run\nassert run({arguments!r}) == 0"
    assert not loaded_modules(code).intersection(HEAVY)


def test_help_names_every_verb_and_the_help_of_a_field_is_its_description() -> None:
    text = bitwright("--help").stdout
    verbs = ("devices", "compress", "export", "unpack", "verify", "measure", "report", "upscale", "demo")
    assert all(verb in text for verb in verbs)
    assert "Largest loss of quality that is allowed" in bitwright("compress", "--help").stdout


def test_an_unknown_command_or_flag_suggests_the_nearest() -> None:
    assert "Did you mean 'compress'" in error_line(bitwright("compres"))
    assert "--device" in error_line(bitwright("compress", "--devise", "x86-avx2"))
    assert "--seed" in error_line(bitwright("compress", "--seed", "x"))


def test_devices_lists_all_profiles() -> None:
    done = bitwright("devices")
    assert done.returncode == 0
    assert all(name in done.stdout for name in profile_ids())
    rows = json.loads(bitwright("devices", "--json").stdout)
    assert [row["id"] for row in rows] == list(profile_ids())
    by_id = {row["id"]: row for row in rows}
    assert by_id["x86-avx512-vnni-bf16"]["native"] == ["w8a8", "bf16", "fp32"]
    assert by_id["rtx-4090"]["sparsity"] == ["2:4"]


@pytest.mark.parametrize("name", profile_ids())
def test_devices_explains_each_profile(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["devices", name]) == 0
    text = capsys.readouterr().out
    assert name in text
    assert all(rule.id in text for rule in load_profile(name).precisions)
    assert "not known: " in text


def test_devices_says_what_to_set_up_before_measuring(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["devices", "jetson-orin-nano-8gb"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "measured with: bitwright measure RUN --on ssh://USER@HOST" in text
    assert "first run on it: nvpmodel -m 0; jetson_clocks" in text


def test_devices_explains_one_in_json() -> None:
    profile = json.loads(bitwright("devices", "raspberry-pi-5", "--json").stdout)
    assert profile["id"] == "raspberry-pi-5"
    assert profile["installed"].keys() == {"litert", "onnxruntime", "ncnn"}
    assert len(profile["hash"]) == 64


def test_devices_here_names_this_machine() -> None:
    found = json.loads(bitwright("devices", "--here", "--json").stdout)
    assert found["host"]["cores"] == len(os.sched_getaffinity(0))
    assert found["installed"]["onnxruntime"]
    text = bitwright("devices", "--here").stdout
    assert all(match["id"] in text for match in found["matches"])


def test_an_unknown_device_is_one_line() -> None:
    assert "did you mean raspberry-pi-5" in error_line(bitwright("devices", "rasberry-pi5"))


def test_bad_requests_are_one_line_and_leave_nothing(
    inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, photos = inputs
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    cases = [
        ((), "CHECKPOINT is missing"),
        ((net, "--device", "x86-avx3", "--data", photos), "did you mean x86-avx"),
        ((net, "--device", "x86-avx2", "--data", tmp_path / "none"), "--data"),
        ((tmp_path / "none.pth", "--device", "x86-avx2", "--data", photos), "none.pth does not exist"),
        ((net, "--device", "x86-avx2", "--data", photos, "--max-drop", "-0.1"), "--max-drop: -0.1 is not valid"),
        ((net, "--device", "x86-avx2", "--data", photos, "--set", "sed=1"), "did you mean seed?"),
        ((net, "--device", "x86-avx2", "--data", photos, "--resume", "--overwrite"), "give one of them"),
        ((net, "--device", "x86-avx2", "--data", photos, "--out", "/proc/run"), "cannot write /proc/run"),
        ((net, "--device", "x86-avx2", "--data", photos, "--json"), "net.pth"),
    ]
    for arguments, said in cases:
        code = run(["compress", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert said in error_line(subprocess.CompletedProcess([], code, out, err))
    assert sorted(tmp_path.rglob("*")) == before


def test_flags_are_saved_and_replayed(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    net, photos = inputs
    recipe = tmp_path / "recipe.yaml"
    flags = ("--device", "x86-avx2", "--data", photos, "--max-drop", "0.2", "--no-equalize", "--save-recipe", recipe)
    assert bitwright("compress", net, *flags, "--dry-run", cwd=tmp_path).returncode == 2
    settings = load_recipe(recipe).settings
    assert (settings["checkpoint"], settings["max_drop"], settings["equalize"]) == (net, 0.2, False)
    again = tmp_path / "again.yaml"
    bitwright("compress", "--recipe", recipe, "--seed", "3", "--set", "threads=2", "--save-recipe", again, "--dry-run")
    assert load_recipe(again).settings == {**settings, "seed": 3, "threads": 2}


@pytest.mark.parametrize("verb", ["verify", "measure", "report"])
def test_verbs_on_a_folder_without_a_run(verb: str, tmp_path: Path) -> None:
    assert "no finished run" in error_line(bitwright(verb, tmp_path))
    assert "is not a folder" in error_line(bitwright(verb, tmp_path / "none"))


def test_measure_refuses_a_size_without_units() -> None:
    assert "height x width in pixels" in error_line(bitwright("measure", ".", "--input-size", "12"))


def test_exit_codes_come_from_the_errors() -> None:
    for error, code in ((ConstraintError("a"), 3), (VerificationError("b"), 4), (DeviceError("c"), 5)):
        failure = explain(error)
        assert failure is not None
        assert failure.code == code
    interrupted = explain(KeyboardInterrupt())
    assert interrupted is not None
    assert interrupted.code == 130
    full = explain(OSError(28, "No space left on device", "/data/run/model.onnx"))
    assert full is not None
    assert (
        full.line
        == "error: cannot write /data/run/model.onnx: the disk is full; free some space or choose another --out"
    )
    assert full.code == 2


def test_an_unforeseen_error_is_one_line_and_its_traceback_is_kept() -> None:
    try:
        _ = {}["layer"]  # type: ignore[var-annotated]
    except KeyError as error:
        failure = explain(error)
    assert failure is not None
    assert failure.code == 1
    assert "\n" not in failure.line
    kept = Path(failure.line.rpartition(" ")[2])
    assert "KeyError: 'layer'" in kept.read_text()
    kept.unlink()


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    reporter = LineReporter(Console(stderr=True, width=100), every_s=0.0)
    handle = reporter.start("calibrating [conv]", 4)
    reporter.advance(handle, 3)
    reporter.stop(handle)
    quiet = LineReporter(Console(stderr=True, width=100))
    handle = quiet.start("reading", 4)
    quiet.advance(handle)
    quiet.stop(handle)
    assert capsys.readouterr().err == "calibrating [conv]: 3 of 4, about 0 s left\n"


def test_a_packed_file_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "is not a file" in error_line(bitwright("unpack", tmp_path / "none.safetensors"))
    (tmp_path / "net.safetensors").write_bytes(b"nothing")
    assert "is not a packed N:M file" in error_line(bitwright("unpack", tmp_path / "net.safetensors"))
    assert not (tmp_path / "unpacked.safetensors").exists()
