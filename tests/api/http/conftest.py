"""A real node on a fresh directory, with metadata in memory, and the HTTP door over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from api.http.app import HttpApp
from api.http.door import Door, HttpLimits
from api.http.lifecycle import Lifecycle
from api.http.server import HttpServer, ServerLimits
from api.kafka.server import bind
from cluster.config import BrokerConfig
from cluster.logs import LocalLogStore
from cluster.metadata.memory import MemoryMetaStore
from cluster.metadata.store import BrokerInfo
from cluster.node import Node
from cluster.runtime import GroupRuntime, group_settings
from cluster.scheduler import LoopScheduler
from logstore.clock import SeededChance, SystemClock
from logstore.log.group_commit import GroupCommit
from logstore.record.records import NewRecord, encode_batch
from logstore.store import Store

JSON = "application/vnd.kafka.json.v2+json"
BINARY = "application/vnd.kafka.binary.v2+json"
STRING = "application/vnd.kafka.string.v2+json"

LIMITS = HttpLimits(body_bytes_max=2 << 20, body_wait_ms_max=300, tail_keep_alive_ms=40)


@dataclass
class House:
    """A node and its door; `client` speaks to the door without a socket."""

    node: Node
    app: HttpApp
    lifecycle: Lifecycle
    clock: SystemClock
    servers: list[HttpServer] = field(default_factory=list)
    client: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        transport = httpx.ASGITransport(self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://door")

    async def append(self, topic: str, partition: int, records: list[NewRecord], **how: int | bool) -> int:
        """One batch, as a Kafka client would send it; its base offset."""
        image = self.node.topic(topic)
        batch = encode_batch(records, **how)
        pending = self.node.produce(image.partition_ids[partition], memoryview(batch), acks=1)
        self.node.end_of_turn()
        return (await pending).base_offset

    async def produce(self, topic: str, records: list[dict], media_type: str = JSON, where: str = "", **query) -> list:
        answer = await self.client.post(
            f"/topics/{topic}{where}", json={"records": records}, headers={"content-type": media_type}, params=query
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["offsets"]

    async def read(self, topic: str, partition: int = 0, accept: str = JSON, **query) -> list[dict]:
        answer = await self.client.get(
            f"/topics/{topic}/partitions/{partition}/records",
            params={"timeout": 0, **query},
            headers={"accept": accept},
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def serve(self, **limits: float) -> tuple[str, int]:
        """The same door on a real socket."""
        sock = await bind(asyncio.get_running_loop(), "127.0.0.1", 0)
        server = HttpServer(self.app, sock, self.lifecycle, ServerLimits(**limits))
        self.servers.append(server)
        return await server.start()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    loop = asyncio.get_running_loop()
    clock, chance, config = SystemClock(), SeededChance(7), BrokerConfig(num_partitions=1)
    store = Store.open(tmp_path, clock=clock, chance=chance, defaults=config.topic_defaults())
    meta = MemoryMetaStore(chance)
    await meta.open()
    group_commit = GroupCommit(lambda: loop.call_soon_threadsafe(group_commit.reap))
    store.group_commit = group_commit
    scheduler = LoopScheduler(loop, clock)
    logs = LocalLogStore(store, group_commit, clock, scheduler)
    groups = GroupRuntime(meta, clock, scheduler, chance, group_settings(config))
    fence = await meta.register(BrokerInfo(1, "127.0.0.1", 9092))
    node = Node(config=config, fence=fence, meta=meta, logs=logs, groups=groups, chance=chance)
    await node.open(store.topics())
    await groups.load(fence)
    lifecycle = Lifecycle()
    made = House(node, HttpApp(Door(node, clock=clock, lifecycle=lifecycle, limits=LIMITS)), lifecycle, clock)
    lifecycle.ready()
    yield made
    await made.client.aclose()
    for server in made.servers:
        await server.stop(200)
    logs.close()
    await groups.close()
    group_commit.close()
    await meta.close()
    store.close()
