import random

from cluster.timers import TimerHeap


def test_keys_expire_in_order_of_their_newest_deadline() -> None:
    timers: TimerHeap[str] = TimerHeap()
    timers.arm("later", 10)
    timers.arm("sooner", 30)
    timers.arm("gone", 15)
    timers.arm("later", 40)
    timers.arm("sooner", 20)
    timers.cancel("gone")
    timers.cancel("never")
    assert timers.next_deadline_ms() == 20
    assert timers.expired(19) == []
    assert timers.expired(40) == ["sooner", "later"]
    assert (timers.next_deadline_ms(), len(timers)) == (None, 0)


def test_a_deadline_pushed_back_often_stays_one_entry() -> None:
    timers: TimerHeap[int] = TimerHeap()
    for now_ms in range(1000):
        for key in range(10):
            timers.arm(key, now_ms + 100)
        assert timers.expired(now_ms) == []
    assert len(timers._heap) <= 20


def test_any_schedule_agrees_with_a_plain_dictionary() -> None:
    for seed in range(30):
        chance = random.Random(seed)
        timers: TimerHeap[int] = TimerHeap()
        model: dict[int, int] = {}
        now_ms = 0
        for _ in range(500):
            key = chance.randrange(40)
            action = chance.random()
            if action < 0.6:
                model[key] = now_ms + chance.randrange(1, 200)
                timers.arm(key, model[key])
            elif action < 0.8:
                model.pop(key, None)
                timers.cancel(key)
            else:
                now_ms += chance.randrange(50)
                due = {each: deadline_ms for each, deadline_ms in model.items() if deadline_ms <= now_ms}
                expired = timers.expired(now_ms)
                assert set(expired) == set(due), f"seed {seed}"
                assert [due[each] for each in expired] == sorted(due.values()), f"seed {seed}"
                model = {each: deadline_ms for each, deadline_ms in model.items() if each not in due}
            assert timers.next_deadline_ms() == min(model.values(), default=None), f"seed {seed}"
            assert (key in timers) == (key in model), f"seed {seed}"
