"""The codecs of RecordBatch v2: none, gzip, snappy, lz4, zstd. Pure; a library is imported when first needed.

Output is bounded: `decompress` stops at `bytes_max` instead of trusting what the sender claims, so a bomb costs at most
that much memory. What we write, every client reads:

    1 gzip     one member; on read also several, one after the other
    2 snappy   written as snappy-java does (magic, then blocks of 32 KiB, each with a u32 length before it);
               on read also one raw block, as librdkafka and kafkajs send
    3 lz4      one frame of independent 64 KiB blocks, without content size: the Java client refuses linked blocks
    4 zstd     one frame; a window above 128 MiB (2^27) is refused, as the Java client's library does

Source: KIP-110 (zstd), KIP-57 (lz4 frame), xerial/snappy-java SnappyCodec (the 16-byte header), Kafka protocol guide.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Final, Protocol

from logstore.errors import CorruptBatch, InvalidRequest, RecordTooLarge, UnsupportedFormat
from logstore.types import Buffer


class Codec(IntEnum):
    """Numbers of the codec bits in a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


CODEC_NAMES: Final = {codec: codec.name.lower() for codec in Codec}
CODECS_BY_NAME: Final = {name: codec for codec, name in CODEC_NAMES.items()} | {"uncompressed": Codec.NONE}
"""The values of `compression.type`, but for `producer`, -> codec."""

DECOMPRESSED_BYTES_MAX: Final = 64 << 20
"""Default bound of one decompressed batch: 64 times the default `max.message.bytes`."""

_XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)  # version, lowest version that can read it
assert len(_XERIAL_HEADER) == 16
_XERIAL_BLOCK_BYTES: Final = 32 << 10
_BLOCK_LENGTH: Final = struct.Struct(">i")
_SNAPPY_RATIO_MAX: Final = 32  # a 3-byte copy yields at most 64 bytes
_CHUNK_BYTES: Final = 1 << 20  # the lz4 library allocates this much per call, whatever comes out
_FRAMES_MAX: Final = 64  # frames in one body; each costs a copy of what follows it
_GZIP_WBITS: Final = 16 + zlib.MAX_WBITS


def compress(codec: int, data: Buffer, level: int | None = None) -> bytes:
    """`data` compressed. `level` is the codec's own (gzip, lz4, zstd), its default when None.

    Raises `UnsupportedFormat` for a codec number outside 0..4, `InvalidRequest` for a level outside the codec's.
    """
    match codec:
        case Codec.NONE:
            return bytes(data)
        case Codec.GZIP:
            if level is not None and not -1 <= level <= 9:
                raise InvalidRequest(f"gzip has no level {level}", hint="choose 1..9")
            return zlib.compress(data, level=-1 if level is None else level, wbits=_GZIP_WBITS)
        case Codec.SNAPPY:
            return _snappy_compress(memoryview(data))
        case Codec.LZ4:
            from lz4 import frame

            lz4: bytes = frame.compress(
                data,
                compression_level=0 if level is None else level,
                block_size=frame.BLOCKSIZE_MAX64KB,
                block_linked=False,
                store_size=False,
            )
            return lz4
        case Codec.ZSTD:
            return _zstd().compress(data, level)
    raise _unknown(codec)


def decompress(codec: int, data: Buffer, bytes_max: int = DECOMPRESSED_BYTES_MAX) -> bytes:
    """The body inside `data`, at most `bytes_max` bytes.

    Raises `CorruptBatch` (not what the codec writes, cut, or bytes left over), `RecordTooLarge` (more than `bytes_max`
    would come out), `UnsupportedFormat` (codec number outside 0..4).
    """
    match codec:
        case Codec.NONE:
            if len(data) > bytes_max:
                raise _too_large(Codec.NONE, bytes_max)
            return bytes(data)
        case Codec.GZIP:
            return _gunzip(data, bytes_max)
        case Codec.SNAPPY:
            view = memoryview(data)
            if bytes(view[:8]) == _XERIAL_MAGIC:
                return _xerial_decompress(view, bytes_max)
            return _snappy_block(view, bytes_max)
        case Codec.LZ4:
            return _unlz4(data, bytes_max)
        case Codec.ZSTD:
            return _unzstd(data, bytes_max)
    raise _unknown(codec)


# --- gzip, lz4, zstd: streams of frames ------------------------------------------------------------------------------


class _Frame(Protocol):
    """What the decompressors of lz4 and zstd share. `unused_data` is None or empty unless something follows."""

    eof: bool
    needs_input: bool
    unused_data: bytes | None

    def decompress(self, data: Buffer, max_length: int) -> bytes: ...


def _gunzip(data: Buffer, bytes_max: int) -> bytes:
    out = bytearray()
    for _ in range(_FRAMES_MAX):
        member = zlib.decompressobj(_GZIP_WBITS)
        try:
            out += member.decompress(data, bytes_max - len(out) + 1)  # one more than allowed tells "full" from "over"
        except zlib.error as error:
            raise _corrupt(Codec.GZIP, error) from None
        if len(out) > bytes_max:
            raise _too_large(Codec.GZIP, bytes_max)
        if not member.eof:
            raise _corrupt(Codec.GZIP, "it ends too early")
        data = member.unused_data
        if not data:
            return bytes(out)
    raise _corrupt(Codec.GZIP, f"more than {_FRAMES_MAX} members")


def _unlz4(data: Buffer, bytes_max: int) -> bytes:
    from lz4.frame import LZ4FrameDecompressor

    out = bytearray()
    for _ in range(_FRAMES_MAX):
        frame: _Frame = LZ4FrameDecompressor()
        try:
            _drain(Codec.LZ4, frame, data, out, bytes_max)
        except (RuntimeError, MemoryError, OverflowError) as error:
            raise _corrupt(Codec.LZ4, error) from None
        if not frame.unused_data:
            return bytes(out)
        data = frame.unused_data
    raise _corrupt(Codec.LZ4, f"more than {_FRAMES_MAX} frames")


def _unzstd(data: Buffer, bytes_max: int) -> bytes:
    zstd = _zstd()
    out = bytearray()
    for _ in range(_FRAMES_MAX):
        frame: _Frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
        try:
            _drain(Codec.ZSTD, frame, data, out, bytes_max)
        except (zstd.ZstdError, MemoryError) as error:
            raise _corrupt(Codec.ZSTD, error) from None
        if not frame.unused_data:
            return bytes(out)
        data = frame.unused_data
    raise _corrupt(Codec.ZSTD, f"more than {_FRAMES_MAX} frames")


def _drain(codec: Codec, frame: _Frame, data: Buffer, out: bytearray, bytes_max: int) -> None:
    """All of one frame to the end of `out`, chunk by chunk."""
    while True:
        chunk = frame.decompress(data, min(_CHUNK_BYTES, bytes_max - len(out) + 1))
        out += chunk
        if len(out) > bytes_max:
            raise _too_large(codec, bytes_max)
        if frame.eof:
            return
        if not chunk and (frame.needs_input or not data):
            raise _corrupt(codec, "it ends too early")
        data = b""


# --- snappy ----------------------------------------------------------------------------------------------------------


def _snappy_compress(data: memoryview) -> bytes:
    from cramjam import snappy

    parts: list[bytes] = [_XERIAL_HEADER]
    for start in range(0, len(data), _XERIAL_BLOCK_BYTES):
        block = bytes(snappy.compress_raw(data[start : start + _XERIAL_BLOCK_BYTES]))
        parts += (_BLOCK_LENGTH.pack(len(block)), block)
    return b"".join(parts)


def _xerial_decompress(data: memoryview, bytes_max: int) -> bytes:
    if len(data) < len(_XERIAL_HEADER):
        raise _corrupt(Codec.SNAPPY, "the snappy-java header is cut")
    out = bytearray()
    position, size = len(_XERIAL_HEADER), len(data)
    while position < size:
        if size - position < _BLOCK_LENGTH.size:
            raise _corrupt(Codec.SNAPPY, f"a block length is cut at byte {position}")
        (length,) = _BLOCK_LENGTH.unpack_from(data, position)
        position += _BLOCK_LENGTH.size
        if not 0 < length <= size - position:
            raise _corrupt(Codec.SNAPPY, f"a block of {length} bytes where {size - position} are left")
        out += _snappy_block(data[position : position + length], bytes_max - len(out))
        position += length
    return bytes(out)


def _snappy_block(block: memoryview, bytes_max: int) -> bytes:
    import cramjam

    try:
        length: int = cramjam.snappy.decompress_raw_len(block)
        if length > bytes_max:
            raise _too_large(Codec.SNAPPY, bytes_max)
        if length > len(block) * _SNAPPY_RATIO_MAX:
            raise _corrupt(Codec.SNAPPY, f"{len(block)} bytes cannot hold {length}")
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError as error:
        raise _corrupt(Codec.SNAPPY, error) from None


# --- the rest --------------------------------------------------------------------------------------------------------


class _Zstd(Protocol):
    """The part of `compression.zstd` in use; `backports.zstd` before Python 3.14."""

    ZstdError: type[Exception]
    DecompressionParameter: type[_DecompressionParameter]

    def compress(self, data: Buffer, level: int | None = None) -> bytes: ...
    def ZstdDecompressor(self, *, options: dict[int, int]) -> _Frame: ...


class _DecompressionParameter(Protocol):
    window_log_max: int


def _zstd() -> _Zstd:
    import importlib
    import sys

    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    module: _Zstd = importlib.import_module(name)
    return module


def _corrupt(codec: Codec, why: object) -> CorruptBatch:
    return CorruptBatch(f"the {CODEC_NAMES[codec]} body does not decompress: {why}")


def _too_large(codec: Codec, bytes_max: int) -> RecordTooLarge:
    return RecordTooLarge(
        f"the {CODEC_NAMES[codec]} body is larger than {bytes_max} bytes",
        hint="send smaller batches, or raise the bound of whoever reads it",
    )


def _unknown(codec: int) -> UnsupportedFormat:
    return UnsupportedFormat(f"codec {codec} is not known", hint="known: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd")
