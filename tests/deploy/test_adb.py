"""Measuring over a real ADB connection to Android's own daemon, and what goes wrong with one."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bitwright.foundation.errors import DeviceError, MissingPackageError, UsageError
from bitwright.foundation.progress import reporting_to
from deploy.remote import AdbAddress, AdbTransport, Results, SshTransport, transport_to
from tests.deploy.adb_machine import SERIAL, AdbDevice, adb_device
from tests.deploy.bundle_helpers import Bundle
from tests.deploy.far_machine import await_rounds, bare_python, kill, runners
from tests.deploy.far_runs import Background, far, goes_on, samples_of
from tests.listener import Listener

needs_adb = pytest.mark.skipif(shutil.which("adb") is None, reason="adb is not installed")


@pytest.fixture(scope="module")
def device() -> Iterator[AdbDevice]:
    with adb_device() as started:
        yield started


@pytest.fixture
def transport(device: AdbDevice) -> AdbTransport:
    return AdbTransport(AdbAddress.parse(device.address))


def test_a_bundle_goes_there_is_measured_and_comes_back(
    device: AdbDevice, transport: AdbTransport, bundle: Bundle, tmp_path: Path
) -> None:
    python = bare_python(tmp_path / "venv", "onnxruntime")
    machine = far(transport, bundle, tmp_path / "there", str(python))
    listener = Listener()
    with reporting_to(listener):
        machine.measure(tmp_path / "samples.jsonl")
    result = Results.read(tmp_path / "samples.jsonl").comparison(bundle.manifest)
    assert result.elsewhere is not None
    assert result.elsewhere.sessions == 1
    assert listener.steps["measuring latency, interleaved"] == len(result.order)
    size = bundle.file.stat().st_size
    assert f"sending {size} of {size} bytes to {device.address}" in listener.notes
    machine.remove()
    assert not Path(machine.place).exists()


def test_a_connection_that_drops_loses_nothing(transport: AdbTransport, long_bundle: Bundle, tmp_path: Path) -> None:
    """The daemon hangs up on what it had started; the runner does not mind."""
    machine = far(transport, long_bundle, tmp_path / "there")
    first = Background(machine, tmp_path / "samples")
    await_rounds(samples_of(machine), 3)
    [client] = [child for child in psutil.Process().children() if child.name() == "adb" and SERIAL in child.cmdline()]
    client.kill()
    assert "the same command goes on with it" in first.ended_with()
    [runner] = runners(tmp_path)
    assert runner.is_running()
    goes_on(machine, tmp_path / "samples", long_bundle.manifest)


def test_a_device_that_is_unplugged_is_gone_on_with(
    device: AdbDevice, transport: AdbTransport, long_bundle: Bundle, tmp_path: Path
) -> None:
    machine = far(transport, long_bundle, tmp_path / "there")
    first = Background(machine, tmp_path / "samples")
    await_rounds(samples_of(machine), 3)
    device.adb("disconnect", SERIAL)
    assert "the connection was lost" in first.ended_with()
    with pytest.raises(DeviceError, match=rf"adb:{SERIAL}: it cannot be reached \(.*`adb connect HOST:PORT`"):
        machine.measure(tmp_path / "samples")
    device.connect()
    machine.measure(tmp_path / "samples")
    assert Results.read(tmp_path / "samples").comparison(long_bundle.manifest).target_reached


def test_a_runner_that_was_killed_there_goes_on_where_it_was(
    transport: AdbTransport, long_bundle: Bundle, tmp_path: Path
) -> None:
    machine = far(transport, long_bundle, tmp_path / "there")
    first = Background(machine, tmp_path / "samples")
    await_rounds(samples_of(machine), 3)
    [runner] = runners(tmp_path)
    kill(runner)
    assert "was killed there by signal 9" in first.ended_with()
    goes_on(machine, tmp_path / "samples", long_bundle.manifest, sessions=2)


def test_how_a_command_ended_and_what_it_printed_come_apart(transport: AdbTransport) -> None:
    received = io.BytesIO()
    code = "import sys; sys.stdout.write('out'); sys.stderr.write('error: no' + chr(10) + 'last'); sys.exit(9)"
    ended = transport.run([sys.executable, "-c", code], sink=lambda b: received.write(b) and None, silence_seconds=60)
    assert (ended.code, ended.errors, received.getvalue()) == (9, "error: no\nlast", b"out")


def test_a_device_that_is_not_there_is_told(device: AdbDevice, bundle: Bundle, tmp_path: Path) -> None:
    stranger = AdbTransport(AdbAddress("R58M000000"))
    with pytest.raises(DeviceError, match=r"adb:R58M000000: it cannot be reached \(.*not found") as caught:
        far(stranger, bundle, tmp_path).measure(tmp_path / "samples")
    assert caught.value.exit_code == 5


@needs_adb
def test_an_address_says_which_connection(tmp_path: Path) -> None:
    assert transport_to("adb:emulator-5554").name == "adb:emulator-5554"
    assert transport_to("adb:[::1]:5555").default_folder == "/data/local/tmp/bitwright"
    if shutil.which("ssh") is not None:
        assert isinstance(transport_to("ssh://pi@board"), SshTransport)
    with pytest.raises(UsageError, match="--ssh-config says something of ssh"):
        transport_to("adb:R58M", tmp_path / "config")
    for wrong in ("adb:", "adb:-s", "adb:a b", "adb:$(x)", "adb:a\n"):
        with pytest.raises(UsageError, match="is no address; give adb:SERIAL"):
            transport_to(wrong)


def test_a_machine_without_adb_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackageError, match="adb is not installed"):
        transport_to("adb:R58M")
