"""The running server: directory, metadata, node and both doors, put together, started and stopped in order.

Start: own the directory, open the metadata, bind the Kafka port, load topics and groups, answer Kafka clients; then
import and start the HTTP door, whose imports cost more than everything before. Stop, in the reverse order: stop
accepting, send what is owed, store what is under way, close the logs; the store writes its clean-shutdown mark last.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from api.kafka.dispatch import Dispatcher
from api.kafka.server import KafkaServer, bind
from cluster.config import ServeSettings
from cluster.logs import LocalLogStore
from cluster.metadata.sqlite import SqliteMetaStore
from cluster.metadata.store import BrokerInfo
from cluster.node import Node
from cluster.runtime import GroupRuntime, group_settings
from cluster.scheduler import LoopScheduler
from logstore.clock import SystemChance, SystemClock
from logstore.log.group_commit import GroupCommit
from logstore.store import Store

if TYPE_CHECKING:
    from api.http.metrics import Measure

log = logging.getLogger(__name__)

_DRAIN_MS = 5_000
_MAINTENANCE_INTERVAL_S = 1.0
# With the default thresholds the collector pauses the Kafka loop for 20 ms while HTTP parses many small objects.
_GC_THRESHOLDS = (50_000, 20, 100)


class Addresses(NamedTuple):
    """Where the doors really are, ports as bound."""

    kafka: tuple[str, int]
    http: tuple[str, int] | None

    def __str__(self) -> str:
        kafka = "kafka {}:{}".format(*self.kafka)
        return kafka if self.http is None else kafka + ", http http://{}:{}".format(*self.http)


class Broker:
    """One server. `start` once, `stop` once, on the loop's thread."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._chance = SystemChance()
        self._undo = contextlib.AsyncExitStack()

    async def start(self) -> Addresses:
        """Raises `LogstoreError` (directory owned by another process, damaged, address taken); all is undone then."""
        try:
            return await self._start()
        except BaseException:
            await self._undo.aclose()
            raise

    async def stop(self) -> None:
        await self._undo.aclose()

    async def _start(self) -> Addresses:
        settings, config, undo = self._settings, self._settings.broker, self._undo
        loop = asyncio.get_running_loop()
        store = Store.open(settings.data_dir, clock=self._clock, chance=self._chance, defaults=config.topic_defaults())
        undo.callback(store.close)
        meta = SqliteMetaStore(settings.data_dir, chance=self._chance)
        await meta.open()
        undo.push_async_callback(meta.close)

        group_commit = GroupCommit(lambda: _wake(loop, group_commit))
        store.group_commit = group_commit
        store.retention_interval_ms = config.log_retention_check_interval_ms
        undo.callback(group_commit.close)
        scheduler = LoopScheduler(loop, self._clock)
        logs = LocalLogStore(store, group_commit, self._clock, scheduler)
        undo.push_async_callback(logs.drain)
        groups = GroupRuntime(meta, self._clock, scheduler, self._chance, group_settings(config))

        listener = await bind(loop, *settings.kafka)
        undo.callback(listener.close)
        bound = listener.getsockname()[:2]
        # What to advertise is known only now that a port 0 has become one.
        fence = await meta.register(BrokerInfo(config.node_id, *(settings.advertise or bound)))
        node = Node(config=config, fence=fence, meta=meta, logs=logs, groups=groups, chance=self._chance)
        await node.open(store.topics())
        await groups.load(fence)
        server = KafkaServer(
            loop,
            Dispatcher(node),
            end_of_turn=node.end_of_turn,
            clock=self._clock,
            frame_bytes_max=config.socket_request_max_bytes,
            connections_max=config.max_connections,
            idle_ms_max=config.connections_max_idle_ms,
        )
        kafka = server.listen(listener)
        undo.push_async_callback(_close_kafka, server, logs, groups)
        maintenance = loop.create_task(self._maintain(logs))
        undo.callback(maintenance.cancel)
        http = await self._start_http(node, server)
        return Addresses(kafka, http)

    async def _start_http(self, node: Node, kafka: KafkaServer) -> tuple[str, int] | None:
        if self._settings.http is None:
            return None
        loop = asyncio.get_running_loop()
        sock = await bind(loop, *self._settings.http)
        self._undo.callback(sock.close)
        # Kafka clients are answered meanwhile.
        await loop.run_in_executor(None, import_module, "api.http.server")
        await loop.run_in_executor(None, import_module, "api.http.app")
        from api.http.app import create_app
        from api.http.lifecycle import Lifecycle
        from api.http.server import HttpServer

        lifecycle = Lifecycle()
        app = create_app(node, clock=self._clock, lifecycle=lifecycle, stats=(lambda: measures(node, kafka),))
        server = HttpServer(app, sock, lifecycle)
        address = await server.start()
        self._undo.push_async_callback(server.stop, _DRAIN_MS)
        warming = loop.create_task(app.rest())  # longer than all of the start: nobody has to wait for it
        self._undo.callback(warming.cancel)
        return address

    async def _maintain(self, logs: LocalLogStore) -> None:
        while True:
            await asyncio.sleep(_MAINTENANCE_INTERVAL_S)
            try:
                for error in await logs.maintain():
                    log.error("maintenance: %s", error)
            except Exception:  # a fault in a chore must not end all later ones
                log.exception("maintenance failed")


async def _close_kafka(server: KafkaServer, logs: LocalLogStore, groups: GroupRuntime) -> None:
    """Take no more requests, answer those that are parked, and let what is owed be sent."""
    closing = asyncio.ensure_future(server.close(_DRAIN_MS))
    await asyncio.sleep(0)  # it has stopped reading: nothing can be parked any more
    logs.close()
    await groups.close()
    await closing


def measures(node: Node, kafka: KafkaServer) -> Iterable[Measure]:
    """For `/metrics`. Imported by its first scrape: whoever starts the server need not wait for it."""
    from api.measures import collect

    return collect(node, kafka)


def _wake(loop: asyncio.AbstractEventLoop, group_commit: GroupCommit) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: `GroupCommit.close` drains without it
        loop.call_soon_threadsafe(group_commit.reap)


async def serve(settings: ServeSettings) -> None:
    """Start, say where, run until SIGTERM or SIGINT, stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker = Broker(settings)
    addresses = await broker.start()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        print(f"logstore ready: {addresses}, data {settings.data_dir}", flush=True)  # noqa: T201 - the promised line
        await stop.wait()
    finally:
        await broker.stop()


def run(settings: ServeSettings) -> None:
    """Serve in this process until a signal ends it. Raises `LogstoreError` if it cannot start."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(serve(settings))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not there on every platform; the standard loop does the same, slower
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
