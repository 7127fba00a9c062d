"""An answer that may come later: told once, to a listener before or after, or awaited."""

from __future__ import annotations

import asyncio

import pytest

from cluster.pending import Pending


def test_a_listener_hears_before_resolve_returns_and_after() -> None:
    heard: list[int] = []
    first: Pending[int] = Pending()
    first.when_done(lambda done: heard.append(done.result()))
    first.resolve(1)
    Pending.settled(2).when_done(lambda done: heard.append(done.result()))
    assert heard == [1, 2]


def test_an_error_is_raised_by_result() -> None:
    pending: Pending[int] = Pending()
    pending.fail(KeyError("no"))
    with pytest.raises(KeyError):
        pending.result()


def test_cancel_undoes_once_and_silences_the_listener() -> None:
    undone: list[str] = []
    pending: Pending[int] = Pending()
    pending.when_done(lambda _: undone.append("told"))
    pending.on_cancel(lambda: undone.append("undone"))
    pending.cancel()
    pending.cancel()
    assert undone == ["undone"]


def test_cancel_after_the_answer_undoes_nothing() -> None:
    undone: list[str] = []
    pending: Pending[int] = Pending()
    pending.on_cancel(lambda: undone.append("undone"))
    pending.resolve(1)
    pending.cancel()
    assert undone == []


async def test_it_can_be_awaited_before_and_after() -> None:
    pending: Pending[str] = Pending()
    asyncio.get_running_loop().call_soon(pending.resolve, "later")
    assert await pending == "later"
    assert await pending == "later"


async def test_an_awaiter_that_was_cancelled_is_not_told() -> None:
    pending: Pending[str] = Pending()

    async def wait() -> str:
        return await pending

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pending.resolve("nobody listens")
