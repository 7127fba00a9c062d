"""An answer that may come later, without a loop turn in between.

`asyncio.Future` schedules its callbacks for the next turn of the loop; the produce path completes hundreds of answers
in the turn that wrote them and wants them in the same send. A `Pending` calls back at once, from whoever settles it.
Not thread-safe: settle it on the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Pending(Generic[T]):
    """Settled once, with a result or an error; tells one listener, which may come before or after."""

    __slots__ = ("_cancel", "_error", "_listener", "_result", "done")

    def __init__(self) -> None:
        self.done = False
        self._result: T | None = None
        self._error: BaseException | None = None
        self._listener: Callable[[Pending[T]], None] | None = None
        self._cancel: Callable[[], None] | None = None

    @classmethod
    def settled(cls, result: T) -> Pending[T]:
        pending = cls()
        pending.resolve(result)
        return pending

    def resolve(self, result: T) -> None:
        assert not self.done, "settled twice"
        self._result = result
        self._finish()

    def fail(self, error: BaseException) -> None:
        assert not self.done, "settled twice"
        self._error = error
        self._finish()

    def result(self) -> T:
        """The result, or raise the error. Only once `done`."""
        assert self.done, "not settled yet"
        if self._error is not None:
            raise self._error
        return cast(T, self._result)

    def when_done(self, listener: Callable[[Pending[T]], None]) -> None:
        """Call `listener(self)` once settled: at once if it is already."""
        assert self._listener is None, "one listener only"
        if self.done:
            listener(self)
        else:
            self._listener = listener

    def on_cancel(self, undo: Callable[[], None]) -> None:
        """What the owner must undo when nobody wants the answer any more."""
        self._cancel = undo

    def cancel(self) -> None:
        """Nobody wants the answer any more. The listener is not told; settling it later is the owner's to avoid."""
        undo, self._cancel, self._listener = self._cancel, None, None
        if not self.done and undo is not None:
            undo()

    def _finish(self) -> None:
        self.done = True
        self._cancel = None
        listener, self._listener = self._listener, None
        if listener is not None:
            listener(self)

    def __await__(self) -> Generator[asyncio.Future[None], None, T]:
        if not self.done:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.when_done(lambda _: None if future.done() else future.set_result(None))
            yield from future
        return self.result()
