"""Measuring over a real SSH connection, and everything that goes wrong with one: each a clear line, nothing lost."""

from __future__ import annotations

import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bitwright.foundation.errors import DeviceError, UsageError
from bitwright.foundation.progress import reporting_to
from deploy.remote import Results, SshAddress, SshTransport
from tests.deploy.bundle_helpers import Bundle
from tests.deploy.far_machine import HOSTILE, SshServer, await_rounds, bare_python, kill, runners
from tests.deploy.far_runs import Background, far, goes_on, samples_of
from tests.listener import Listener


@pytest.fixture
def transport(server: SshServer) -> SshTransport:
    return SshTransport(SshAddress.parse(server.address), server.config)


def test_a_bundle_goes_there_is_measured_and_comes_back(
    server: SshServer, transport: SshTransport, bundle: Bundle, tmp_path: Path
) -> None:
    python = bare_python(tmp_path / "venv", "onnxruntime")
    machine = far(transport, bundle, tmp_path / "there", str(python))
    listener = Listener()
    with reporting_to(listener):
        machine.measure(tmp_path / "samples.jsonl")
    result = Results.read(tmp_path / "samples.jsonl").comparison(bundle.manifest)
    assert "torch" not in result.environment.libraries
    assert result.elsewhere is not None
    assert result.elsewhere.sessions == 1
    assert listener.steps["measuring latency, interleaved"] == len(result.order)
    size = bundle.file.stat().st_size
    assert f"sending {size} of {size} bytes to {server.address}" in listener.notes
    assert Path(machine.place).stat().st_mode & 0o077 == 0, "what lies there is nobody else's business"
    machine.remove()
    assert not Path(machine.place).exists()


def test_a_host_that_is_not_known_is_refused(server: SshServer, bundle: Bundle, tmp_path: Path) -> None:
    config = server.other_config("unknown", UserKnownHostsFile="/dev/null", StrictHostKeyChecking="no")
    machine = far(SshTransport(SshAddress.parse(server.address), config), bundle, tmp_path)
    with pytest.raises(DeviceError, match="its host key is not known here; connect once with `ssh -p") as caught:
        machine.measure(tmp_path / "samples")
    assert caught.value.exit_code == 5
    assert server.address in str(caught.value)


def test_another_host_key_than_the_known_one_is_refused(server: SshServer, bundle: Bundle, tmp_path: Path) -> None:
    other = " ".join(server.keygen("other_host").with_suffix(".pub").read_text().split()[:2])
    (server.folder / "wrong_hosts").write_text(f"[127.0.0.1]:{server.port} {other}\n")
    config = server.other_config(
        "wrong", UserKnownHostsFile=str(server.folder / "wrong_hosts"), StrictHostKeyChecking="no"
    )
    machine = far(SshTransport(SshAddress.parse(server.address), config), bundle, tmp_path)
    with pytest.raises(DeviceError, match="its host key is not the one that is known"):
        machine.measure(tmp_path / "samples")
    assert not Path(machine.place).exists()


def test_a_refused_login_is_told(server: SshServer, bundle: Bundle, tmp_path: Path) -> None:
    config = server.other_config("stranger", IdentityFile=str(server.keygen("stranger_key")))
    machine = far(SshTransport(SshAddress.parse(server.address), config), bundle, tmp_path)
    with pytest.raises(DeviceError, match=r"it refused the login \(.*Permission denied"):
        machine.measure(tmp_path / "samples")


def test_a_machine_that_is_not_there_is_told(server: SshServer, bundle: Bundle, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = SshAddress("127.0.0.1", server.user, free.getsockname()[1])
    machine = far(SshTransport(address, server.config), bundle, tmp_path)
    with pytest.raises(DeviceError, match=r"cannot be reached \(.*Connection refused"):
        machine.measure(tmp_path / "samples")


def test_a_machine_that_accepts_and_stays_silent_is_given_up(server: SshServer, bundle: Bundle, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = SshAddress("127.0.0.1", server.user, mute.getsockname()[1])
        machine = far(SshTransport(address, server.config, connect_seconds=1), bundle, tmp_path)
        with pytest.raises(DeviceError, match=r"cannot be reached|connection was lost"):
            machine.measure(tmp_path / "samples")


def test_a_missing_runtime_is_told_with_the_machine_s_name(
    server: SshServer, transport: SshTransport, bundle: Bundle, tmp_path: Path
) -> None:
    python = bare_python(tmp_path / "venv")
    with pytest.raises(UsageError, match=r"onnxruntime is not installed .*pip install 'onnxruntime==") as caught:
        far(transport, bundle, tmp_path, str(python)).measure(tmp_path / "samples")
    assert str(caught.value).startswith(f"{server.address}: ")


def test_a_full_disk_there_is_told_and_the_rest_is_sent_later(
    server: SshServer, transport: SshTransport, bundle: Bundle, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(server.there(*mount), capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    try:
        machine = far(transport, bundle, disk)
        with pytest.raises(DeviceError, match=r"copying the bundle failed: .*No space left on device"):
            machine.measure(tmp_path / "samples")
        subprocess.run(server.there("mount", "-o", "remount,size=8m", str(disk)), check=True)
        machine.measure(tmp_path / "samples")
        assert Results.read(tmp_path / "samples").comparison(bundle.manifest).target_reached
    finally:
        subprocess.run(server.there("umount", "-l", str(disk)), check=True)


def test_only_the_rest_of_a_bundle_is_sent_that_was_cut_off(
    server: SshServer, transport: SshTransport, bundle: Bundle, tmp_path: Path
) -> None:
    machine = far(transport, bundle, tmp_path / "there")
    content = bundle.file.read_bytes()
    Path(machine.place).mkdir(parents=True)
    Path(machine.place, "bundle.part").write_bytes(content[:1000])
    listener = Listener()
    with reporting_to(listener):
        machine.measure(tmp_path / "samples")
    assert f"sending {len(content) - 1000} of {len(content)} bytes to {server.address}" in listener.notes
    assert Path(machine.place, "bundle.pyz").read_bytes() == content


def test_a_damaged_bundle_there_is_replaced(transport: SshTransport, bundle: Bundle, tmp_path: Path) -> None:
    machine = far(transport, bundle, tmp_path / "there")
    content = bytearray(bundle.file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    Path(machine.place).mkdir(parents=True)
    Path(machine.place, "bundle.pyz").write_bytes(content)
    Path(machine.place, "bundle.part").write_bytes(content[: len(content) // 2 + 9])
    machine.measure(tmp_path / "samples")
    assert Path(machine.place, "bundle.pyz").read_bytes() == bundle.file.read_bytes()


def test_a_runner_that_was_killed_there_goes_on_where_it_was(
    transport: SshTransport, long_bundle: Bundle, tmp_path: Path
) -> None:
    machine = far(transport, long_bundle, tmp_path / "there")
    first = Background(machine, tmp_path / "samples")
    await_rounds(samples_of(machine), 3)
    [runner] = runners(tmp_path)
    kill(runner)
    assert "the same command goes on with it" in first.ended_with()
    goes_on(machine, tmp_path / "samples", long_bundle.manifest, sessions=2)


def ssh_clients(server: SshServer) -> list[psutil.Process]:
    """The ssh clients of this process that are connected to the server."""
    children = psutil.Process().children()
    return [child for child in children if child.name() == "ssh" and str(server.port) in child.cmdline()]


def test_a_connection_that_drops_loses_nothing(
    server: SshServer, transport: SshTransport, long_bundle: Bundle, tmp_path: Path
) -> None:
    machine = far(transport, long_bundle, tmp_path / "there")
    first = Background(machine, tmp_path / "samples")
    await_rounds(samples_of(machine), 3)
    [client] = ssh_clients(server)
    client.kill()
    first.ended_with()
    [runner] = runners(tmp_path)
    assert runner.is_running(), "the runner goes on without a connection"
    goes_on(machine, tmp_path / "samples", long_bundle.manifest)


@pytest.mark.parametrize("name", [HOSTILE, "-rf"])
def test_hostile_names_there_are_names(
    transport: SshTransport, bundle: Bundle, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    python = bare_python(tmp_path / f"venv {name}", "onnxruntime")
    machine = far(transport, bundle, folder, str(python))
    machine.measure(tmp_path / "samples")
    assert Results.read(tmp_path / "samples").comparison(bundle.manifest).target_reached
    machine.remove()
    assert [path.name for path in folder.iterdir()] == []
    home = Path.home()
    assert not any((place / "pwned").exists() for place in (tmp_path, folder, home, Path.cwd()))
    relative = replace(machine, folder="-rf")
    assert relative.place.startswith("./-rf/")
