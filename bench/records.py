"""How fast are record batches built and read? Against aiokafka's compiled codec, in one run.

    python -m bench.records [--rounds 5]

Records of an 8-byte key and 100 bytes of value (`uniform`), or of 0..20 and 0..200 bytes and a header with every tenth
(`varying`), 10, 100 and 1000 to a batch. Decoding includes the CRC. Every figure is the best of the rounds, which take
turns; quote the ratios, for the machine changes the rest. Mrec/s = 10^6 records a second.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from functools import partial

from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from logstore.record.records import NewRecord, decode_batch, encode_batch

SAMPLE_S = 0.04
NOW_MS = 1_700_000_000_000


def uniform(count: int) -> list[NewRecord]:
    return [(NOW_MS + n // 10, b"%08d" % n, b"v" * 100, ()) for n in range(count)]


def varying(count: int) -> list[NewRecord]:
    chance = random.Random(count)
    return [
        (
            NOW_MS + n // 10,
            chance.randbytes(chance.randint(0, 20)),
            chance.randbytes(chance.randint(0, 200)),
            (("h", b"x"),) if chance.random() < 0.1 else (),
        )
        for n in range(count)
    ]


def encode_theirs(records: list[tuple[object, ...]]) -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 30)
    for offset, (timestamp_ms, key, value, headers) in enumerate(records):
        builder.append(offset, timestamp_ms, key, value, headers)
    builder.build()


def decode_theirs(batch: bytearray) -> None:
    made = DefaultRecordBatch(batch)
    made.validate_crc()
    list(made)


def rate(work: Callable[[], object], count: int) -> float:
    """Mrec/s of one sample."""
    calls, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < SAMPLE_S:
        work()
        calls += 1
    return calls * count / took / 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    rounds: int = options.parse_args().rounds
    print(
        f"{'':10}{'batch':>6}{'encode':>9}{'aiokafka':>10}{'ratio':>7}{'decode':>9}{'aiokafka':>10}{'ratio':>7}  Mrec/s"
    )
    for name, make in (("uniform", uniform), ("varying", varying)):
        for count in (10, 100, 1000):
            records = make(count)
            batch = encode_batch(records)
            works: list[Callable[[], object]] = [
                partial(encode_batch, records),
                partial(encode_theirs, [(*fields, list(headers)) for *fields, headers in records]),
                partial(decode_batch, batch),
                partial(decode_theirs, batch),
            ]
            samples = [[rate(work, count) for work in works] for _ in range(rounds)]
            encoded, theirs, decoded, read = (max(column) for column in zip(*samples, strict=True))
            print(
                f"{name:10}{count:>6}{encoded:>9.2f}{theirs:>10.2f}{encoded / theirs:>7.2f}"
                f"{decoded:>9.2f}{read:>10.2f}{decoded / read:>7.2f}"
            )


if __name__ == "__main__":
    main()
