"""A `logstore serve` process: started, killed, stopped and started again on the same ports and directory.

Every process is ended by its own id. Addresses are chosen below the range the system takes for outgoing connections:
a client that knocks at a closed port inside that range can be connected to itself, and then holds the port.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from logstore.clock import Clock, SystemChance, SystemClock

HOST: Final = "127.0.0.1"
_PORTS: Final = range(18_000, 32_000)
_ADDRESS: Final = re.compile(rb"((?:\d{1,3}\.){3}\d{1,3}|localhost|\[[0-9a-f:]+\]):(\d+)")
_STDERR_BYTES_SHOWN: Final = 4_000


class ServerFailed(Exception):
    """The server did not start, ended by itself, or did not stop as asked. Carries the end of its stderr."""


def free_port() -> int:
    """A port nobody listens on now."""
    for _ in range(200):
        port = _PORTS[SystemChance().below(len(_PORTS))]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ServerFailed("no free port found")


class ServerProcess:
    """One server on one directory. Not for several threads at once; `kill` may be called from any.

    `kafka` is `host:port`, `http` is `http://host:port`; both stay the same through `restart`. What the server says
    on stderr is collected over all starts in `<directory>.stderr`.
    """

    def __init__(
        self, directory: Path, *, settings: Sequence[str] = (), http: bool = True, clock: Clock | None = None
    ) -> None:
        """`settings`: broker keys as `key=value`. Nothing is started yet."""
        self.directory = directory
        self.stderr_path = directory.with_name(directory.name + ".stderr")
        self.kafka = f"{HOST}:{free_port()}"
        self.http = f"http://{HOST}:{free_port()}" if http else ""
        self.ready_ms = 0
        """How long the last start took, from the process's creation to its line of readiness."""
        self._settings = settings
        self._clock = clock or SystemClock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed("the server was never started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stderr(self) -> str:
        """The last part of what the server complained about."""
        if not self.stderr_path.exists():
            return ""
        return self.stderr_path.read_bytes()[-_STDERR_BYTES_SHOWN:].decode(errors="replace")

    def command(self) -> list[str]:
        """The command line, for those who start a second one beside it."""
        doors = ["--kafka", self.kafka, "--http", self.http.removeprefix("http://") or "off"]
        options = [part for setting in self._settings for part in ("--set", setting)]
        return [sys.executable, "-m", "tools", "serve", "--data-dir", str(self.directory), *doors, *options]

    def start(self, timeout_s: float = 20) -> ServerProcess:
        """Returns when the server printed its line. Raises `ServerFailed` when it ends or stays silent."""
        begun_ms = self._clock.monotonic_ms()
        with self.stderr_path.open("ab") as stderr:
            self._process = subprocess.Popen(
                self.command(),
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                cwd=_root(),
            )
        try:
            self._await_ready(begun_ms + int(timeout_s * 1000))
        except BaseException:
            self.kill()
            raise
        self.ready_ms = self._clock.monotonic_ms() - begun_ms
        return self

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone. Nothing when it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close_pipe()

    def terminate(self, timeout_s: float = 20) -> None:
        """SIGTERM. Raises `ServerFailed` unless the server then ends with exit code 0 in time."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failed(f"SIGTERM did not end the server within {timeout_s} s") from None
        self._close_pipe()
        if code != 0:
            raise self._failed(f"after SIGTERM the server ended with {code}")

    def restart(self, timeout_s: float = 20) -> ServerProcess:
        """Start again after `kill` or `terminate`, on the same ports and directory."""
        if self.is_running:
            raise ServerFailed("the server is still running")
        return self.start(timeout_s)

    def rss_bytes(self) -> int:
        """Memory the process holds now (VmRSS)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise ServerFailed(f"process {self.pid} has no VmRSS")

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.stderr():
            print(f"--- stderr of the server in {self.directory}\n{self.stderr()}", file=sys.stderr)
        self.kill()

    def _await_ready(self, deadline_ms: int) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0, deadline_ms - self._clock.monotonic_ms()) / 1000):
                    raise self._failed(f"the server did not say it is ready; so far: {line!r}")
                piece = os.read(process.stdout.fileno(), 4096)
                if not piece:
                    raise self._failed(f"the server ended with {process.wait()} before it was ready")
                line += piece
        found = [f"{host.decode()}:{port.decode()}" for host, port in _ADDRESS.findall(line)]
        wanted = [self.kafka, *([self.http.removeprefix("http://")] if self.http else [])]
        if found[: len(wanted)] != wanted:
            raise self._failed(f"the server says {line!r}, expected {' and '.join(wanted)}")

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()

    def _failed(self, what: str) -> ServerFailed:
        return ServerFailed(f"{what}\n--- stderr:\n{self.stderr()}")


def _root() -> Path:
    """Where `python -m tools` finds this very checkout or installation."""
    return Path(__file__).resolve().parent.parent.parent
