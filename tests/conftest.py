"""Fixtures of the suites that run a real server process; everything else needs none of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from support.servers import ServerFactory

from tools.demo.server import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One running server for all tests that do no harm to it. Topics are told apart by name."""
    with ServerProcess(tmp_path_factory.mktemp("server") / "data") as running:
        yield running
        running.terminate()


@pytest.fixture
def server_factory(tmp_path: Path) -> Iterator[ServerFactory]:
    factory = ServerFactory(tmp_path)
    try:
        yield factory
    finally:
        factory.kill_all()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the servers of a failed test said on stderr comes with its report."""
    report = yield
    if report.failed:
        used = getattr(item, "funcargs", {})
        servers = [used["server"]] if "server" in used else []
        servers += used["server_factory"].made if "server_factory" in used else []
        report.sections += [(f"stderr of the server in {s.directory}", s.stderr()) for s in servers if s.stderr()]
    return report
