"""An SSH server for tests: `python asyncssh_server.py FOLDER PORT`; commands run in a real shell, as sshd runs them."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    # Not `process.redirect`: it ends the connection where a command is gone before its streams are joined to it.
    fed = asyncio.create_task(_feed(process.stdin, child.stdin))
    await asyncio.gather(_pass_on(child.stdout, process.stdout), _pass_on(child.stderr, process.stderr))
    code = await child.wait()
    fed.cancel()
    if code < 0:
        process.exit_with_signal("KILL")
    else:
        process.exit(code)


async def _feed(source: Any, sink: asyncio.StreamWriter) -> None:
    await _pass_on(source, sink)
    sink.close()


async def _pass_on(source: Any, sink: Any) -> None:
    """Hand on what comes until it ends; where nobody takes it any more, it is read and dropped."""
    taken = True
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(1 << 16):
            if taken:
                try:
                    sink.write(data)
                    await sink.drain()
                except (OSError, asyncssh.Error):
                    taken = False


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
