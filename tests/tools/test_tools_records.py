import json

import pytest
import typer

from logstore.types import Record, TopicPartition
from tools.output import Failure
from tools.positions import Kind, Position, parse_position
from tools.records import (
    NewRecord,
    json_formatter,
    json_parser,
    line_parser,
    parse_line,
    template_formatter,
)

WHERE = TopicPartition("orders", 2)
RECORD = Record(47, 1_700_000_000_000, b"k\xff", b"v", (("a", b"1"), ("b", None)))


@pytest.mark.parametrize(
    ("template", "printed"),
    [
        ("%t/%p/%o %d %v\\n", b"orders/2/47 1700000000000 v\n"),
        ("%k", b"k\xff"),
        ("%k{hex}|%v{base64}|%v{other}", b"6bff|dg==|v{other}"),
        ("%h", b"a=1,b="),
        ("%%v \\\\n \\t\\0é", "%v \\n \t\0é".encode()),
        ("", b""),
    ],
)
def test_a_template(template, printed):
    assert template_formatter(template)(WHERE, RECORD) == printed


def test_a_template_prints_nothing_for_what_is_not_there():
    assert template_formatter("[%k][%v][%h]")(WHERE, Record(0, 0, None, None)) == b"[][][]"


@pytest.mark.parametrize("template", ["%z", "100%", "%{hex}"])
def test_a_wrong_template_is_wrong_usage(template):
    with pytest.raises(typer.BadParameter, match="not one of %t"):
        template_formatter(template)


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        Record(1, 2, None, None),
        Record(1, 2, b"", b""),
        Record(1, 2, "é\n".encode(), b"\x00\xfe", (("é", b"\xff"), ("é", b"x"), ("n", None))),
    ],
)
def test_the_json_of_consume_is_what_produce_takes(record):
    line = json_formatter(WHERE, record)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json_parser(None, (), False)(line.rstrip(b"\n")) == NewRecord(
        record.key, record.value, record.headers, 2, record.timestamp_ms
    )


@pytest.mark.parametrize(
    ("line", "record"),
    [
        ("{}", NewRecord(None, None)),
        ('{"value": "a", "key": 7}', NewRecord(b"7", b"a")),
        ('{"value": {"b": [1, "é", null]}}', NewRecord(None, '{"b":[1,"é",null]}'.encode())),
        ('{"value": true, "partition": 0, "timestamp": 5}', NewRecord(None, b"true", (), 0, 5)),
        ('{"value": null, "headers": {"a": "b", "c": null, "d": 1}}',
         NewRecord(None, None, (("a", b"b"), ("c", None), ("d", b"1")))),
        ('{"value_base64": "/w=="}', NewRecord(None, b"\xff")),
    ],
)  # fmt: skip
def test_a_json_line(line, record):
    assert json_parser(None, (), False)(line.encode()) == record


def test_what_the_command_line_adds_to_a_json_line():
    parse = json_parser(b"k", (("h", b"1"),), True)
    assert parse(b'{"value": ""}') == NewRecord(b"k", None, (("h", b"1"),))
    assert parse(b'{"key": "own", "value": "v", "headers": {"i": "2"}}') == NewRecord(
        b"own", b"v", (("h", b"1"), ("i", b"2"))
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "in.jsonl line 3 is not JSON: "),
        (b"[]", "in.jsonl line 3 is not a JSON object"),
        (b"\xff", "in.jsonl line 3 "),
        (b'{"headers": [1]}', "has headers that are neither"),
        (b'{"headers": "a"}', "has headers that are neither"),
        (b'{"partition": -1}', "has a partition that is not a whole number"),
        (b'{"partition": true}', "has a partition that is not a whole number"),
        (b'{"timestamp": "now"}', "has a timestamp that is not a whole number"),
        (b'{"value_base64": "?"}', "in.jsonl line 3 has a value_base64 that is not base64"),
        (
            b'{"key": "k", "valeu": 1}',
            "in.jsonl line 3 has an unknown field 'valeu': known are headers, key, key_base64",
        ),
        (b'{"value_base64": 1}', "has a value_base64 that is not text"),
        (b"[" * 100_000, "in.jsonl line 3 "),
    ],
)
def test_a_bad_json_line_says_where(line, message):
    with pytest.raises(Failure) as caught:
        parse_line(json_parser(None, (), False), line, "in.jsonl line 3")
    assert message in str(caught.value)


def test_lines():
    assert line_parser(None, None, (), False)(b"a:b") == NewRecord(None, b"a:b")
    assert line_parser(b"k", None, (("h", None),), False)(b"") == NewRecord(b"k", b"", (("h", None),))
    assert line_parser(None, b"::", (), False)(b"a::b::c") == NewRecord(b"a", b"b::c")
    assert line_parser(None, b":", (), True)(b"gone:") == NewRecord(b"gone", None)
    with pytest.raises(Failure, match="line 1 has no ':' between key and value"):
        parse_line(line_parser(None, b":", (), False), b"ab", "stdin line 1")


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("start", Position(Kind.START)),
        ("end", Position(Kind.END)),
        ("47", Position(Kind.OFFSET, 47)),
        ("+2", Position(Kind.PLUS, 2)),
        ("-3", Position(Kind.MINUS, 3)),
        ("@1700000000000", Position(Kind.TIME, 1_700_000_000_000)),
        ("@2026-01-01T00:00:00Z", Position(Kind.TIME, 1_767_225_600_000)),
        ("@2026-01-01", Position(Kind.TIME, 1_767_225_600_000)),
        ("@2026-01-01T01:00:00.5+01:00", Position(Kind.TIME, 1_767_225_600_500)),
    ],
)
def test_a_position(text, position):
    assert parse_position("--to", text) == position


@pytest.mark.parametrize("text", ["", "now", "1.5", "+", "-", "--1", "@", "@yesterday", "1_0", "٣"])
def test_no_position(text):
    with pytest.raises(typer.BadParameter, match="--to"):
        parse_position("--to", text)


def test_json_is_one_object_a_line_with_documented_fields():
    assert json.loads(json_formatter(WHERE, RECORD)) == {
        "topic": "orders",
        "partition": 2,
        "offset": 47,
        "timestamp": 1_700_000_000_000,
        "key": None,
        "key_base64": "a/8=",
        "value": "v",
        "headers": [{"key": "a", "value": "1"}, {"key": "b", "value": None}],
    }
