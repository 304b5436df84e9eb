"""A bundle on another processor: 64-bit Arm, emulated, with Arm builds of the runtimes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.foundation.errors import UsageError
from deploy.profiling.rows import timed_row
from deploy.remote import Results
from tests.deploy.aarch64 import arm_python
from tests.deploy.bundle_helpers import Bundle, make_bundle, start
from tests.deploy.runtimes import TELL_TIMES

PYTHON = arm_python()
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="there is no Arm machine: python tests/deploy/aarch64.py makes one"
)


@pytest.fixture(scope="module", params=TELL_TIMES)
def bundle(
    quantized_file: Path, float_file: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Bundle:
    folder = tmp_path_factory.mktemp(f"bundle-{request.param}")
    return make_bundle(folder, quantized_file, float_file, request.param, min_samples=30)


@pytest.fixture(scope="module")
def results(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Results:
    assert PYTHON is not None
    out = tmp_path_factory.mktemp("out")
    ended = start(PYTHON, bundle.file, out)
    assert ended.returncode == 0, ended.stderr
    return Results.read(out)


def test_engines_compute_on_arm_what_they_compute_here(bundle: Bundle, results: Results) -> None:
    timed = results.comparison(bundle.manifest)
    assert timed.environment.architecture == "aarch64"
    assert timed.environment.cpu_flags == ("asimd", "asimddp", "asimdhp")
    assert timed.elsewhere is not None
    differences = timed.elsewhere.output_differences
    assert set(differences) == {"engine", "float"}
    assert 0.0 <= differences["float"] < 1e-5
    # Sums of the float part are rounded in another order, so that a value may fall to the next integer of a quantiser.
    assert differences["engine"] < 0.02


def test_emulated_times_are_marked_and_enter_no_table(bundle: Bundle, results: Results) -> None:
    timed = results.comparison(bundle.manifest)
    assert timed.environment.emulator == "qemu-aarch64"
    with pytest.raises(UsageError, match="measured under emulation \\(qemu-aarch64\\)"):
        timed_row(timed, "engine", "network", "int8")
