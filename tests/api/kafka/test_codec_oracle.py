"""Every API and version against kio, an independent encoder: same bytes, same values, in both directions."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import io
import random
import uuid
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import pytest
from kio.schema.errors import ErrorCode
from kio.serial import entity_writer

from api.kafka import codec
from api.kafka.messages import APIS
from api.kafka.schema import ZERO_UUID
from tools.gen_messages import PAYLOADS, UNIT_TYPES, file_texts, stale_files

SEED = 20_240_607
INTEGER_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
TEXTS = ("", "a", "orders-ü", "héé" * 5, "x" * 200)
BYTES = (b"", b"\x00\x01", bytes(range(150)))
MESSAGES = [(api.key, version) for api in APIS.values() for version in range(api.first, api.last + 1)]


def test_the_committed_tables_are_what_the_generator_writes() -> None:
    assert stale_files(file_texts()) == []


@pytest.mark.parametrize(("api_key", "version"), MESSAGES)
@pytest.mark.parametrize("kind", ["request", "response"])
def test_both_codecs_write_the_same_bytes(api_key: int, version: int, kind: str) -> None:
    read = codec.read_request if kind == "request" else codec.read_response
    write = codec.write_request if kind == "request" else codec.write_response
    oracle = oracle_class(APIS[api_key].module, version, kind)
    chance = random.Random(SEED)
    print("seed", SEED)
    for _ in range(4):
        theirs = arbitrary(oracle, chance)
        raw = oracle_bytes(theirs)
        ours = read(api_key, version, memoryview(b"\x99" + raw), 1)
        assert_same_values(ours, theirs)
        assert write(api_key, version, ours) == raw


@pytest.mark.parametrize("module", PAYLOADS)
@pytest.mark.parametrize("version", range(4))
def test_payloads_inside_group_messages(module: str, version: int) -> None:
    table = importlib.import_module(f"api.kafka.messages.{module}").DATA
    theirs = arbitrary(oracle_class(module, version, "data"), random.Random(SEED))
    raw = oracle_bytes(theirs)
    ours = codec.read_payload(table, version, memoryview(raw))
    assert_same_values(ours, theirs)
    assert codec.write_payload(table, version, ours) == raw


@pytest.mark.parametrize("api_key", [0, 1, 3, 18, 60])
def test_a_message_nobody_filled_has_the_defaults_of_kafka(api_key: int) -> None:
    """Fields that the oracle gives a default keep it when our struct is built without arguments."""
    api = APIS[api_key]
    for kind, table in (("request", api.request), ("response", api.response)):
        for field in dataclasses.fields(oracle_class(api.module, api.last, kind)):
            if field.default is not dataclasses.MISSING and not dataclasses.is_dataclass(field.default):
                assert plain(getattr(table.struct(), our_name(field))) == plain(field.default), field.name


def oracle_class(module: str, version: int, kind: str) -> Any:
    source = importlib.import_module(f"kio.schema.{module}.v{version}.{kind}")
    own = [each for each in vars(source).values() if getattr(each, "__module__", "") == source.__name__]
    return own[-1]


def oracle_bytes(message: Any) -> bytes:
    out = io.BytesIO()
    entity_writer(type(message))(out, message)
    return out.getvalue()


def our_name(field: Any) -> str:
    timed = field.metadata.get("kafka_type") in UNIT_TYPES and not field.name.endswith("_ms")
    return f"{field.name}_ms" if timed else str(field.name)


def assert_same_values(ours: Any, theirs: Any) -> None:
    for field in dataclasses.fields(theirs):
        their_value, our_value = getattr(theirs, field.name), getattr(ours, our_name(field))
        if dataclasses.is_dataclass(their_value):
            if our_value is None:  # left out of the tagged section
                assert their_value == field.default
            else:
                assert_same_values(our_value, their_value)
        elif isinstance(their_value, tuple) and their_value and dataclasses.is_dataclass(their_value[0]):
            assert len(our_value) == len(their_value)
            for our_item, their_item in zip(our_value, their_value, strict=True):
                assert_same_values(our_item, their_item)
        elif their_value is None and field.metadata.get("kafka_type") in ("uuid", "datetime_i64"):
            assert our_value == (ZERO_UUID if field.metadata["kafka_type"] == "uuid" else -1)
        else:
            assert plain(our_value) == plain(their_value), field.name


def plain(value: Any) -> Any:
    if isinstance(value, datetime.timedelta):
        return round(value.total_seconds() * 1000)
    if isinstance(value, datetime.datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, ErrorCode):
        return value.value
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value


def arbitrary(cls: Any, chance: random.Random, depth: int = 0) -> Any:
    return cls(**{field.name: arbitrary_value(field, chance, depth) for field in dataclasses.fields(cls)})


def arbitrary_value(field: Any, chance: random.Random, depth: int) -> Any:
    kind, hint = field.metadata.get("kafka_type", ""), field.type
    nullable = get_origin(hint) is UnionType
    if nullable:
        hint = next(arg for arg in get_args(hint) if arg is not NoneType)
        if chance.random() < 0.3 and not (kind == "uuid" and "tag" in field.metadata):
            return None
    if get_origin(hint) is not tuple:
        return arbitrary_one(hint, kind, chance, depth)
    # 130 and 200 need a length of two bytes in the compact form
    count = chance.choice((0, 1, 2, 3, 5)) if depth < 3 else chance.choice((0, 1))
    if kind and chance.random() < 0.1:
        count = chance.choice((126, 127, 130))
    return tuple(arbitrary_one(get_args(hint)[0], kind, chance, depth) for _ in range(count))


def arbitrary_one(hint: Any, kind: str, chance: random.Random, depth: int) -> Any:
    if dataclasses.is_dataclass(hint):
        return arbitrary(hint, chance, depth + 1)
    if kind in INTEGER_BITS:
        most = 2 ** (INTEGER_BITS[kind] - 1) - 1
        return chance.choice((0, -1, 1, -most - 1, most, chance.randint(-most, most)))
    if kind.startswith("timedelta"):
        return datetime.timedelta(milliseconds=chance.randint(-5, 10**6))
    if kind == "datetime_i64":
        return datetime.datetime.fromtimestamp(chance.randint(0, 10**9), datetime.UTC)
    return {
        "bool": lambda: chance.random() < 0.5,
        "uint16": lambda: chance.randrange(2**16),
        "error_code": lambda: chance.choice(list(ErrorCode)),
        "string": lambda: chance.choice(TEXTS),
        "bytes": lambda: chance.choice(BYTES),
        "records": lambda: chance.choice(BYTES),
        "uuid": lambda: uuid.UUID(int=chance.getrandbits(128)),
    }[kind]()
