"""A device behind the Android Debug Bridge: Debian's build of Android's own daemon, and the system's client.

`python tests/deploy/adb_machine.py` makes it on a Debian machine with root's rights; tests that need it skip where it
was not made. The daemon lets in whoever reaches its port, so it runs in a network namespace of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("BITWRIGHT_ADBD", Path(__file__).resolve().parents[2] / ".adbd"))
SERIAL = "127.0.0.1:5555"
RELEASE = "trixie"
SYSTEM = (
    "adbd", "android-libbase", "android-libboringssl", "android-libcutils", "android-liblog", "libbrotli1", "libc6",
    "libcap2", "libgcc-s1", "liblz4-1", "libprotobuf32t64", "libstdc++6", "libsystemd0", "libzstd1", "zlib1g",
)  # fmt: skip
PROGRAMS = ("adb", "unshare", "ip")


def missing() -> str | None:
    """What keeps the device from being started; None where nothing does."""
    if not (FOLDER / "adbd").is_file():
        return "no ADB daemon: python tests/deploy/adb_machine.py makes it"
    if os.geteuid() != 0:
        return "the ADB daemon needs root's rights"
    return next((f"{program} is not installed" for program in PROGRAMS if shutil.which(program) is None), None)


@dataclass
class AdbDevice:
    """A device and the server of its client, alone in a network. `environment`: what leads adb to that server."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="adb-")))
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {"ADB_SERVER_SOCKET": f"localfilesystem:{self.folder / 'server'}", "HOME": str(self.folder)}

    @property
    def address(self) -> str:
        return f"adb:{SERIAL}"

    def adb(self, *words: str) -> str:
        """What the client prints."""
        done = subprocess.run(
            ["adb", *words], env={**os.environ, **self.environment}, capture_output=True, timeout=30, check=False
        )
        return (done.stdout + done.stderr).decode()

    def start(self) -> None:
        """Start both and connect them."""
        script = f'ip link set lo up; "{FOLDER / "adbd"}" & exec adb -L "$ADB_SERVER_SOCKET" nodaemon server'
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", script],
                env={**os.environ, **self.environment}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.connect()

    def connect(self) -> None:
        """Connect the server with the device."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            # Without this one, a client starts a server of its own, outside of the namespace.
            if (self.folder / "server").exists():
                self.adb("connect", SERIAL)
                if f"{SERIAL}\tdevice" in self.adb("devices"):
                    return
            time.sleep(0.1)
        raise RuntimeError(f"the device does not answer: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def adb_device() -> Iterator[AdbDevice]:
    """A device that adb reaches from this process; skips the test where none can be started."""
    why = missing()
    if why is not None:
        pytest.skip(why)
    device = AdbDevice()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in device.environment.items():
            patch.setenv(name, value)
        try:
            device.start()
            yield device
        finally:
            device.stop()


def make(folder: Path) -> None:
    """Make the daemon in `folder`, whatever was there before; its packages are those of a later Debian."""
    shutil.rmtree(folder, ignore_errors=True)
    root, packages, state = (folder / name for name in ("root", "packages", "state"))
    for path in (root, packages, state / "lists" / "partial", state / "cache" / "archives" / "partial"):
        path.mkdir(parents=True)
    _run("apt-get", "-qq", "update")
    _run("apt-get", "-qq", "install", "-y", "--no-install-recommends", "adb", "iproute2", "util-linux")
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    ).stdout.strip()
    sources = state / "sources.list"
    sources.write_text(f"deb [arch={architecture}] http://deb.debian.org/debian {RELEASE} main\n")
    settings = (
        f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=-", f"Dir::State::lists={state / 'lists'}",
        f"Dir::Cache={state / 'cache'}", "APT::Sandbox::User=root",
    )  # fmt: skip
    apt = ("apt-get", "-qq", *(word for setting in settings for word in ("-o", setting)))
    _run(*apt, "update")
    _run(*apt, "download", *(f"{name}:{architecture}" for name in SYSTEM), cwd=packages)
    for package in packages.iterdir():
        _run("dpkg-deb", "-x", str(package), str(root))
    loader = next((root / "usr").glob("lib*/ld-linux-*.so.*"), None) or next((root / "usr/lib").glob("*/ld-linux-*"))
    libraries = next((root / "usr/lib").glob("*/libc.so.6")).parent
    program = root / "usr/lib/android-sdk/platform-tools/adbd"
    daemon = folder / "adbd"
    daemon.write_text(f'#!/bin/sh\nexec "{loader}" --library-path "{libraries}:{libraries}/android" "{program}" "$@"\n')
    daemon.chmod(0o755)


def _run(*words: str, cwd: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(words, cwd=cwd, check=True, timeout=600, env=environment, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    make(FOLDER)
    device = AdbDevice()
    try:
        device.start()
    finally:
        device.stop()
    sys.stdout.write(f"{FOLDER / 'adbd'} is ready\n")
