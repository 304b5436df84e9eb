"""The request: what it accepts, what it says about what it does not, and the command that repeats it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, get_args

import pytest

from bitwright.foundation.errors import ProfileError, UsageError
from bitwright.runs.request import CompressRequest, PlacementName, RangeMethod
from compress.plan import Placement
from compress.ranges import RangeMethod as RangeMethods

MINIMAL: dict[str, Any] = {"checkpoint": Path("net.pth"), "device": "x86-avx2", "data": Path("photos")}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_drop": -1}, ("--max-drop", "-1", "greater than or equal to 0", "dB")),
        ({"max_drop": float("nan")}, ("--max-drop", "nan")),
        ({"seed": "x"}, ("--seed", "'x'", "whole number")),
        ({"calibration_count": 0}, ("--calibration-count", "0", "greater than or equal to 1")),
        ({"range_method": "median"}, ("--range-method", "median", "minmax", "mse")),
        ({"input_size": "128"}, ("--input-size", "height x width", "pixels")),
        ({"input_size": "0x16"}, ("--input-size", "greater than or equal to 1")),
        ({"model": "just_a_name"}, ("--model", "package.module:factory")),
        ({"runtime": "openvno"}, ("--runtime", "did you mean openvino?")),
        ({"max_dropp": 1}, ("unknown setting 'max_dropp'", "did you mean max_drop?")),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_option(values: dict[str, Any], said: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        CompressRequest(**{**MINIMAL, **values})
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in said), message


def test_an_unknown_device_suggests_the_nearest() -> None:
    with pytest.raises(ProfileError, match=r"did you mean.*x86-avx512-vnni-bf16"):
        CompressRequest(**{**MINIMAL, "device": "x86-avx512-vnni-bf61"})


def test_a_missing_setting_is_named_with_its_meaning() -> None:
    with pytest.raises(UsageError, match=r"--data is missing: Folder of pictures"):
        CompressRequest.model_validate({"checkpoint": "net.pth", "device": "x86-avx2"})


def test_the_choices_are_those_of_compress() -> None:
    assert set(get_args(RangeMethod)) == {method.value for method in RangeMethods}
    assert set(get_args(PlacementName)) == {placement.value for placement in Placement}


def test_the_command_holds_what_differs_from_the_defaults_and_survives_a_shell() -> None:
    request = CompressRequest(
        **{**MINIMAL, "data": Path("my photos")},
        eval_data=Path("set 5"),
        max_drop=0.1,
        equalize=False,
        input_size=(64, 96),
    )
    expected = ["bitwright", "compress", "net.pth", "--device", "x86-avx2", "--data", "my photos", "--eval", "set 5"]
    expected += ["--max-drop", "0.1", "--no-equalize", "--input-size", "64x96"]
    assert list(request.command()) == expected
    assert shlex.split(request.command_line()) == expected


def test_the_run_folder_is_named_after_checkpoint_and_device() -> None:
    assert CompressRequest(**MINIMAL).run_folder == Path("runs/net-x86-avx2")
    assert CompressRequest(**MINIMAL, out=Path("here")).run_folder == Path("here")


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    request = CompressRequest(**{**MINIMAL, "checkpoint": tmp_path / "none.pth"})
    with pytest.raises(UsageError, match=r"none\.pth does not exist"):
        request.check_inputs()
    (tmp_path / "net.pth").write_bytes(b"x")
    request = CompressRequest(**{**MINIMAL, "checkpoint": tmp_path / "net.pth", "data": tmp_path / "net.pth"})
    with pytest.raises(UsageError, match=r"--data .* is a file, not a folder"):
        request.check_inputs()


def test_every_field_has_a_help_text() -> None:
    assert all(len(field.description or "") > 10 for field in CompressRequest.model_fields.values())


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        CompressRequest(**MINIMAL).seed = 3
