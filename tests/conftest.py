"""Shared fixtures: where the data folder is, and a skip that names it when it is absent."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

DATA = Path(os.environ.get("BITWRIGHT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

# A shell ignores the interrupts of what it starts in the background, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with test images and checkpoints; where it is absent, tests that need it skip, but fail in CI."""
    if not (DATA / "SHA256SUMS").is_file():
        absent = f"no data folder at {DATA}; set BITWRIGHT_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(absent)
        pytest.skip(absent)
    return DATA


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU, as this process sees it."""
    import torch

    from bitwright.foundation.errors import DeviceError
    from deploy import gpu_match

    def none() -> str:
        raise DeviceError("NVIDIA's driver finds no GPU")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_match, "driver_gpu", none)


def pytest_runtest_setup() -> None:
    """Where a test has brought the ONNX exporter in, have those after it share what it reads."""
    if "torch.onnx._internal.exporter._registration" in sys.modules:
        from tests.onnx_operators import read_once

        read_once()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which SSH server the tests had, where some needed one."""
    reports = (report for found in terminalreporter.stats.values() for report in found)
    if any("test_ssh" in getattr(report, "nodeid", "") for report in reports):
        from tests.deploy.far_machine import ssh_server

        terminalreporter.write_line(f"SSH server: {ssh_server()}")
