"""What is special about the SQLite store: it survives, and it refuses files that are not its own."""

import asyncio
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.metadata.sqlite import FILE_NAME, SqliteMetaStore
from cluster.metadata.store import BrokerInfo, CreateTopic, DeleteTopic, GroupRow, OffsetRow, SlotKind
from logstore.clock import SeededChance
from logstore.errors import DamagedSegment, NotOwner, NotWritten, UnsupportedFormat

T1, T2 = uuid.UUID(int=1), uuid.UUID(int=2)
BROKER = BrokerInfo(1, "localhost", 9092)


async def opened(directory: Path, seed: int = 1) -> SqliteMetaStore:
    store = SqliteMetaStore(directory, SeededChance(seed))
    await store.open()
    return store


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    fence = await store.register(BROKER)
    await store.mutate(fence, CreateTopic("t", T1, 2, {"retention.ms": "1"}))
    await store.mutate(fence, CreateTopic("gone", T2, 1))
    await store.mutate(fence, DeleteTopic(T2))
    slot = await store.acquire(SlotKind.GROUP, 5, fence)
    row = GroupRow("g", "classic", 3, b"body", 17)
    (topic,) = (await store.image(0)).topics
    commit = OffsetRow("g", topic.partition_ids[0], 42, 0, "note", 18)
    await store.save_groups(slot, [row])
    await store.save_offsets(slot, [commit])
    block = await store.allocate_producer_ids(fence, 1000)
    before, cluster_id = await store.image(0), await store.cluster_id()
    await store.close()

    store = await opened(tmp_path, seed=2)
    assert await store.cluster_id() == cluster_id
    assert await store.image(0) == before
    again = await store.register(BROKER)
    assert again.epoch == fence.epoch + 1
    with pytest.raises(NotOwner):
        await store.mutate(fence, CreateTopic("late", uuid.UUID(int=9), 1))
    assert await store.allocate_producer_ids(again, 1) == block + 1000
    assert await store.deleted_topic_ids() == {T2}
    slot_again = await store.acquire(SlotKind.GROUP, 5, again)
    state = await store.load_slot(slot_again)
    assert (state.groups, state.offsets) == ((row,), (commit,))
    await store.mutate(again, CreateTopic("next", uuid.UUID(int=3), 1))
    ids = {partition for topic in (await store.image(0)).topics for partition in topic.partition_ids}
    assert len(ids) == 3
    await store.close()


async def test_two_stores_on_one_file_see_each_other(tmp_path: Path) -> None:
    one, two = await opened(tmp_path, 1), await opened(tmp_path, 2)
    first = await one.register(BROKER)
    second = await two.register(BrokerInfo(2, "localhost", 9093))
    ids = [uuid.UUID(int=number) for number in range(1, 21)]
    calls = [
        (one if number % 2 else two).mutate(first if number % 2 else second, CreateTopic(f"t{number}", topic_id, 1))
        for number, topic_id in enumerate(ids)
    ]
    versions = await asyncio.gather(*calls)
    assert len(set(versions)) == 20
    assert await one.image(0) == await two.image(0)
    assert await one.cluster_id() == await two.cluster_id()
    await one.close()
    await two.close()


async def test_waiting_operations_share_a_transaction(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    fence = await store.register(BROKER)
    slot = await store.acquire(SlotKind.GROUP, 0, fence)
    statements: list[str] = []
    await store._do(lambda db: db.set_trace_callback(statements.append))
    await asyncio.gather(*(store.save_groups(slot, [GroupRow(f"g{n}", "classic", 1, b"", 0)]) for n in range(100)))
    await store._do(lambda db: db.set_trace_callback(None))
    assert sum("INSERT OR REPLACE INTO groups" in each for each in statements) == 100
    assert sum(each.startswith("COMMIT") for each in statements) <= 10
    await store.close()


async def test_an_operation_that_fails_inside_leaves_nothing_of_itself(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    fence = await store.register(BROKER)

    def half(db: sqlite3.Connection) -> None:
        db.execute("UPDATE cluster SET version = 1000")
        raise RuntimeError("in the middle")

    results = await asyncio.gather(
        store._do(half), store.mutate(fence, CreateTopic("t", T1, 1)), return_exceptions=True
    )
    assert isinstance(results[0], RuntimeError)
    assert results[1] == 2
    await store.close()


async def test_a_full_disk_is_not_written_and_passes(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    fence = await store.register(BROKER)
    slot = await store.acquire(SlotKind.GROUP, 0, fence)
    pages = await store._do(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await store._do(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    with pytest.raises(NotWritten):
        await store.save_groups(slot, [GroupRow("big", "classic", 1, bytes(1 << 20), 0)])
    await store._do(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
    await store.save_groups(slot, [GroupRow("big", "classic", 1, bytes(1 << 20), 0)])
    assert len((await store.load_slot(slot)).groups) == 1
    await store.close()


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is not a database, whatever its name says. " * 100)


def tear(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 + 100 : 3 * 4096] = b"\xa5" * (2 * 4096 - 100)
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 4096 * 2])


@pytest.mark.parametrize("harm", [overwrite, tear, cut])
async def test_a_damaged_file_is_refused(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    await (await opened(tmp_path)).close()
    harm(tmp_path / FILE_NAME)
    with pytest.raises(DamagedSegment, match=r"metadata\.db"):
        await opened(tmp_path)


async def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / FILE_NAME)
    db.execute("CREATE TABLE theirs (x)")
    db.commit()
    db.close()
    with pytest.raises(UnsupportedFormat, match="another program"):
        await opened(tmp_path)
    db = sqlite3.connect(tmp_path / FILE_NAME)
    assert [name for (name,) in db.execute("SELECT name FROM sqlite_schema")] == ["theirs"]
    db.close()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    await (await opened(tmp_path)).close()
    db = sqlite3.connect(tmp_path / FILE_NAME)
    (newest,) = db.execute("SELECT max(version) FROM schema_version").fetchone()
    db.execute("INSERT INTO schema_version VALUES (?, 'future.sql')", (newest + 1,))
    db.commit()
    db.close()
    with pytest.raises(UnsupportedFormat, match=f"schema version {newest + 1}"):
        await opened(tmp_path)


async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotWritten, match="nowhere"):
        await opened(tmp_path / "nowhere")


async def test_commits_are_synced(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    assert await store._do(lambda db: db.execute("PRAGMA synchronous").fetchone()) == (2,)
    assert await store._do(lambda db: db.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
    await store.close()
