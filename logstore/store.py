"""One data directory: who owns it, which topics are in it, their logs, and the chores that keep them in shape.

    .lock                             held by the owner, its pid inside
    .kafka_cleanshutdown              only after a clean stop, until the next start
    recovery-point-offset-checkpoint  per partition: everything below was fsynced
    log-start-offset-checkpoint       per partition: everything below was deleted
    <topic>-<n>/                      one partition: segments, partition.metadata (topic id), topic.config (options)
    <topic>-<n>.<id>-delete/          a deleted one, about to be removed

A topic is there if its partition 0 is; it has as many partitions as follow without a gap. Partition 0 is therefore made
last and deleted first, so that a crash in between never shows half a topic. Everything is for one thread, the owner's.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections import deque
from collections.abc import Callable, Generator, Mapping
from itertools import count
from threading import Lock
from typing import Final, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from logstore.checkpoints import LOG_START_FILE, RECOVERY_POINT_FILE, decode_checkpoint, encode_checkpoint
from logstore.clock import Chance, Clock, SystemChance, SystemClock
from logstore.config import TopicConfig, parse_topic_config
from logstore.errors import (
    Closed,
    DamagedSegment,
    InvalidConfig,
    InvalidPartitions,
    InvalidTopicName,
    LogstoreError,
    TopicExists,
    UnknownTopicOrPartition,
)
from logstore.files import Files, OsFiles
from logstore.files import Lock as FileLock
from logstore.log.group_commit import GroupCommit
from logstore.log.partition_log import PartitionLog
from logstore.log.recovery import RecoveryReport
from logstore.names import collision_key, parse_partition_dir, partition_dir, retired_dir, validate_topic_name
from logstore.segment.reader import OpenFiles
from logstore.types import Offset, TimestampMs, TopicPartition

LOCK_FILE: Final = ".lock"
CLEAN_MARK_FILE: Final = ".kafka_cleanshutdown"
METADATA_FILE: Final = "partition.metadata"
CONFIG_FILE: Final = "topic.config"
PARTITIONS_MAX: Final = 10_000
CHECKPOINT_INTERVAL_MS: Final = 60_000
RETENTION_INTERVAL_MS: Final = 300_000  # Kafka's log.retention.check.interval.ms
_CLEAN_MARK: Final = b'{"version":0,"brokerEpoch":-1}'
_OPENED_PER_ROUND: Final = 20  # logs nobody asked for yet, opened by one `maintain` for their retention


T = TypeVar("T")
Steps: TypeAlias = Generator[Callable[[], None], None, T]
"""An operation that yields its slow file work, which any thread may do, and goes on on the owner's thread. Work that
raises is thrown back in. Two operations on one topic must not overlap; see `run_here` for who has only one thread."""


def run_here(steps: Steps[T]) -> T:
    """Carry out every step on this thread."""
    try:
        work = next(steps)
        while True:
            try:
                work()
            except Exception as error:
                work = steps.throw(error)
            else:
                work = next(steps)
    except StopIteration as done:
        result: T = done.value
        return result


class StoredTopic(NamedTuple):
    name: str
    topic_id: UUID
    partitions: int
    config: Mapping[str, str]  # only what differs from the defaults, as `name=value`


class Store:
    """See the module's text. Use as a context manager, or `close` it: without that the next start is a recovery."""

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, files: Files | None = None, clock: Clock | None = None,
        chance: Chance | None = None, defaults: TopicConfig | None = None,
    ) -> Store:  # fmt: skip
        """Own the directory (made if missing). After an unclean stop every partition is recovered before this returns.

        `defaults` are the options that a topic has unless its own say otherwise.

        A damaged partition does not keep the others closed: it is named in `damaged`, and `log` raises for it.
        Raises: DirectoryLocked (with the owner's pid), NotWritten, DurabilityUnknown, InvalidConfig (a topic.config).
        """
        files = files or OsFiles()
        root = os.path.abspath(path)
        _make_root(files, root)
        lock = files.lock(f"{root}/{LOCK_FILE}")
        try:
            return cls(root, files, lock, clock or SystemClock(), chance or SystemChance(), defaults or TopicConfig())
        except BaseException:
            lock.release()
            raise

    def __init__(
        self, root: str, files: Files, lock: FileLock, clock: Clock, chance: Chance, defaults: TopicConfig
    ) -> None:
        """Use `open`."""
        self.path = root
        self.clock = clock
        self.group_commit: GroupCommit | None = None  # set by who runs one, so that chores fsync on its thread
        self.retention_interval_ms = RETENTION_INTERVAL_MS
        self.damaged: dict[TopicPartition, DamagedSegment] = {}
        self.reports: dict[TopicPartition, RecoveryReport] = {}
        self._files = files
        self._lock = lock
        self._chance = chance
        self._defaults = defaults
        self._open_files = OpenFiles(files)
        self._logs: dict[TopicPartition, PartitionLog] = {}
        self._touched: set[TopicPartition] = set()  # by an open that failed: unsynced files may lie there now
        self._topics: dict[str, StoredTopic] = {}
        self._configs: dict[str, TopicConfig] = {}
        self._retired: deque[tuple[TimestampMs, str]] = deque()
        self._closed = False
        self._checkpoint_lock = Lock()
        self._joins_log_starts = False  # one checkpoint for several is about to follow
        self._checkpoints_taken = self._checkpoint_written = 0
        self._recovery_points = self._read_checkpoint(RECOVERY_POINT_FILE)
        self._log_starts = self._read_checkpoint(LOG_START_FILE)
        self._checkpointed_ms = self._retained_ms = clock.now_ms()
        names = files.listdir(root)
        self.was_clean = CLEAN_MARK_FILE in names
        if not self.was_clean:
            files.fsync_dir(root)  # the topics that are found are here to stay
        self._load_topics(names)
        for name in names:
            if name.endswith("-delete"):
                files.remove_tree(f"{root}/{name}")
        if self.was_clean:
            files.remove(f"{root}/{CLEAN_MARK_FILE}")
            files.fsync_dir(root)
        else:
            self._recover_all()

    def _recover_all(self) -> None:
        for topic in self._topics.values():
            for partition in range(topic.partitions):
                try:
                    self.log(topic.name, partition)
                except DamagedSegment as error:
                    self.damaged[TopicPartition(topic.name, partition)] = error

    # --- topics -----------------------------------------------------------------------------------------------------

    def topics(self) -> dict[str, StoredTopic]:
        """All topics by name."""
        return dict(self._topics)

    def topic(self, name: str) -> StoredTopic:
        """Raises `UnknownTopicOrPartition`."""
        try:
            return self._topics[name]
        except KeyError:
            raise UnknownTopicOrPartition(f"there is no topic {name}", hint="create it first") from None

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None, topic_id: UUID | None = None
    ) -> StoredTopic:
        """Raises: InvalidTopicName (or one that differs only in `.` and `_`), TopicExists, InvalidPartitions,
        InvalidConfig, NotWritten, DurabilityUnknown. Durable when it returns."""
        return run_here(self.creating_topic(name, partitions, config, topic_id))

    def creating_topic(
        self, name: str, partitions: int, config: Mapping[str, str] | None, topic_id: UUID | None
    ) -> Steps[StoredTopic]:
        """`create_topic` in steps."""
        self._check_open()
        validate_topic_name(name)
        if name in self._topics:
            raise TopicExists(f"topic {name} exists already")
        key = collision_key(name)
        twin = next((other for other in self._topics if collision_key(other) == key), None)
        if twin is not None:
            raise InvalidTopicName(f"{name} collides with topic {twin}", hint="names must differ in more than . and _")
        _check_partitions(partitions)
        values = dict(config or {})
        parsed = parse_topic_config(values, self._defaults)
        topic = StoredTopic(name, topic_id or self._chance.uuid(), partitions, values)
        yield self._making(topic, range(partitions))
        self._topics[name] = topic
        self._configs[name] = parsed
        return topic

    def add_partitions(self, name: str, partitions: int) -> StoredTopic:
        """Raise the number of partitions to `partitions`. Raises InvalidPartitions unless that is more than now."""
        return run_here(self.adding_partitions(name, partitions))

    def adding_partitions(self, name: str, partitions: int) -> Steps[StoredTopic]:
        """`add_partitions` in steps."""
        self._check_open()
        before = self.topic(name)
        _check_partitions(partitions)
        if partitions <= before.partitions:
            raise InvalidPartitions(f"{name} has {before.partitions} partitions", hint="partitions can only be added")
        topic = before._replace(partitions=partitions)
        yield self._making(topic, range(before.partitions, partitions))
        self._topics[name] = topic
        return topic

    def set_config(self, name: str, config: Mapping[str, str]) -> StoredTopic:
        """Replace the topic's options by `config`; what it does not name returns to the default.

        In force once durable, which it is when it returns. Raises InvalidConfig; then nothing changed.
        """
        return run_here(self.setting_config(name, config))

    def setting_config(self, name: str, config: Mapping[str, str]) -> Steps[StoredTopic]:
        """`set_config` in steps."""
        self._check_open()
        topic = self.topic(name)
        values = dict(config)
        parsed = parse_topic_config(values, self._defaults)
        data = _encode_config(values)
        partitions = range(topic.partitions)

        def write() -> None:
            for partition in reversed(partitions):  # the one of partition 0 is what counts
                self._files.write_file(f"{self._dir(name, partition)}/{CONFIG_FILE}", data)

        yield write
        for partition in partitions:
            log = self._logs.get(TopicPartition(name, partition))
            if log is not None:
                log.config = parsed
        self._topics[name] = topic._replace(config=values)
        self._configs[name] = parsed
        return self._topics[name]

    def delete_topic(self, name: str) -> None:
        """Gone when it returns; its files are removed after `file.delete.delay.ms`."""
        run_here(self.deleting_topic(name))

    def deleting_topic(self, name: str) -> Steps[None]:
        """`delete_topic` in steps."""
        self._check_open()
        topic = self.topic(name)
        due_ms = self.clock.now_ms() + self._configs[name].file_delete_delay_ms
        del self._topics[name], self._configs[name]
        keys = [TopicPartition(name, partition) for partition in range(topic.partitions)]
        for key in keys:
            log = self._logs.pop(key, None)
            if log is not None:
                log.close(clean=False)
            for table in (self._recovery_points, self._log_starts, self.damaged, self.reports):
                table.pop(key, None)
        save = self._checkpointing()  # or a later topic of this name would inherit the offsets
        retired: list[str] = []

        def retire() -> None:
            for key in keys:
                retired.append(self._retire(key, "-delete"))
                if key in (keys[0], keys[-1]):  # the first before the others: no crash may leave half a topic
                    self._files.fsync_dir(self.path)
            save()

        yield retire
        self._retired.extend((due_ms, path) for path in retired)

    def _making(self, topic: StoredTopic, partitions: range) -> Callable[[], None]:
        """What makes the partitions, on any thread, after what the checkpoints still say of deleted ones is gone."""
        tables = self._recovery_points, self._log_starts
        keys = [TopicPartition(topic.name, partition) for partition in partitions]
        stale = [table.pop(key) for key in keys for table in tables if key in table]  # a crash cut the deletion short
        save = self._checkpointing() if stale else None

        def make() -> None:
            if save is not None:
                save()
            self._make_partitions(topic, partitions)

        return make

    def _make_partitions(self, topic: StoredTopic, partitions: range) -> None:
        metadata = f"version: 0\ntopic_id: {encode_topic_id(topic.topic_id)}".encode()
        config = _encode_config(topic.config)
        for partition in count(partitions.start):  # left by a crash amid create or delete, or by a cluster
            if self._files.exists(self._dir(topic.name, partition)):
                self._retire(TopicPartition(topic.name, partition), "-stray")
            elif partition >= partitions.stop:
                break
        for partition in reversed(partitions):
            key = TopicPartition(topic.name, partition)
            # What a crash leaves of it before it gets its name, the next start removes.
            unnamed = f"{self.path}/{retired_dir(key, self._chance.uuid().hex, '-delete')}"
            self._files.mkdir(unnamed)
            self._files.write_file(f"{unnamed}/{METADATA_FILE}", metadata)
            self._files.write_file(f"{unnamed}/{CONFIG_FILE}", config)
            if partition == partitions.start:
                self._files.fsync_dir(self.path)  # this one makes the others count
            self._files.rename(unnamed, self._dir(topic.name, partition))
        self._files.fsync_dir(self.path)

    def _retire(self, key: TopicPartition, suffix: str) -> str:
        path = f"{self.path}/{retired_dir(key, self._chance.uuid().hex, suffix)}"
        self._files.rename(self._dir(*key), path)
        return path

    def _load_topics(self, names: list[str]) -> None:
        partitions: dict[str, set[int]] = {}
        for name in names:
            found = parse_partition_dir(name)
            if found is not None and self._files.is_dir(f"{self.path}/{name}"):
                partitions.setdefault(found.topic, set()).add(found.partition)
        for topic, numbers in sorted(partitions.items()):
            if 0 in numbers:
                self._load_topic(topic, next(number for number in count() if number not in numbers))

    def _load_topic(self, name: str, partitions: int) -> None:
        directory = self._dir(name, 0)
        topic_id = None
        values: dict[str, str] = {}
        present = self._files.listdir(directory)
        if METADATA_FILE in present:
            topic_id = _decode_metadata(self._files.read_file(f"{directory}/{METADATA_FILE}"))
        if CONFIG_FILE in present:
            values = _decode_config(self._files.read_file(f"{directory}/{CONFIG_FILE}"))
        try:
            self._configs[name] = parse_topic_config(values, self._defaults)
        except InvalidConfig as error:
            raise InvalidConfig(f"{directory}/{CONFIG_FILE}: {error}", hint="correct the file") from None
        if topic_id is None:
            topic_id = self._chance.uuid()
            text = f"version: 0\ntopic_id: {encode_topic_id(topic_id)}"
            self._files.write_file(f"{directory}/{METADATA_FILE}", text.encode())
        self._topics[name] = StoredTopic(name, topic_id, partitions, values)

    def _dir(self, topic: str, partition: int) -> str:
        return f"{self.path}/{partition_dir(TopicPartition(topic, partition))}"

    # --- logs -------------------------------------------------------------------------------------------------------

    def log(self, topic: str, partition: int) -> PartitionLog:
        """The log of one partition, opened when first asked for. Raises UnknownTopicOrPartition, DamagedSegment."""
        self._check_open()
        key = TopicPartition(topic, partition)
        log = self._logs.get(key)
        if log is not None:
            return log
        stored = self.topic(topic)
        if not 0 <= partition < stored.partitions:
            raise UnknownTopicOrPartition(f"{topic} has partitions 0..{stored.partitions - 1}, not {partition}")
        if key in self.damaged:
            raise self.damaged[key]
        is_clean = self.was_clean and key not in self._touched
        self._touched.add(key)
        log = PartitionLog.open(
            self._files,
            self._dir(topic, partition),
            key,
            self._configs[topic],
            now_ms=self.clock.now_ms(),
            clean=is_clean,
            recovery_point=self._recovery_points.get(key, 0),
            log_start_offset=self._log_starts.get(key, 0),
            open_files=self._open_files,
            chance=self._chance,
            on_log_start_moved=self._on_log_start_moved,
        )
        self._touched.discard(key)
        self._logs[key] = log
        self.reports[key] = log.recovery_report
        return log

    def open_logs(self) -> list[PartitionLog]:
        return list(self._logs.values())

    # --- chores -----------------------------------------------------------------------------------------------------

    def maintain(self, now_ms: TimestampMs) -> list[LogstoreError]:
        """Flush what `flush.ms` and `flush.messages` ask for, roll and drop old segments, remove files, checkpoint.

        Call it every second or so on the owner's thread. One partition's failure does not stop the others.
        Returns: what went wrong, for the report to whoever operates this.
        """
        return run_here(self.maintaining(now_ms))

    def maintaining(self, now_ms: TimestampMs) -> Steps[list[LogstoreError]]:
        """`maintain` in steps: removing a segment of 1 GiB takes half a second."""
        self._check_open()
        errors: list[LogstoreError] = []
        self._open_some(errors)
        moved: list[PartitionLog] = []
        retention_due = abs(now_ms - self._retained_ms) >= self.retention_interval_ms
        if retention_due:
            self._retained_ms = now_ms
        for log in self._logs.values():
            try:
                if log.flush_due(now_ms):
                    self._flush(log)
                if retention_due and log.retain(now_ms):
                    moved.append(log)
            except LogstoreError as error:
                errors.append(error)
        is_noted = True
        try:
            if moved:
                yield self._checkpointing()  # where they begin from now on, before the files go
        except LogstoreError as error:  # a full disk, maybe: it needs what leaves now
            errors.append(error)
            is_noted = False
        for log in moved:
            try:
                log.bury_dropped(now_ms, one_by_one=not is_noted)
            except LogstoreError as error:
                errors.append(error)
        doomed = [path for log in self._logs.values() for path in log.take_doomed(now_ms)]
        doomed_trees: list[str] = []
        while self._retired and self._retired[0][0] <= now_ms:
            doomed_trees.append(self._retired.popleft()[1])
        save: Callable[[], None] | None = None
        if abs(now_ms - self._checkpointed_ms) >= CHECKPOINT_INTERVAL_MS:
            self._checkpointed_ms = now_ms
            save = self._checkpointing()

        def work() -> None:
            for path in doomed:
                self._files.remove(path)
            for path in doomed_trees:
                self._files.remove_tree(path)
            if save is not None:
                save()

        if doomed or doomed_trees or save is not None:
            try:
                yield work
            except LogstoreError as error:
                errors.append(error)
        return errors

    def _open_some(self, errors: list[LogstoreError]) -> None:
        """Open logs nobody has asked for since the start: old records leave them, too."""
        room = _OPENED_PER_ROUND
        for topic in self._topics.values():
            for partition in range(topic.partitions):
                key = TopicPartition(topic.name, partition)
                if key in self._logs or key in self.damaged:
                    continue
                if room == 0:
                    return
                room -= 1
                try:
                    self.log(*key)
                except LogstoreError as error:
                    if isinstance(error, DamagedSegment):
                        self.damaged[key] = error
                    errors.append(error)

    def _flush(self, log: PartitionLog) -> None:
        if self.group_commit is not None:
            self.group_commit.flush(log, log.high_watermark)
        else:
            log.flush()

    def deleting_records(self, cuts: Mapping[PartitionLog, Offset]) -> Steps[dict[PartitionLog, LogstoreError]]:
        """`PartitionLog.delete_records_before` for several, with one checkpoint. Returns those that were refused."""
        self._check_open()
        before = {log: log.log_start_offset for log in cuts}
        refused: dict[PartitionLog, LogstoreError] = {}
        self._joins_log_starts = True
        for log, offset in cuts.items():
            try:
                log.delete_records_before(offset)
            except LogstoreError as error:
                refused[log] = error
        self._joins_log_starts = False
        try:
            yield self._checkpointing()
        except LogstoreError as error:
            for log, offset in before.items():
                log.log_start_offset = offset  # or a second try would be told that it is done
            refused = {log: refused.get(log, error) for log in cuts}
        return refused

    def _on_log_start_moved(self) -> None:
        if not self._joins_log_starts:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Write down up to where each partition is synced, and where it starts."""
        self._checkpointing()()

    def _checkpointing(self) -> Callable[[], None]:
        """What to write is fixed here; the writing is for any thread."""
        for key, log in self._logs.items():
            self._recovery_points[key] = log.durable_offset
            if log.log_start_offset:
                self._log_starts[key] = log.log_start_offset
        points, starts = encode_checkpoint(self._recovery_points), encode_checkpoint(self._log_starts)
        self._checkpoints_taken += 1
        number = self._checkpoints_taken

        def write() -> None:
            with self._checkpoint_lock:
                if number < self._checkpoint_written:
                    return  # a later one overtook this: written now, it would take back what that one promised
                self._files.write_file(f"{self.path}/{RECOVERY_POINT_FILE}", points)
                self._files.write_file(f"{self.path}/{LOG_START_FILE}", starts)
                self._checkpoint_written = number

        return write

    def _read_checkpoint(self, name: str) -> dict[TopicPartition, Offset]:
        try:
            return decode_checkpoint(self._files.read_file(f"{self.path}/{name}"))
        except FileNotFoundError:
            return {}

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> bool:
        """Flush and save every log, leave the clean mark, let go of the directory. Returns whether it is clean."""
        if self._closed:
            return True
        self._closed = True
        try:
            clean = not self.damaged
            for log in self._logs.values():
                clean = log.close() and clean
            try:
                self.checkpoint()
                if clean:
                    self._files.write_file(f"{self.path}/{CLEAN_MARK_FILE}", _CLEAN_MARK)
            except LogstoreError:
                clean = False
            return clean
        finally:
            self._lock.release()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"{self.path} is closed")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.path!r}, {len(self._topics)} topics, {len(self._logs)} logs open)"


def _make_root(files: Files, root: str) -> None:
    """Make the directory if it is missing; no crash may take it once something is in it."""
    new = [root]
    while not files.exists(new[-1]):
        new.append(os.path.dirname(new[-1]))
    files.mkdir(root)
    if not set(files.listdir(root)) - {LOCK_FILE}:
        for directory in new[:-1] or new:
            files.fsync_dir(os.path.dirname(directory))


def _check_partitions(partitions: int) -> None:
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise InvalidPartitions(f"{partitions} partitions", hint=f"between 1 and {PARTITIONS_MAX}")


def encode_topic_id(topic_id: UUID) -> str:
    """A topic id as Kafka writes it: 22 characters of base64url."""
    return base64.urlsafe_b64encode(topic_id.bytes).rstrip(b"=").decode()


def decode_topic_id(text: str) -> UUID:
    """Raises `ValueError`."""
    return UUID(bytes=base64.urlsafe_b64decode(text + "=="))


def _decode_metadata(data: bytes) -> UUID | None:
    for line in data.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "topic_id":
            try:
                return decode_topic_id(value.strip())
            except (ValueError, binascii.Error):
                return None
    return None


def _encode_config(values: Mapping[str, str]) -> bytes:
    return "".join(f"{name}={value}\n" for name, value in sorted(values.items())).encode()


def _decode_config(data: bytes) -> dict[str, str]:
    pairs = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines() if line.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}
