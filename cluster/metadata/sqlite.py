"""MetaStore in one SQLite file, `metadata.db` of the data directory.

One thread owns the connection. It takes every operation that waits, runs them in one transaction, each within a
savepoint so that one that is refused does not hurt the others, and fsyncs once for all: group commit. Nobody hears of
a result before that fsync. Several processes of one machine may share the file; SQLite's lock orders what they write.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from cluster.image import BrokerImage, MetaDelta, TopicImage
from cluster.metadata.memory import encode_cluster_id
from cluster.metadata.migrate import connect, damaged
from cluster.metadata.store import (
    AddPartitions,
    AlterTopicConfig,
    BrokerFence,
    BrokerInfo,
    CreateTopic,
    DeleteTopic,
    GroupRow,
    MetaChange,
    OffsetRow,
    SlotFence,
    SlotKind,
    SlotState,
    check_partition_count,
    stale_broker,
    stale_slot,
)
from logstore.clock import Chance
from logstore.errors import Closed, DurabilityUnknown, NotWritten, TopicExists, UnknownTopicOrPartition

FILE_NAME: Final = "metadata.db"
_OPERATIONS_MAX: Final = 1000  # a transaction's bound: a caller waits for at most so many others

T = TypeVar("T")


class _Operation(NamedTuple):
    run: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]


class _Outcome(NamedTuple):
    future: asyncio.Future[Any]
    result: Any
    error: Exception | None


class SqliteMetaStore:
    """See `MetaStore`. `chance` draws the cluster id of a new directory."""

    def __init__(self, directory: Path, chance: Chance) -> None:
        self._path = directory / FILE_NAME
        self._chance = chance
        self._waiting: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_open = False

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        fresh = encode_cluster_id(self._chance.uuid())
        db = await self._loop.run_in_executor(None, connect, self._path)
        self._thread = threading.Thread(target=self._work, args=(db,), name="logstore-metadata", daemon=True)
        self._thread.start()
        self._is_open = True
        await self._do(lambda db: db.execute("INSERT OR IGNORE INTO cluster VALUES (1, ?, 0, 1, 0)", (fresh,)))

    async def close(self) -> None:
        if not self._is_open or self._thread is None:
            return
        self._is_open = False
        self._waiting.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    async def cluster_id(self) -> str:
        return await self._do(lambda db: str(_one(db, "SELECT cluster_id FROM cluster")[0]))

    async def register(self, broker: BrokerInfo) -> BrokerFence:
        return await self._do(lambda db: _register(db, broker))

    async def image(self, since: int) -> MetaDelta:
        return await self._do(lambda db: _image(db, since))

    async def deleted_topic_ids(self) -> frozenset[uuid.UUID]:
        sql = "SELECT topic_id FROM topics WHERE deleted_version IS NOT NULL"
        return await self._do(lambda db: frozenset(uuid.UUID(bytes=key) for (key,) in db.execute(sql)))

    async def mutate(self, fence: BrokerFence, change: MetaChange) -> int:
        return await self._do(lambda db: _mutate(db, fence, change))

    async def acquire(self, kind: SlotKind, slot: int, fence: BrokerFence) -> SlotFence:
        return await self._do(lambda db: _acquire(db, kind, slot, fence))

    async def load_slot(self, fence: SlotFence) -> SlotState:
        return await self._do(lambda db: _load_slot(db, fence))

    async def save_groups(self, fence: SlotFence, rows: Sequence[GroupRow]) -> None:
        values = [(fence.slot, r.group_id, r.kind, r.generation, r.body, r.saved_at_ms) for r in rows]
        await self._fenced(fence, "INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?, ?, ?)", values)

    async def delete_groups(self, fence: SlotFence, group_ids: Sequence[str]) -> None:
        keys = [(fence.slot, group_id) for group_id in group_ids]

        def run(db: sqlite3.Connection) -> None:
            _check_slot(db, fence)
            db.executemany("DELETE FROM groups WHERE slot = ? AND group_id = ?", keys)
            db.executemany("DELETE FROM group_offsets WHERE slot = ? AND group_id = ?", keys)

        await self._do(run)

    async def save_offsets(self, fence: SlotFence, rows: Sequence[OffsetRow]) -> None:
        sql = (
            "INSERT OR REPLACE INTO group_offsets SELECT ?, ?, partition_id, ?, ?, ?, ?"
            " FROM partitions WHERE partition_id = ?"
        )
        values = [
            (fence.slot, r.group_id, r.offset, r.leader_epoch, r.metadata, r.commit_timestamp_ms, r.partition_id)
            for r in rows
        ]
        await self._fenced(fence, sql, values)

    async def delete_offsets(self, fence: SlotFence, keys: Sequence[tuple[str, int]]) -> None:
        sql = "DELETE FROM group_offsets WHERE slot = ? AND group_id = ? AND partition_id = ?"
        await self._fenced(fence, sql, [(fence.slot, *key) for key in keys])

    async def allocate_producer_ids(self, fence: BrokerFence, count: int) -> int:
        if count < 1:
            raise ValueError(f"{count} producer ids asked for")

        def run(db: sqlite3.Connection) -> int:
            _check_broker(db, fence)
            sql = "UPDATE cluster SET next_producer_id = next_producer_id + ? RETURNING next_producer_id"
            return int(_one(db, sql, count)[0]) - count

        return await self._do(run)

    async def _fenced(self, fence: SlotFence, sql: str, values: Sequence[tuple[Any, ...]]) -> None:
        def run(db: sqlite3.Connection) -> None:
            _check_slot(db, fence)
            db.executemany(sql, values)

        await self._do(run)

    async def _do(self, run: Callable[[sqlite3.Connection], T]) -> T:
        if not self._is_open or self._loop is None:
            raise Closed("the metadata store is not open")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.put(_Operation(run, future))
        return await future

    # --- the writer thread -------------------------------------------------------------------------------------------

    def _work(self, db: sqlite3.Connection) -> None:
        stopping = False
        while not stopping:
            batch: list[_Operation] = []
            try:
                first = self._waiting.get()
                while first is not None and len(batch) < _OPERATIONS_MAX:
                    batch.append(first)
                    first = self._waiting.get_nowait()
                stopping = first is None
                if first is not None:
                    batch.append(first)
            except queue.Empty:
                pass
            if batch:
                outcomes = self._commit(db, batch)
                try:
                    assert self._loop is not None
                    self._loop.call_soon_threadsafe(_deliver, outcomes)
                except RuntimeError:  # the loop was closed without closing us: nobody is left to tell
                    stopping = True
        db.close()

    def _commit(self, db: sqlite3.Connection, batch: list[_Operation]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            for operation in batch:
                db.execute("SAVEPOINT one")
                try:
                    outcomes.append(_Outcome(operation.future, operation.run(db), None))
                except Exception as error:  # whatever it is belongs to its caller alone
                    if not db.in_transaction:  # SQLite gave the whole transaction up (disk full, I/O error)
                        raise
                    db.execute("ROLLBACK TO one")
                    outcomes.append(_Outcome(operation.future, None, self._translate(error)))
                db.execute("RELEASE one")
        except Exception as error:
            _roll_back(db)
            return [_Outcome(operation.future, None, self._translate(error)) for operation in batch]
        try:
            db.execute("COMMIT")
        except Exception as error:
            unknown = self._translate(error)
            if not _roll_back(db):
                unknown = DurabilityUnknown(f"{self._path}: {error}", hint="read it back before trying again")
            return [each if each.error else each._replace(result=None, error=unknown) for each in outcomes]
        return outcomes

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.OperationalError):
            return NotWritten(f"{self._path} was not written: {error}", hint="check free space, then try again")
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError):
            return damaged(self._path, str(error))
        return error


def _roll_back(db: sqlite3.Connection) -> bool:
    """True if the open transaction is gone for certain."""
    if not db.in_transaction:
        return False
    try:
        db.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True


def _deliver(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():  # its caller was cancelled
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


# --- operations: each runs within a savepoint of the writer's transaction --------------------------------------------


def _one(db: sqlite3.Connection, sql: str, *values: object) -> tuple[Any, ...]:
    row: tuple[Any, ...] = db.execute(sql, values).fetchone()
    return row


def _check_broker(db: sqlite3.Connection, fence: BrokerFence) -> None:
    if _one(db, "SELECT epoch FROM brokers WHERE node_id = ?", fence.node_id) != (fence.epoch,):
        raise stale_broker(fence)


def _check_slot(db: sqlite3.Connection, fence: SlotFence) -> None:
    if _one(db, "SELECT epoch FROM slots WHERE kind = ? AND slot = ?", fence.kind, fence.slot) != (fence.epoch,):
        raise stale_slot(fence)


def _next_version(db: sqlite3.Connection) -> int:
    return int(_one(db, "UPDATE cluster SET version = version + 1 RETURNING version")[0])


def _register(db: sqlite3.Connection, broker: BrokerInfo) -> BrokerFence:
    sql = (
        "INSERT INTO brokers VALUES (?, 1, ?, ?, ?, ?) ON CONFLICT (node_id) DO UPDATE SET epoch = epoch + 1,"
        " host = excluded.host, port = excluded.port, rack = excluded.rack, version = excluded.version RETURNING epoch"
    )
    (epoch,) = _one(db, sql, broker.node_id, broker.host, broker.port, broker.rack, _next_version(db))
    return BrokerFence(broker.node_id, epoch)


def _image(db: sqlite3.Connection, since: int) -> MetaDelta:
    cluster_id, version = _one(db, "SELECT cluster_id, version FROM cluster")
    live: dict[bytes, tuple[str, str, int]] = {}
    deleted: list[uuid.UUID] = []
    sql = "SELECT topic_id, name, config, version, deleted_version FROM topics WHERE version > ? ORDER BY version"
    for topic_id, name, config, topic_version, deleted_version in db.execute(sql, (since,)):
        if deleted_version is None:
            live[topic_id] = (name, config, topic_version)
        elif since > 0:
            deleted.append(uuid.UUID(bytes=topic_id))
    ids: dict[bytes, list[int]] = {topic_id: [] for topic_id in live}
    sql = (
        "SELECT topic_id, partition_id FROM partitions JOIN topics USING (topic_id) WHERE version > ?"
        " ORDER BY topic_id, idx"
    )
    for topic_id, partition_id in db.execute(sql, (since,)):
        ids[topic_id].append(partition_id)
    sql = "SELECT node_id, host, port, epoch, rack FROM brokers WHERE version > ? ORDER BY version"
    return MetaDelta(
        since,
        version,
        cluster_id,
        topics=tuple(
            TopicImage(name, uuid.UUID(bytes=topic_id), tuple(ids[topic_id]), json.loads(config), topic_version)
            for topic_id, (name, config, topic_version) in live.items()
        ),
        deleted_topic_ids=tuple(deleted),
        brokers=tuple(BrokerImage(*row) for row in db.execute(sql, (since,))),
    )


def _mutate(db: sqlite3.Connection, fence: BrokerFence, change: MetaChange) -> int:
    _check_broker(db, fence)
    match change:
        case CreateTopic():
            return _create(db, change)
        case DeleteTopic(topic_id):
            return _delete(db, topic_id)
        case AlterTopicConfig(topic_id):
            _, config, version = _topic(db, topic_id)
            old: dict[str, str] = json.loads(config)
            new = {k: v for k, v in old.items() if k not in change.delete} | dict(change.set)
            if new == old:
                return version
            sql = "UPDATE topics SET config = ?, version = ? WHERE topic_id = ? RETURNING version"
            return int(_one(db, sql, json.dumps(new), _next_version(db), topic_id.bytes)[0])
        case AddPartitions(topic_id, count):
            name, _, version = _topic(db, topic_id)
            (present,) = _one(db, "SELECT count(*) FROM partitions WHERE topic_id = ?", topic_id.bytes)
            check_partition_count(name, count, present)
            if count == present:
                return version
            _insert_partitions(db, topic_id, present, count)
            sql = "UPDATE topics SET version = ? WHERE topic_id = ? RETURNING version"
            return int(_one(db, sql, _next_version(db), topic_id.bytes)[0])


def _topic(db: sqlite3.Connection, topic_id: uuid.UUID) -> tuple[str, str, int]:
    sql = "SELECT name, config, version FROM topics WHERE topic_id = ? AND deleted_version IS NULL"
    row: tuple[str, str, int] | None = db.execute(sql, (topic_id.bytes,)).fetchone()
    if row is None:
        raise UnknownTopicOrPartition(f"topic id {topic_id} is not here")
    return row


def _create(db: sqlite3.Connection, change: CreateTopic) -> int:
    made = db.execute("SELECT created_version FROM topics WHERE topic_id = ?", (change.topic_id.bytes,)).fetchone()
    if made is not None:
        return int(made[0])
    if db.execute("SELECT 1 FROM topics WHERE name = ? AND deleted_version IS NULL", (change.name,)).fetchone():
        raise TopicExists(f"topic {change.name} is there already")
    check_partition_count(change.name, change.partitions)
    version = _next_version(db)
    row = (change.topic_id.bytes, change.name, json.dumps(dict(change.config)), version, version)
    db.execute("INSERT INTO topics VALUES (?, ?, ?, ?, ?, NULL)", row)
    _insert_partitions(db, change.topic_id, 0, change.partitions)
    return version


def _insert_partitions(db: sqlite3.Connection, topic_id: uuid.UUID, present: int, count: int) -> None:
    sql = "UPDATE cluster SET next_partition_id = next_partition_id + ? RETURNING next_partition_id"
    first = int(_one(db, sql, count - present)[0]) - (count - present)
    rows = [(first + index - present, topic_id.bytes, index) for index in range(present, count)]
    db.executemany("INSERT INTO partitions VALUES (?, ?, ?)", rows)


def _delete(db: sqlite3.Connection, topic_id: uuid.UUID) -> int:
    key = topic_id.bytes
    gone = db.execute("SELECT deleted_version FROM topics WHERE topic_id = ?", (key,)).fetchone()
    if gone is not None and gone[0] is not None:
        return int(gone[0])
    _topic(db, topic_id)
    version = _next_version(db)
    db.execute("UPDATE topics SET version = ?, deleted_version = ? WHERE topic_id = ?", (version, version, key))
    sql = "DELETE FROM group_offsets WHERE partition_id IN (SELECT partition_id FROM partitions WHERE topic_id = ?)"
    db.execute(sql, (key,))
    db.execute("DELETE FROM partitions WHERE topic_id = ?", (key,))
    return version


def _acquire(db: sqlite3.Connection, kind: SlotKind, slot: int, fence: BrokerFence) -> SlotFence:
    _check_broker(db, fence)
    sql = (
        "INSERT INTO slots VALUES (?, ?, 1, ?, ?) ON CONFLICT (kind, slot) DO UPDATE SET epoch = epoch + 1,"
        " owner_node_id = excluded.owner_node_id, owner_epoch = excluded.owner_epoch RETURNING epoch"
    )
    (epoch,) = _one(db, sql, kind, slot, fence.node_id, fence.epoch)
    return SlotFence(kind, slot, epoch)


def _load_slot(db: sqlite3.Connection, fence: SlotFence) -> SlotState:
    _check_slot(db, fence)
    sql = "SELECT group_id, kind, generation, body, saved_at_ms FROM groups WHERE slot = ? ORDER BY group_id"
    groups = tuple(GroupRow(*row) for row in db.execute(sql, (fence.slot,)))
    sql = (
        "SELECT group_id, partition_id, committed, leader_epoch, metadata, commit_timestamp_ms FROM group_offsets"
        " WHERE slot = ? ORDER BY group_id, partition_id"
    )
    return SlotState(groups, tuple(OffsetRow(*row) for row in db.execute(sql, (fence.slot,))))
