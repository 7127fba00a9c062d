"""Servers for tests that kill them, or want one of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.demo.server import ServerProcess


class ServerFactory:
    """Makes running servers, each on a directory of its own; all are killed after the test."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.made: list[ServerProcess] = []

    def __call__(self, name: str = "data", **arguments: Any) -> ServerProcess:
        """A running server on `root/name`; `arguments` are those of `ServerProcess`."""
        server = ServerProcess(self._root / name, **arguments)
        self.made.append(server)
        return server.start()

    def kill_all(self) -> None:
        for server in self.made:
            server.kill()
