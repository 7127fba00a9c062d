"""Group commit: who is told what, when, and how often the disk was asked."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest

from logstore.config import parse_topic_config
from logstore.errors import Closed, DurabilityUnknown
from logstore.log.group_commit import GroupCommit

NOW_MS = 1_700_000_000_000


class Owner:
    """Stands for the loop: waits for a wake-up, then reaps."""

    def __init__(self) -> None:
        self.woken = Event()
        self.commits = GroupCommit(self.woken.set)
        self.told: list[Any] = []

    def commit(self, log: Any, end_offset: int, name: object = None) -> None:
        def tell(error: object) -> None:
            self.told.append(error if name is None else (name, error))

        self.commits.commit(log, end_offset, tell)

    def turn(self) -> None:
        assert self.woken.wait(10)
        self.woken.clear()
        self.commits.reap()


@pytest.fixture
def owner() -> Any:
    owner = Owner()
    yield owner
    owner.commits.close()


def test_a_commit_is_told_once_it_is_durable(harness: Any, owner: Owner) -> None:
    log = harness.open()
    harness.append(b"a")
    owner.commit(log, 1)
    owner.turn()
    owner.commits.reap()  # harmless when no round is done
    assert owner.told == [None]
    assert log.durable_offset == 1
    owner.commit(log, 1)
    assert owner.told == [None, None]


def test_who_comes_during_a_round_shares_the_next(harness: Any, owner: Owner) -> None:
    log = harness.open()
    harness.append(b"first")
    owner.commit(log, 1, "first")
    for number in range(50):
        harness.append(b"more")
        owner.commit(log, number + 2, number)
    owner.turn()
    assert owner.told == [("first", None)]
    owner.turn()
    assert owner.told[1:] == [(number, None) for number in range(50)]
    assert owner.commits.rounds == 2
    assert log.durable_offset == 51


def test_a_failed_sync_fails_every_waiter_and_later_commits(harness: Any, owner: Owner) -> None:
    log = harness.open()
    harness.append(b"a")
    harness.files.fails_sync = True
    owner.commit(log, 1)
    owner.commit(log, 1)
    owner.turn()
    owner.commit(log, 1)
    assert len(owner.told) == 3
    assert all(isinstance(error, DurabilityUnknown) for error in owner.told)
    assert log.durable_offset == 0


@pytest.mark.parametrize("policy", ["interval", "os"])
def test_other_policies_are_told_after_the_write(harness: Any, owner: Owner, policy: str) -> None:
    log = harness.open()
    log.config = parse_topic_config({"flush.policy": policy})
    harness.append(b"a")
    owner.commit(log, 1)
    assert owner.told == [None]
    assert log.durable_offset == 0
    owner.commits.flush(log, 1)
    owner.turn()
    assert log.durable_offset == 1


def test_a_commit_from_a_callback_joins_the_next_round(harness: Any, owner: Owner) -> None:
    log = harness.open()
    harness.append(b"a")

    def again(error: object) -> None:
        owner.told.append(error)
        harness.append(b"b")
        owner.commit(log, 2, "second")

    owner.commits.commit(log, 1, again)
    owner.turn()
    owner.turn()
    assert owner.told == [None, ("second", None)]


def test_close_finishes_what_was_written_and_refuses_the_rest(harness: Any) -> None:
    owner = Owner()
    log = harness.open()
    harness.append(b"a")
    owner.commit(log, 1)
    owner.commit(log, 9)  # never written
    owner.commits.close()
    assert owner.told[0] is None
    assert isinstance(owner.told[1], Closed)
    owner.commit(log, 9)
    assert isinstance(owner.told[2], Closed)
