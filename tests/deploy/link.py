"""A link between an SSH client and a server on loopback that is as slow, or as silent, as a test wants it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE = 1 << 12


class Link:
    """Passes bytes on between those that connect to `port` and a server, `bytes_per_second` in each direction at most.

    `silence`: from then on nothing passes, and no end tells of the other that it is gone.
    """

    def __init__(self, server_port: int, bytes_per_second: float | None = None) -> None:
        self._server_port = server_port
        self._rate = bytes_per_second
        self._silent = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.passed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """Pass nothing on any more."""
        self._silent.set()

    def close(self) -> None:
        """End all connections."""
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE):
                if self._silent.is_set():
                    return
                if self._rate is not None:
                    time.sleep(len(data) / self._rate)
                sink.sendall(data)
                self.passed += len(data)
            if not self._silent.is_set():
                sink.shutdown(socket.SHUT_WR)


@contextmanager
def link(server_port: int, bytes_per_second: float | None = None) -> Iterator[Link]:
    """A link that is closed in the end."""
    made = Link(server_port, bytes_per_second)
    try:
        yield made
    finally:
        made.close()
