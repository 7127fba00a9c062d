"""The verbs against a running server (fixture `server`)."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tools.main import run

ROOT = Path(__file__).resolve().parents[2]


class Done(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(server, capsys, monkeypatch, tmp_path) -> Cli:
    """Runs a verb in this process; `stdin` is a file then."""

    def call(*args: str, stdin: str = "") -> Done:
        (tmp_path / "stdin").write_text(stdin, encoding="utf-8")
        with (tmp_path / "stdin").open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            code = run([*args, "-b", server.kafka])
        return Done(code, *capsys.readouterr())

    return call


def ok(done: Done) -> str:
    assert done.code == 0, done.err
    return done.out


def test_the_life_of_a_topic(cli):
    name = "cli-life"
    assert ok(cli("topic", "create", name, "-p", "2", "-c", "retention.ms=1d")) == f"{name}: created\n"
    again = cli("topic", "create", name)
    assert again.code == 1
    assert "`--if-not-exists` accepts that" in again.err
    ok(cli("topic", "create", name, "--if-not-exists"))
    assert name in {topic["name"] for topic in json.loads(ok(cli("topic", "list", "--format", "json")))}

    ok(cli("topic", "alter", name, "--set", "segment.bytes=1MiB", "--delete", "retention.ms", "-p", "4"))
    (topic,) = json.loads(ok(cli("topic", "describe", name, "-p", "--format", "json")))
    assert topic["partitions"] == 4
    assert topic["configs"]["segment.bytes"]["source"] == "topic"
    assert topic["configs"]["retention.ms"] == {"value": str(7 * 86_400_000), "source": "default"}
    assert [p["log_end_offset"] for p in topic["partition_list"]] == [0, 0, 0, 0]

    wrong = cli("topic", "alter", name, "--set", "retention.mss=1")
    assert wrong.code == 1
    assert "retention.ms" in wrong.err
    assert cli("topic", "alter", name, "-p", "3").code == 1, "partitions cannot become fewer"
    assert ok(cli("topic", "delete", name)) == f"{name}: deleted\n"
    assert cli("topic", "describe", name).code == 1


def test_lines_in_lines_out(cli):
    ok(cli("topic", "create", "cli-lines"))
    done = cli("produce", "cli-lines", "-K", ":", "-H", "source:test", "-z", "lz4", stdin="a:1\nb:2\na:3")
    assert ok(done) == ""
    assert done.err == "cli-lines: 3 records, partition 0: 0-2\n"
    assert ok(cli("consume", "cli-lines", "-e", "-f", "%p/%o %k=%v %h\\n")) == (
        "0/0 a=1 source=test\n0/1 b=2 source=test\n0/2 a=3 source=test\n"
    )
    assert ok(cli("consume", "cli-lines", "-n", "1", "-o", "+1")) == "2\n"
    assert ok(cli("consume", "cli-lines", "-e", "-o", "-1")) == "3\n"
    assert ok(cli("consume", "cli-lines", "-e", "-o", "end")) == ""
    assert ok(cli("consume", "cli-lines", "-e", "-o", "@0", "-p", "0")) == "1\n2\n3\n"


def test_json_goes_out_as_it_came_in(cli, tmp_path):
    records = [
        {
            "key": "k",
            "value": "é",
            "headers": [{"key": "h", "value": "1"}],
            "timestamp": 1_700_000_000_000,
            "partition": 1,
        },
        {"key": "gone", "value": None, "headers": [], "timestamp": 1_700_000_000_001, "partition": 1},
        {"key": None, "key_base64": "/w==", "value": "", "headers": [], "timestamp": 1_700_000_000_002, "partition": 1},
    ]
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    ok(cli("topic", "create", "cli-json", "-p", "2"))
    summary = json.loads(ok(cli("produce", "cli-json", str(file), "-f", "json", "--format", "json")))
    assert summary["count"] == 3
    assert summary["partitions"] == [{"partition": 1, "count": 3, "first_offset": 0, "last_offset": 2}]
    printed = [json.loads(line) for line in ok(cli("consume", "cli-json", "-e", "-f", "json")).splitlines()]
    assert printed == [{"topic": "cli-json", "offset": i, **record} for i, record in enumerate(records)]
    assert ok(cli("consume", "cli-json", "-e", "-o", "@2023-11-14T22:13:20.002Z", "-f", "%o\\n")) == "2\n"


def test_records_before_a_bad_line_are_written(cli):
    ok(cli("topic", "create", "cli-bad"))
    done = cli("produce", "cli-bad", "-f", "json", stdin='{"value": "a"}\n{"value"\n{"value": "b"}\n')
    assert done.code == 1
    assert "cli-bad: 1 record, partition 0: 0-0\nerror: stdin line 2 is not JSON" in done.err
    done = cli("produce", "cli-bad", "-f", "json", stdin="{}")
    assert done.code == 1
    assert "stdin line 1 has neither key nor value" in done.err
    done = cli("produce", "cli-bad", "-p", "3", stdin="x")
    assert done.code == 1
    assert "cli-bad has no partition 3" in done.err


def test_a_group_reads_on_where_it_stopped_and_can_be_reset(cli):
    ok(cli("topic", "create", "cli-group"))
    ok(cli("produce", "cli-group", stdin="".join(f"{i}\n" for i in range(10))))
    assert ok(cli("consume", "cli-group", "-g", "cli", "-n", "4")) == "0\n1\n2\n3\n"
    (group,) = json.loads(ok(cli("group", "describe", "cli", "--format", "json")))
    assert (group["state"], group["lag"], group["members"]) == ("Empty", 6, [])
    assert ok(cli("consume", "cli-group", "-g", "cli", "-e")) == "4\n5\n6\n7\n8\n9\n"
    assert "cli " in ok(cli("group", "list"))

    dry = json.loads(ok(cli("group", "reset", "cli", "--to", "-3", "--dry-run", "--format", "json")))
    assert dry == [{"topic": "cli-group", "partition": 0, "from": 10, "to": 7}]
    ok(cli("group", "reset", "cli", "--to", "8"))
    assert ok(cli("consume", "cli-group", "-g", "cli", "-e")) == "8\n9\n"

    assert ok(cli("group", "delete", "cli")) == "cli: deleted\n"
    assert "group cli does not exist" in cli("group", "describe", "cli").err


def test_a_group_with_a_member_is_left_alone(cli, server):
    ok(cli("topic", "create", "cli-busy"))
    command = [sys.executable, "-m", "tools", "consume", "cli-busy", "-g", "busy", "-b", server.kafka]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as member:
        try:
            ok(cli("produce", "cli-busy", stdin="hello"))
            assert member.stdout.readline() == "hello\n"
            refused = cli("group", "reset", "busy", "--to", "start")
            assert refused.code == 1
            assert "with 1 members (stop them first" in refused.err
            (group,) = json.loads(ok(cli("group", "describe", "busy", "--format", "json")))
            assert group["state"] == "Stable"
            assert group["partitions"][0]["client_id"] == "logstore-consume"
            assert cli("group", "delete", "busy").code == 1
        finally:
            member.send_signal(2)
        assert member.wait(timeout=20) == 130


def test_a_pipe_is_read_as_it_comes(cli, server):
    """`tail -f | logstore produce` must send each line when it comes, not when the pipe ends."""
    ok(cli("topic", "create", "cli-pipe"))
    command = [sys.executable, "-m", "tools", "produce", "cli-pipe", "-b", server.kafka]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as producer:
        producer.stdin.write("one\ntw")
        producer.stdin.flush()
        assert ok(cli("consume", "cli-pipe", "-n", "1")) == "one\n"
        _, err = producer.communicate("o\n\nthree")
    assert err == "cli-pipe: 4 records, partition 0: 0-3\n"
    assert ok(cli("consume", "cli-pipe", "-e")) == "one\ntwo\n\nthree\n"
