"""Group commit: many waiting appends of many partitions share one round of fsyncs on one thread.

All state but the queue to and from the thread belongs to the owner's thread (the loop's). A round takes in every log
that has someone waiting when it begins; who comes during a round waits for the next. So a lone append waits for one
fsync, and under load every fsync serves everyone who came during the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple, TypeAlias

from logstore.config import FlushPolicy
from logstore.errors import Closed, LogstoreError
from logstore.log.flush import FlushTicket
from logstore.log.partition_log import PartitionLog
from logstore.types import Offset

Callback: TypeAlias = Callable[[LogstoreError | None], None]
_Round: TypeAlias = list[tuple[PartitionLog, FlushTicket]]


class _Waiter(NamedTuple):
    end_offset: Offset
    callback: Callback


class GroupCommit:
    """One per store. `commit`, `reap` and `close` are for the owner's thread; callbacks run on it too."""

    def __init__(self, notify: Callable[[], None]) -> None:
        """`notify` is called on the fsync thread when a round is done: have the owner's thread call `reap`."""
        self._notify = notify
        self._waiting: dict[PartitionLog, list[_Waiter]] = {}
        self._to_sync: SimpleQueue[_Round | None] = SimpleQueue()
        self._synced: SimpleQueue[_Round] = SimpleQueue()
        self._in_round = False
        self._thread: Thread | None = None
        self._closed = False
        self.rounds = 0

    def commit(self, log: PartitionLog, end_offset: Offset, callback: Callback) -> None:
        """Call `callback(None)` once the written records below `end_offset` are as durable as the topic promises.

        At once, before this returns, if they are already, or if `flush.policy` is not `acks`. Otherwise after a round;
        with the error if the fsync failed. A duplicate needs this as much as the append it repeats.
        """
        self.enlist(log, end_offset, callback)
        self.begin()

    def enlist(self, log: PartitionLog, end_offset: Offset, callback: Callback) -> None:
        """`commit` that leaves it to a later `begin` to start a round: so a turn's partitions share one."""
        if self._closed:
            callback(Closed("the store is shutting down"))
        elif log.failure is not None:
            callback(log.failure)
        elif log.durable_offset >= end_offset or log.config.flush_policy is not FlushPolicy.ACKS:
            callback(None)
        else:
            self._waiting.setdefault(log, []).append(_Waiter(end_offset, callback))

    def flush(self, log: PartitionLog, end_offset: Offset, callback: Callback = lambda _: None) -> None:
        """As `commit`, whatever the policy of the topic: for `flush.messages`, `flush.ms` and whoever insists."""
        self._waiting.setdefault(log, []).append(_Waiter(end_offset, callback))
        self.begin()

    def begin(self) -> None:
        """Begin a round for everyone enlisted, unless one is under way, after which the next begins by itself."""
        if self._waiting and not self._in_round:
            self._begin_round()

    def _begin_round(self) -> None:
        tickets: _Round = []
        idle: list[PartitionLog] = []
        for log in self._waiting:
            ticket = log.begin_flush()
            if ticket is None:
                idle.append(log)
            else:
                tickets.append((log, ticket))
        if tickets:
            self._in_round = True
            if self._thread is None:
                self._thread = Thread(target=self._sync_rounds, name="logstore-fsync", daemon=True)
                self._thread.start()
            self._to_sync.put(tickets)
        for log in idle:
            self._settle(log)

    def _sync_rounds(self) -> None:
        while (tickets := self._to_sync.get()) is not None:
            for _, ticket in tickets:
                ticket.sync()
            self._synced.put(tickets)
            self._notify()

    def reap(self) -> None:
        """Take in a finished round, run its callbacks, begin the next if someone waits. Harmless when none is done."""
        if self._in_round and not self._synced.empty():
            self._take_in(self._synced.get())

    def _take_in(self, tickets: _Round) -> None:
        self.rounds += 1
        for log, ticket in tickets:  # still in the round: who commits from a callback joins the next one
            try:
                log.finish_flush(ticket)
            except LogstoreError as error:
                self._fail(log, error)
            else:
                self._settle(log)
        self._in_round = False
        if self._waiting:
            self._begin_round()

    def _settle(self, log: PartitionLog) -> None:
        """Call back whoever waits for no more than is durable."""
        waiters = self._waiting.pop(log, [])
        later = [waiter for waiter in waiters if waiter.end_offset > log.durable_offset]
        if later:
            self._waiting[log] = later
        for waiter in waiters:
            if waiter.end_offset <= log.durable_offset:
                waiter.callback(None)

    def _fail(self, log: PartitionLog, error: LogstoreError) -> None:
        for waiter in self._waiting.pop(log, []):
            waiter.callback(error)

    def drain(self) -> None:
        """Finish every round anyone waits for, here and now."""
        while self._in_round:
            self._take_in(self._synced.get())

    def close(self) -> None:
        """Drain, then end the thread. Who waits for records that were never written is told `Closed`."""
        self.drain()
        self._closed = True
        for log in list(self._waiting):
            self._fail(log, Closed("the store is shutting down"))
        if self._thread is not None:
            self._to_sync.put(None)
            self._thread.join()
            self._thread = None
