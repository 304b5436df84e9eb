from __future__ import annotations

import json
from pathlib import Path

import pytest

import workloads.embedded
from bitwright.cli.app import run
from bitwright.runs.profile import preview, profile
from bitwright.runs.profile_summary import ProfileRequest
from hw_profiles.kernel import Kernel
from hw_profiles.latency_table import LatencyRow, LatencyTable, Quantiles, append

CHECKPOINT = Path(workloads.embedded.__file__).parent / "plain_x4.safetensors"
DEVICE = "x86-avx512-vnni-bf16"


class StoppedHereError(Exception):
    pass


def request(out: Path) -> ProfileRequest:
    return ProfileRequest(
        checkpoints=(CHECKPOINT,),
        device=DEVICE,
        runtime="onnxruntime",
        out=out,
        grid=False,
        sizes=((24, 32),),
        seconds=0.1,
    )


def test_a_stopped_session_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "table.jsonl"
    asked = request(out)
    assert preview(asked).left == 5

    def stop(message: str) -> None:
        raise StoppedHereError(message)

    with monkeypatch.context() as patch:
        patch.setattr("bitwright.runs.profile.note", stop)
        with pytest.raises(StoppedHereError, match=r"plain_x4-\w{8} fp32 1x3x24x32: .* ms, kernels add up to"):
            profile(asked)
    (first,) = LatencyTable.load(out).networks
    assert (first.plan, first.input_shape, first.threads) == ("fp32", (1, 3, 24, 32), 1)
    assert preview(asked).left == 4
    for plan in ("alternating", "mixed-0", "mixed-1"):
        append(out, first.model_copy(update={"plan": plan}))
    summary = profile(asked)
    assert (summary.measured, summary.present) == (1, 5)
    assert list(summary.share) == [first.network]
    int8 = LatencyTable.load(out).networks[-1]
    assert int8.plan == "int8"
    assert {kernel.precision for kernel in int8.kernels if kernel.layers} == {"int8"}
    assert preview(asked).left == 0
    assert "nothing, all of it is in the table" in "\n".join(preview(asked).lines())


def test_dry_run_of_the_command_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.jsonl"
    arguments = ["profile", str(CHECKPOINT), "--device", DEVICE, "--out", str(out), "--sizes", "32x32,64x48"]
    assert run([*arguments, "--runtime", "openvino", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["left"] == 14
    assert told["minutes"] > 1
    assert not out.exists()
    assert run(["profile", "--device", DEVICE, "--out", str(out), "--runtime", "openvino", "--dry-run"]) == 0
    assert "grid-c128" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--no-grid"], "nothing to measure: give a checkpoint, or --grid"),
        (["absent.pth"], "checkpoint absent.pth does not exist"),
        (["--sizes", "12"], "--sizes: '12' is not valid"),
        (["--runtime", "ncnn"], "has no runtime 'ncnn'"),
    ],
)
def test_bad_requests_are_one_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["profile", "--device", DEVICE, "--out", str(tmp_path / "t.jsonl"), *arguments, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_table_of_another_machine_is_warned_of(tmp_path: Path) -> None:
    out = tmp_path / "table.jsonl"
    asked = request(out)
    assert preview(asked).warning is None
    append(out, _foreign_row())
    summary = preview(asked)
    assert summary.present == 0
    assert summary.warning is not None
    assert "1 of 1 rows" in summary.warning
    assert summary.warning in summary.lines()


def _foreign_row() -> LatencyRow:
    return LatencyRow(
        profile="other",
        runtime="onnxruntime",
        runtime_version="1",
        threads=1,
        kernel=Kernel(op="Conv", precision="fp32", inputs=(), outputs=()),
        ms=Quantiles(p10=1, p50=1, p90=1, mean=1),
        n=1,
        source="elsewhere",
        fingerprint="0123456789abcdef",
        created="2026-01-01T00:00:00+00:00",
    )
