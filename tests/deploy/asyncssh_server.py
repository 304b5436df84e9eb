"""An SSH server for tests: `python asyncssh_server.py FOLDER PORT`; commands run in a real shell, as sshd runs them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import asyncssh


async def _serve_command(process: asyncssh.SSHServerProcess[bytes]) -> None:
    # Like sshd, it lets a command live on whose connection has gone.
    child = await asyncio.create_subprocess_shell(
        process.command or "true",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        # Of this process's packages, the machine that it plays has none.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        cwd=Path.home(),
    )
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    code = await child.wait()
    await process.stdout.drain()
    if code < 0:
        process.exit_with_signal("KILL")
    else:
        process.exit(code)


async def _main(folder: Path, port: int) -> None:
    await asyncssh.listen(
        "127.0.0.1",
        port,
        server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "authorized_keys"),
        process_factory=_serve_command,
        encoding=None,
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
