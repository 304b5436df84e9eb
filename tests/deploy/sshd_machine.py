"""OpenSSH's server for tests, from Debian's packages, without installing it.

`python tests/deploy/sshd_machine.py` makes it on a Debian machine; where it was not made, tests of ssh use asyncssh's
server. It wants a user and a folder of its own, which it finds in a mount namespace, so it needs root's rights.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ.get("BITWRIGHT_SSHD", Path(__file__).resolve().parents[2] / ".sshd"))
PACKAGES = ("openssh-server", "libwrap0", "libnsl2", "libtirpc3")
"""The server and what openssh-client does not bring along."""
MADE = "passwd"
"""The users that the server sees: written last, and removed where it does not start."""
START = """
set -e
mount --bind "$1/passwd" /etc/passwd
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
LD_LIBRARY_PATH="$(echo "$1"/root/usr/lib/*-linux-*)"
export LD_LIBRARY_PATH
program="$1/root/usr/sbin/sshd"
shift
exec "$program" "$@"
"""


def sshd_command(*words: str) -> list[str] | None:
    """What starts the server with these arguments; None where it was not made or cannot be started."""
    if not (FOLDER / MADE).is_file() or os.geteuid() != 0 or shutil.which("unshare") is None:
        return None
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", START, "sshd", str(FOLDER), *words]


def make(folder: Path) -> None:
    """Make the server in `folder`, whatever was there before."""
    shutil.rmtree(folder, ignore_errors=True)
    root, packages = folder / "root", folder / "packages"
    for path in (root, packages):
        path.mkdir(parents=True)
    _run("apt-get", "-qq", "update")
    _run("apt-get", "-qq", "download", *PACKAGES, cwd=packages)
    for package in packages.iterdir():
        _run("dpkg-deb", "-x", str(package), str(root))
    users = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("sshd:")]
    (folder / MADE).write_text("\n".join([*users, "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin"]) + "\n")


def _run(*words: str, cwd: Path | None = None) -> None:
    subprocess.run(words, cwd=cwd, check=True, timeout=600, stdout=subprocess.DEVNULL)


def require_start() -> None:
    """SystemExit where the server does not start; it then counts as not made, so that asyncssh's takes its place."""
    why = "the server needs root's rights and unshare (package util-linux)"
    try:
        command = sshd_command("-V")
        if command is not None:
            told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stderr
            why = "" if "OpenSSH" in told else f"the server does not start: {told}"
    except (OSError, subprocess.TimeoutExpired) as error:
        why = f"the server does not start: {error}"
    if why:
        (FOLDER / MADE).unlink(missing_ok=True)
        raise SystemExit(why)


if __name__ == "__main__":
    make(FOLDER)
    require_start()
    sys.stdout.write(f"{FOLDER} is ready\n")
