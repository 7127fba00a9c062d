import asyncio
from typing import NamedTuple

import pytest

from tools.output import Failure, Format
from tools.produce import Tally, drain


class Answer(NamedTuple):
    partition: int
    offset: int | None


class FakeProducer:
    """Answers one record every 20 ms, and never the last `silent` ones."""

    def __init__(self, tally: Tally, count: int, silent: int) -> None:
        self.tally, self.count, self.silent = tally, count, silent
        tally.sent = count

    async def flush(self) -> None:
        for offset in range(self.count - self.silent):
            await asyncio.sleep(0.02)
            self.tally.settle(answered(Answer(0, offset)))
        if self.silent:
            await asyncio.get_running_loop().create_future()


def answered(result: Answer | Exception) -> asyncio.Future[Answer]:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
    return future


async def test_slow_answers_are_waited_for_and_missing_ones_are_not():
    tally = Tally("t")
    await drain(FakeProducer(tally, 10, 0), tally, 0.1)
    assert tally.written == {0: [10, 0, 9]}
    tally = Tally("t")
    with pytest.raises(Failure, match=r"no answer for 0\.1 s, 2 records may or may not be written"):
        await drain(FakeProducer(tally, 5, 2), tally, 0.1)
    assert tally.written == {0: [3, 0, 2]}


async def test_the_tally_counts_what_was_written_and_keeps_the_first_error(capsys):
    tally = Tally("t")
    for result in (Answer(1, 7), Answer(0, 3), ValueError("full"), Answer(1, 8), ValueError(), Answer(2, None)):
        tally.settle(answered(result))
    assert (tally.settled, tally.failed, tally.first_error) == (6, 2, "full")
    tally.report(Format.TEXT)
    assert capsys.readouterr() == ("", "t: 4 records, partition 0: 3-3, partition 1: 7-8, partition 2\n")
