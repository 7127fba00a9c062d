"""Where the server is in its life, and which clients wait for an answer right now."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TypeVar

from starlette.types import Receive

from cluster.pending import Pending

T = TypeVar("T")


class Phase(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Lifecycle:
    """Set by whoever runs the server, read by `/readyz` and by requests that wait."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.hung_up = False
        self._clients: set[Client] = set()

    def ready(self) -> None:
        self.phase = Phase.READY

    def drain(self) -> None:
        """Not ready any more: balancers send new requests elsewhere. What waits may go on."""
        self.phase = Phase.DRAINING

    def hang_up(self) -> None:
        """End every long poll and live tail with what they have."""
        self.drain()
        self.hung_up = True
        for client in list(self._clients):
            client.wake()

    @property
    def clients_waiting(self) -> int:
        return len(self._clients)

    def client(self, receive: Receive) -> Client:
        return Client(self, receive)

    def _enter(self, client: Client) -> None:
        self._clients.add(client)

    def _leave(self, client: Client) -> None:
        self._clients.discard(client)


class Client:
    """The other end of a request that may wait; an async context, so that nothing is left behind.

    The request's body must have been received: from then on the next message means that the client has gone.
    """

    def __init__(self, lifecycle: Lifecycle, receive: Receive) -> None:
        self.gone = False
        self._lifecycle = lifecycle
        self._receive = receive
        self._woken: asyncio.Future[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Client:
        self._lifecycle._enter(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._lifecycle._leave(self)
        if self._watch is not None:
            self._watch.cancel()

    @property
    def finished(self) -> bool:
        """Whether to stop: nobody reads any more, or the server is about to close."""
        return self.gone or self._lifecycle.hung_up

    def watch(self) -> None:
        """Notice from now on when the client goes."""
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._until_gone())

    async def wait(self, pending: Pending[T]) -> T | None:
        """The answer; None, and `pending` cancelled, once `finished`. Raises what `pending` failed with."""
        try:
            if not pending.done and not self.finished:
                self.watch()
                woken = self._woken = asyncio.get_running_loop().create_future()
                pending.when_done(lambda _: self.wake())
                await woken
        finally:
            self._woken = None
            if not pending.done:
                pending.cancel()
        return pending.result() if pending.done else None

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self.wake()
