"""SSH over links that are slow or go silent, and under a configuration that wants less care."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from deploy.remote import Results, SshAddress, SshTransport
from tests.deploy import sshd_machine
from tests.deploy.bundle_helpers import Bundle
from tests.deploy.far_machine import SshServer, await_rounds, ssh_server
from tests.deploy.far_runs import Background, far, goes_on, samples_of
from tests.deploy.link import link

HOSTILE_CONFIG = """
BatchMode no
StrictHostKeyChecking no
VerifyHostKeyDNS yes
NoHostAuthenticationForLocalhost yes
ForwardAgent yes
ForwardX11 yes
LocalForward 127.0.0.1:1 127.0.0.1:2
PermitLocalCommand yes
ServerAliveInterval 0
ServerAliveCountMax 99
"""
SAFE = """
batchmode yes
stricthostkeychecking true
verifyhostkeydns false
nohostauthenticationforlocalhost no
clearallforwardings yes
forwardagent no
forwardx11 no
permitlocalcommand no
serveraliveinterval 10
serveralivecountmax 3
"""


def behind(server: SshServer, port: int, alive_seconds: int = 10) -> SshTransport:
    address = SshAddress("127.0.0.1", server.user, port)
    return SshTransport(address, server.behind(port), alive_seconds=alive_seconds)


def test_openssh_s_own_server_is_preferred(server: SshServer) -> None:
    assert server.program.startswith("OpenSSH" if ssh_server().startswith("OpenSSH") else "AsyncSSH")


def test_a_fetched_server_that_does_not_start_counts_as_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sshd_machine, "FOLDER", tmp_path)
    (tmp_path / sshd_machine.MADE).write_text(Path("/etc/passwd").read_text())
    with pytest.raises(SystemExit, match=r"the server (does not start|needs)"):
        sshd_machine.require_start()
    assert sshd_machine.sshd_command() is None


def test_a_slow_link_takes_its_time_and_loses_nothing(server: SshServer, bundle: Bundle, tmp_path: Path) -> None:
    rate = bundle.file.stat().st_size / 2.0
    with link(server.port, rate) as slow:
        machine = far(behind(server, slow.port), bundle, tmp_path / "there")
        begin = time.monotonic()
        machine.measure(tmp_path / "samples")
        assert time.monotonic() - begin > 2.0
        assert slow.passed > bundle.file.stat().st_size
    assert Results.read(tmp_path / "samples").comparison(bundle.manifest).target_reached


def test_a_link_that_goes_silent_is_given_up_and_the_measurement_gone_on_with(
    server: SshServer, long_bundle: Bundle, tmp_path: Path
) -> None:
    with link(server.port) as lost:
        machine = far(behind(server, lost.port, alive_seconds=1), long_bundle, tmp_path / "there")
        first = Background(machine, tmp_path / "samples")
        await_rounds(samples_of(machine), 3)
        lost.silence()
        told = first.ended_with()
    assert told.startswith(f"ssh://{server.user}@127.0.0.1:{lost.port}: the connection was lost")
    assert "not responding" in told
    assert told.endswith("what was measured is kept there: the same command goes on with it")
    assert "\n" not in told
    again = far(behind(server, server.port), long_bundle, tmp_path / "there")
    assert again.place == machine.place
    goes_on(again, tmp_path / "samples", long_bundle.manifest)


def test_no_configuration_makes_it_less_careful(server: SshServer, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(HOSTILE_CONFIG)
    client, *words = SshTransport(SshAddress.parse(server.address), config)._command
    told = subprocess.run([client, "-G", *words], capture_output=True, text=True, timeout=30, check=True).stdout
    assert set(SAFE.split("\n")) - {""} <= set(told.splitlines())
    loose = subprocess.run(
        [client, "-G", "-F", str(config), "host"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert "verifyhostkeydns true" in loose.splitlines(), "without these options the file decides"
