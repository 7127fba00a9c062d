"""Random histories of a store on a simulated disk. What must hold is at the head of `support.histories`.

A failing history names its seed and the fewest steps that still fail; LOGSTORE_TEST_HISTORY=<seed> runs it alone.
LOGSTORE_TEST_SEED sets where the long run begins, LOGSTORE_TEST_HISTORIES how many it takes: to search, give a seed
nobody has tried and a large number; the defaults are the same every time.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from support import histories

QUICK_HISTORIES = 150
LONG_HISTORIES = int(os.environ.get("LOGSTORE_TEST_HISTORIES", "12000"))
CHUNK = 100
SEED = int(os.environ.get("LOGSTORE_TEST_SEED", "950494630784"))
ALONE = os.environ.get("LOGSTORE_TEST_HISTORY")


def check(seed: int) -> None:
    try:
        histories.run(seed)
    except Exception as error:
        steps = [step.name for step in histories.shrink(seed)]
        pytest.fail(
            f"history {seed}: {type(error).__name__}: {error}\n{steps}\nLOGSTORE_TEST_HISTORY={seed} repeats it"
        )


if ALONE is not None:

    def test_the_history_that_was_named() -> None:
        histories.run(int(ALONE))


def test_some_histories() -> None:
    for seed in range(QUICK_HISTORIES):
        check(seed)


@pytest.mark.crash
@pytest.mark.timeout(1200)
def test_many_histories() -> None:
    opened = 0
    failed: list[int] = []
    firsts = range(SEED, SEED + LONG_HISTORIES, CHUNK)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for chunk_opened, chunk_failed in pool.map(histories.run_chunk, firsts, [CHUNK] * len(firsts)):
            opened += chunk_opened
            failed += chunk_failed
    print(f"LOGSTORE_TEST_SEED={SEED}: {LONG_HISTORIES} histories, the store was opened {opened} times")
    if failed:
        check(failed[0])
    assert not failed
