"""For tests and simulations: time that passes when told to, and a conversation with one group."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from cluster.group.classic import ClassicGroup
from cluster.group.events import NO_TOKEN, ArmTimer, Loaded, MembershipEvent, Reply, TimerFired, TimerKey
from cluster.group.state import GroupSettings, GroupState
from cluster.group.stored import decode_group, encode_group
from cluster.timers import TimerHeap
from logstore.types import TimestampMs

WALL_MS = 1_700_000_000_000


class VirtualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualTime:
    """`Clock` and `Scheduler` in one. Starts at monotonic 0; the wall clock runs along."""

    def __init__(self) -> None:
        self._now_ms = 0
        self._number = 0
        self._heap: list[tuple[TimestampMs, int, VirtualTimer]] = []

    def now_ms(self) -> TimestampMs:
        return WALL_MS + self._now_ms

    def monotonic_ms(self) -> TimestampMs:
        return self._now_ms

    def call_at_ms(self, monotonic_ms: TimestampMs, callback: Callable[[], None]) -> VirtualTimer:
        timer = VirtualTimer(callback)
        self._number += 1
        heapq.heappush(self._heap, (max(monotonic_ms, self._now_ms), self._number, timer))
        return timer

    def next_ms(self) -> TimestampMs | None:
        """When the next timer is due."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def advance(self, by_ms: int) -> None:
        """Let time pass, calling back each timer at its time."""
        end_ms = self._now_ms + by_ms
        while (due_ms := self.next_ms()) is not None and due_ms <= end_ms:
            _, _, timer = heapq.heappop(self._heap)
            self._now_ms = due_ms
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        self._now_ms = end_ms


class GroupTalk:
    """A conversation with one group: events in, replies and timers out, on virtual time."""

    def __init__(self, settings: GroupSettings | None = None) -> None:
        self.settings = settings or GroupSettings(initial_rebalance_delay_ms=0)
        self.group = ClassicGroup(GroupState("g"), self.settings)
        self.now_ms = 0
        self.timers: TimerHeap[TimerKey] = TimerHeap()
        self.saved: list[bytes] = []
        self._replies: dict[int, Reply] = {}
        self._tokens = 0
        self._waiting: set[int] = set()

    def send(self, event: MembershipEvent) -> int:
        """Returns the token of the reply."""
        self._tokens += 1
        self._waiting.add(self._tokens)
        self._carry_out(event, self._tokens)
        return self._tokens

    def take(self, token: int) -> Reply | None:
        """The reply, once; None while it is parked."""
        return self._replies.pop(token, None)

    def ask(self, event: MembershipEvent) -> Reply:
        """Send, and expect the reply at once."""
        reply = self.take(self.send(event))
        assert reply is not None, "the request was parked"
        return reply

    def advance(self, by_ms: int) -> None:
        end_ms = self.now_ms + by_ms
        while (due_ms := self.timers.next_deadline_ms()) is not None and due_ms <= end_ms:
            self.now_ms = due_ms
            for key in self.timers.expired(due_ms):
                if key not in self.timers:
                    self._carry_out(TimerFired(key), NO_TOKEN)
        self.now_ms = end_ms

    def restart(self) -> None:
        """What a new process would have: the last saved row, no parked requests, no timers."""
        state = decode_group("g", self.saved[-1]) if self.saved else GroupState("g")
        self.group = ClassicGroup(state, self.settings)
        self.timers = TimerHeap()
        self._waiting.clear()
        self._carry_out(Loaded(), NO_TOKEN)

    def _carry_out(self, event: MembershipEvent, token: int) -> None:
        before = self.group.state
        decision = self.group.decide(event, self.now_ms, token=token, fresh_id=str(self._tokens))
        assert self.group.state is before, "decide changed the group"
        if decision.save:
            assert decision.state is not None
            self.saved.append(encode_group(decision.state))
        self.group.apply(decision)
        for timer in decision.timers:
            if isinstance(timer, ArmTimer):
                self.timers.arm(timer.key, timer.deadline_ms)
            else:
                self.timers.cancel(timer.key)
        for answered, reply in decision.replies:
            assert answered in self._waiting, f"{reply} has no request, or was given twice"
            self._waiting.discard(answered)
            self._replies[answered] = reply
