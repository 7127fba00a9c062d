"""Random histories of a store on a simulated disk. What must hold is at the head of `support.histories`.

A failing history names its seed and the fewest steps that still fail; LOGSTORE_TEST_HISTORY=<seed> runs it alone, at
first as it is, then shrunk. LOGSTORE_TEST_SEED sets where the long run begins, LOGSTORE_TEST_SECONDS how long it lasts.
"""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from support import histories

QUICK_HISTORIES = 150
LONG_HISTORIES_MIN = 10_000
LONG_S = float(os.environ.get("LOGSTORE_TEST_SECONDS", "300"))
CHUNK = 100
SEED = int(os.environ.get("LOGSTORE_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**40)
ALONE = os.environ.get("LOGSTORE_TEST_HISTORY")


def check(seed: int) -> None:
    try:
        histories.run(seed)
    except Exception as error:
        steps = [step.name for step in histories.shrink(seed)]
        pytest.fail(
            f"history {seed}: {type(error).__name__}: {error}\n{steps}\nLOGSTORE_TEST_HISTORY={seed} repeats it"
        )


@pytest.mark.skipif(ALONE is None, reason="no history was named")
def test_the_history_that_was_named() -> None:
    histories.run(int(ALONE or 0))


def test_some_histories() -> None:
    for seed in range(QUICK_HISTORIES):
        check(seed)


@pytest.mark.crash
@pytest.mark.timeout(1200)
def test_many_histories() -> None:
    """At least ten thousand, and more while there is time."""
    deadline = time.monotonic() + LONG_S
    count = opened = 0
    failed: list[int] = []
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        while (count < LONG_HISTORIES_MIN or time.monotonic() < deadline) and not failed:
            firsts = range(SEED + count, SEED + count + 10 * CHUNK, CHUNK)
            for chunk_opened, chunk_failed in pool.map(histories.run_chunk, firsts, [CHUNK] * len(firsts)):
                opened += chunk_opened
                failed += chunk_failed
            count += 10 * CHUNK
    print(f"LOGSTORE_TEST_SEED={SEED}: {count} histories, the store was opened {opened} times")
    if failed:
        check(failed[0])
    assert not failed
