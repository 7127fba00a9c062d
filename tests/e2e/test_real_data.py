"""Whole event streams through every client, with the server killed half-way: the demo's story as tests.

The real streams when they are there, else small ones with the same features.
"""

from __future__ import annotations

import pytest
from support.servers import ServerFactory

from tools.demo.datasets import load
from tools.demo.doors import cross
from tools.demo.story import CLIENTS, tell

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_is_lost_doubled_or_changed_by_a_crash(client: str, server_factory: ServerFactory) -> None:
    server = server_factory()
    for stream in load():
        outcome = tell(server, CLIENTS[client](server.kafka, server.http), stream)
        assert outcome.problems == [], outcome
        assert outcome.crashed
    server.terminate()


def test_what_one_door_wrote_every_other_reads(server_factory: ServerFactory) -> None:
    server = server_factory()
    assert cross([make(server.kafka, server.http) for make in CLIENTS.values()], server.kafka) == []
