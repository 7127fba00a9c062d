"""Codecs: round trips, foreign framings, cut input, and bombs that must cost no more than the bound."""

from __future__ import annotations

import gzip
import random
import struct
import subprocess
import sys
import tracemalloc
import warnings

import cramjam
import lz4.frame
import pytest
from aiokafka import codec as aiokafka_codec

from logstore.errors import CorruptBatch, InvalidRequest, RecordTooLarge, UnsupportedFormat
from logstore.record.compression import CODECS_BY_NAME, Codec, compress, decompress

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python reads its resources the old way
    from kafka import codec as kafka_codec

COMPRESSED = [codec for codec in Codec if codec]
SAMPLES = [b"", b"a", b"abc" * 40_000, random.Random(5).randbytes(70_000)]


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("data", SAMPLES, ids=len)
def test_what_is_compressed_comes_back(codec: Codec, data: bytes):
    packed = compress(codec, memoryview(data))
    assert decompress(codec, memoryview(packed)) == data
    assert decompress(codec, packed, len(data)) == data


@pytest.mark.parametrize("data", SAMPLES[1:], ids=len)
def test_two_other_libraries_read_what_we_write_and_we_what_they_write(data: bytes):
    for codec, name in ((Codec.GZIP, "gzip"), (Codec.SNAPPY, "snappy"), (Codec.LZ4, "lz4"), (Codec.ZSTD, "zstd")):
        for oracle in (aiokafka_codec, kafka_codec):
            if not getattr(oracle, f"has_{name}")():
                continue
            assert bytes(getattr(oracle, f"{name}_decode")(compress(codec, data))) == data
            assert decompress(codec, bytes(getattr(oracle, f"{name}_encode")(data))) == data


def test_raw_snappy_is_read_as_librdkafka_sends_it():
    data = b"raw " * 5000
    assert decompress(Codec.SNAPPY, bytes(cramjam.snappy.compress_raw(data))) == data


def test_snappy_is_written_in_the_frame_of_snappy_java():
    packed = compress(Codec.SNAPPY, b"x" * 40_000)
    assert packed[:16] == b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
    (first,) = struct.unpack_from(">i", packed, 16)
    assert cramjam.snappy.decompress_raw_len(packed[20 : 20 + first]) == 32 * 1024


def test_lz4_blocks_are_independent_and_without_content_size_as_the_java_client_wants():
    info = lz4.frame.get_frame_info(compress(Codec.LZ4, b"x" * 300_000))
    assert (info["block_linked"], info["content_size"], info["block_size"]) == (False, 0, 64 * 1024)


def test_several_frames_after_one_another_are_one_body():
    for codec in (Codec.GZIP, Codec.LZ4, Codec.ZSTD):
        assert decompress(codec, compress(codec, b"one") + compress(codec, b"two")) == b"onetwo"


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.LZ4, Codec.ZSTD])
def test_thousands_of_tiny_frames_are_refused(codec: Codec):
    with pytest.raises(CorruptBatch, match="more than"):
        decompress(codec, compress(codec, b"x") * 3000)


def bomb(codec: Codec, size_bytes: int) -> bytes:
    return gzip.compress(bytes(size_bytes)) if codec is Codec.GZIP else compress(codec, bytes(size_bytes))


@pytest.mark.parametrize("codec", COMPRESSED)
def test_a_bomb_costs_no_more_than_the_bound(codec: Codec):
    packed = bomb(codec, 30_000_000)
    bytes_max = 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(RecordTooLarge) as caught:
            decompress(codec, packed, bytes_max)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.hint
    assert peak_bytes < 6 * bytes_max + len(packed)


@pytest.mark.parametrize("codec", Codec)
def test_the_bound_is_inclusive(codec: Codec):
    packed = compress(codec, bytes(1000))
    assert decompress(codec, packed, 1000) == bytes(1000)
    with pytest.raises(RecordTooLarge):
        decompress(codec, packed, 999)


def test_a_bomb_of_frames_is_bounded_as_a_whole():
    for codec in COMPRESSED[::2]:
        with pytest.raises(RecordTooLarge):
            decompress(codec, compress(codec, bytes(600)) * 3, 1000)


def test_snappy_that_claims_more_than_it_can_hold_is_refused_before_memory_is_taken():
    with pytest.raises(CorruptBatch):
        decompress(Codec.SNAPPY, b"\xff\xff\xff\x0f\x00", 2**31)


@pytest.mark.parametrize("codec", COMPRESSED)
def test_a_cut_body_is_refused_at_every_byte(codec: Codec):
    packed = compress(codec, b"some text, some text, some other text" * 3)
    boundary = {16} if codec is Codec.SNAPPY else set()  # a snappy-java stream of no block is whole
    for cut in range(len(packed)):
        if cut in boundary:
            continue
        with pytest.raises(CorruptBatch):
            decompress(codec, packed[:cut])


@pytest.mark.parametrize("codec", COMPRESSED)
def test_flipped_bits_never_end_in_another_error(codec: Codec):
    packed = compress(codec, b"some text, some text, some other text" * 3)
    for bit in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decompress(codec, flipped, 10_000)
        except (CorruptBatch, RecordTooLarge):
            continue


def test_a_negative_snappy_block_length_is_refused():
    for length in (-1, 0, -(2**31), 2**31 - 1):
        with pytest.raises(CorruptBatch):
            decompress(Codec.SNAPPY, compress(Codec.SNAPPY, b"")[:16] + struct.pack(">i", length) + b"abcd")


def test_unknown_codecs_and_levels_are_named():
    for codec in (5, 6, 7, -1):
        with pytest.raises(UnsupportedFormat, match=str(codec)):
            compress(codec, b"")
        with pytest.raises(UnsupportedFormat, match=str(codec)):
            decompress(codec, b"")
    with pytest.raises(InvalidRequest, match="12"):
        compress(Codec.GZIP, b"", 12)
    for codec, level in ((Codec.GZIP, 9), (Codec.LZ4, 9), (Codec.ZSTD, 19)):
        assert decompress(codec, compress(codec, b"level", level)) == b"level"


def test_the_names_are_those_of_compression_type():
    assert CODECS_BY_NAME["uncompressed"] == CODECS_BY_NAME["none"] == 0
    assert [CODECS_BY_NAME[name] for name in ("gzip", "snappy", "lz4", "zstd")] == [1, 2, 3, 4]


def test_codecs_are_imported_only_when_used():
    program = (
        "import sys, logstore.record.records, logstore.record.compression\n"
        "print([m for m in ('lz4', 'cramjam', 'backports.zstd', 'compression.zstd') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
