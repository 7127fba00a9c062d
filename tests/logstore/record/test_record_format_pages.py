"""The worked examples of docs/formats are decoded, so that the pages cannot drift from the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from logstore.record.batch import check
from logstore.record.records import decode_batch, encode_batch
from logstore.segment import offset_index, time_index
from logstore.types import Record

PAGES = Path(__file__).parents[3] / "docs" / "formats"


def example(page: str) -> bytes:
    (block,) = re.findall(r"```hex\n(.*?)```", (PAGES / page).read_text(), re.S)
    return bytes.fromhex("".join(re.split(r"   ", line)[0] for line in block.splitlines()))


def test_the_batch_of_the_page_is_what_it_says():
    data = example("record-batch.md")
    header = check(memoryview(data))
    assert len(data) == 88
    assert (header.base_offset, header.length, header.record_count, header.last_offset) == (1040, 76, 2, 1041)
    records = decode_batch(data)
    assert records == [
        Record(1040, 1_700_000_000_000, b"alpha", b"one", (("h", b"x"),)),
        Record(1041, 1_700_000_000_100, None, None),
    ]
    assert encode_batch([record[1:] for record in records])[8:] == data[8:]


@pytest.mark.parametrize(
    ("page", "entry", "wanted"),
    [
        ("offset-index.md", offset_index.ENTRY, (47, 16384)),
        ("time-index.md", time_index.ENTRY, (1_700_000_000_000, 47)),
    ],
)
def test_the_entries_of_the_pages_are_what_they_say(page, entry, wanted):
    assert entry.unpack(example(page)) == wanted
