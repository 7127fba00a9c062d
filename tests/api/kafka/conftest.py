"""A whole node behind the dispatcher, spoken to in frames: no socket, metadata in memory, a real directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from api.kafka import codec
from api.kafka.connection import BufferPool, Connection, Session
from api.kafka.dispatch import Dispatcher
from cluster.config import parse_broker_config
from cluster.logs import LocalLogStore
from cluster.metadata.memory import MemoryMetaStore
from cluster.metadata.store import BrokerInfo
from cluster.node import Node
from cluster.runtime import GroupRuntime, group_settings
from cluster.scheduler import LoopScheduler
from logstore.clock import Clock, SeededChance, SystemClock
from logstore.files import Files
from logstore.log.group_commit import GroupCommit
from logstore.store import Store


class Wire:
    """One client's connection to a node of its own."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.connection = Connection(self._on_change, BufferPool())
        self.finished = False
        self.session = Session(
            self.connection.open_slot, self._finish, peer_host="127.0.0.1", peer_port=5, listener=("127.0.0.1", 9092)
        )
        self._dispatch = Dispatcher(node)
        self._changed = asyncio.Event()
        self._correlation_id = 0

    def _on_change(self) -> None:
        self._changed.set()

    def _finish(self) -> None:
        self.finished = True

    def send(self, api_key: int, version: int, message: Any) -> None:
        """Dispatch one request and end the turn."""
        self._correlation_id += 1
        header = codec.write_request_header(api_key, version, self._correlation_id, "test")
        self.send_frame(bytearray(header + codec.write_request(api_key, version, message)))

    def send_frame(self, frame: bytearray) -> None:
        self._dispatch(self.session, memoryview(frame))
        self.node.end_of_turn()

    async def receive(self, api_key: int, version: int) -> Any:
        """The next response."""
        parts = self.connection.take_output()
        while not parts:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 10)
            parts = self.connection.take_output()
        raw = b"".join(
            bytes(part) if isinstance(part, bytes | bytearray | memoryview) else part.view() for part in parts
        )
        self.connection.sent(len(raw))
        reply = memoryview(raw)[4:]
        assert len(reply) == int.from_bytes(raw[:4], "big"), "one response at a time"
        correlation_id, position = codec.read_response_header(api_key, version, reply)
        assert correlation_id == self._correlation_id
        return codec.read_response(api_key, version, reply, position)

    async def call(self, api_key: int, version: int, message: Any) -> Any:
        self.send(api_key, version, message)
        return await self.receive(api_key, version)


@asynccontextmanager
async def node_on(
    path: Path, *, clock: Clock | None = None, files: Files | None = None
) -> AsyncIterator[tuple[Node, GroupCommit]]:
    """A node on a directory of its own. Two made with the same clock give the same answers to the same requests."""
    loop, clock, chance = asyncio.get_running_loop(), clock or SystemClock(), SeededChance(7)
    scheduler = LoopScheduler(loop, clock)
    store = Store.open(path, clock=clock, chance=chance, files=files)
    meta = MemoryMetaStore(chance=chance)
    await meta.open()
    group_commit = GroupCommit(lambda: loop.call_soon_threadsafe(group_commit.reap) and None)
    logs = LocalLogStore(store, group_commit, clock, scheduler)
    config = parse_broker_config({"group.initial.rebalance.delay.ms": "0", "group.min.session.timeout.ms": "1"})
    groups = GroupRuntime(meta, clock, scheduler, chance, group_settings(config))
    fence = await meta.register(BrokerInfo(1, "localhost", 9092))
    node = Node(config=config, fence=fence, meta=meta, logs=logs, groups=groups, chance=chance)
    await node.open(store.topics())
    await groups.load(fence)
    yield node, group_commit
    await groups.close()
    logs.close()
    group_commit.close()
    await meta.close()
    store.close()


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with node_on(tmp_path / "data") as (node, _):
        yield Wire(node)


@pytest.fixture
def open_node() -> Any:
    return node_on
