"""Another machine, as far as tests can have one: a Python that has no more than it needs, and a real SSH server."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.deploy.sshd_machine import sshd_command

HOSTILE = 'a b;touch pwned&$(touch pwned)`touch pwned` it\'s "quoted" *\nünï'
"""A file name that does harm wherever it is not handled as a name."""

FETCHED = "OpenSSH's, fetched for tests"
_ALONE = ("PYTHONPATH", "PYTHONHOME")


def bare_python(folder: Path, *runtimes: str) -> Path:
    """The interpreter of a new environment that has numpy and `runtimes`, and nothing else."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*")) / "site-packages"
    for package in ("numpy", *runtimes):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        found = Path(spec.origin).parent
        for part in (found, found.with_name(f"{package}.libs"), *found.parent.glob(f"{package}-*.dist-info")):
            if part.exists():
                (site / part.name).symlink_to(part)
    return python


def clean_environment() -> dict[str, str]:
    """The environment of this process, without what leads Python to the packages of this one."""
    return {name: value for name, value in os.environ.items() if name not in _ALONE}


@dataclass
class SshServer:
    """A real SSH server on loopback. `config`: the client's configuration with its key and the hosts that it knows.

    `program`: what it says that it is. `apart`: it has mounts of its own.
    """

    process: subprocess.Popen[bytes]
    port: int
    user: str
    folder: Path
    program: str
    apart: bool

    @property
    def config(self) -> Path:
        return self.folder / "client_config"

    @property
    def address(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    def other_config(self, name: str, **changes: str) -> Path:
        """The client's configuration with other values for some options."""
        lines = [line for line in self.config.read_text().splitlines() if line.split()[0] not in changes]
        path = self.folder / name
        path.write_text("\n".join([*(f"{key} {value}" for key, value in changes.items()), *lines]) + "\n")
        return path

    def behind(self, port: int) -> Path:
        """The client's configuration for the server where it answers at another port."""
        name = f"known_hosts_{port}"
        known = (self.folder / "known_hosts").read_text().replace(f":{self.port} ", f":{port} ")
        (self.folder / name).write_text(known)
        return self.other_config(f"config_{port}", UserKnownHostsFile=str(self.folder / name))

    def there(self, *words: str) -> list[str]:
        """A command that works on the file systems that the server sees."""
        return ["nsenter", "-t", str(self.process.pid), "-m", *words] if self.apart else list(words)

    def keygen(self, name: str) -> Path:
        """A new key pair."""
        return keygen(self.folder, name)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def keygen(folder: Path, name: str) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)], check=True, timeout=30
    )
    return folder / name


def start_server(folder: Path) -> SshServer:
    """OpenSSH's server, the installed or the fetched one, else asyncssh's; skips where none, or no client, is there."""
    for program in ("ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            pytest.skip(f"no OpenSSH client is installed: {program} is missing")
    host, client = keygen(folder, "host_key"), keygen(folder, "client_key")
    shutil.copy(client.with_suffix(".pub"), folder / "authorized_keys")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    user = psutil.Process().username()
    kind, command = _openssh("-D", "-e", "-f", str(_sshd_config(folder, host, port)))
    if command is None:
        if importlib.util.find_spec("asyncssh") is None:
            pytest.skip("no SSH server: install openssh-server, or asyncssh (extra dev)")
        command = [sys.executable, str(Path(__file__).with_name("asyncssh_server.py")), str(folder), str(port)]
    (folder / "client_config").write_text(
        f"IdentityFile {client}\nIdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {folder / 'known_hosts'}\nGlobalKnownHostsFile /dev/null\n"
    )
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}\n")
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    log.close()
    program = _await_banner(process, port, folder / "server.log")
    return SshServer(process, port, user, folder, program, apart=kind == FETCHED)


def ssh_server() -> str:
    """Which server `start_server` starts, in words."""
    return _openssh()[0]


def _openssh(*words: str) -> tuple[str, list[str] | None]:
    """The server in words, and what starts OpenSSH's with these arguments; None where asyncssh's takes its place."""
    if (installed := _usable_sshd()) is not None:
        return "OpenSSH's, as it is installed", [installed, *words]
    if (fetched := sshd_command(*words)) is not None:
        return FETCHED, fetched
    return "asyncssh's; python tests/deploy/sshd_machine.py fetches OpenSSH's", None


def _usable_sshd() -> str | None:
    found = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        return None
    # It tests its own configuration, separation of privileges and all.
    checked = subprocess.run([found, "-t"], capture_output=True, timeout=30, check=False)
    told = checked.stderr.decode()
    return None if "rivilege separation" in told or "/run/sshd" in told else found


def _sshd_config(folder: Path, host: Path, port: int) -> Path:
    path = folder / "sshd_config"
    path.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    return path


def _await_banner(process: subprocess.Popen[bytes], port: int, log: Path) -> str:
    """Wait until the server answers; returns its name as it tells it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            banner = connection.makefile("rb").readline().decode(errors="replace").strip()
            if banner.startswith("SSH-2.0-"):
                return banner.removeprefix("SSH-2.0-")
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"the SSH server does not answer: {log.read_text()}")


def runners(folder: Path) -> list[psutil.Process]:
    """The runners (not their workers) that measure in a folder below `folder`, oldest first."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if len(words) > 1 and words[1].startswith(str(folder)) and words[1].endswith(".pyz"):
                found += [] if "--worker" in words else [process]
    return sorted(found, key=lambda process: process.create_time())


def await_rounds(samples: Path, count: int) -> bytes:
    """Wait until a runner has logged some rounds; returns the log so far."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        content = samples.read_bytes() if samples.is_file() else b""
        if content.count(b'{"record": "round"') >= count:
            return content
        time.sleep(0.02)
    pytest.fail(f"no {count} rounds in {samples}")


def kill(process: psutil.Process | subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(30)
