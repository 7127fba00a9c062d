"""The verbs against a running server (fixture `server`)."""

import json
import os
import re
import subprocess
import sys
from array import array
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from signal import SIGINT, SIGTERM
from termios import FIONREAD
from time import sleep
from typing import NamedTuple

import pytest

from tools import produce
from tools.main import run
from tools.produce import CHUNK_BYTES

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


@pytest.mark.parametrize(("signal", "code"), [(SIGINT, 130), (SIGTERM, 143)])
def test_a_group_with_a_member_is_left_alone_and_a_stopped_member_leaves(cli, server, signal, code):
    topic, group = f"cli-busy-{code}", f"busy-{code}"
    ok(cli("topic", "create", topic))
    command = [sys.executable, "-m", "tools", "consume", topic, "-g", group, "-b", server.kafka]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as member:
        try:
            ok(cli("produce", topic, stdin="hello"))
            assert member.stdout.readline() == "hello\n"
            refused = cli("group", "reset", group, "--to", "start")
            assert refused.code == 1
            assert "with 1 member (stop them first" in refused.err
            (described,) = json.loads(ok(cli("group", "describe", group, "--format", "json")))
            assert described["state"] == "Stable"
            assert described["partitions"][0]["client_id"] == "logstore-consume"
            kept = cli("group", "delete", group, "--format", "json")
            assert json.loads(kept.out) == [
                {"name": group, "outcome": "has members (stop them first)", "error_code": 68}
            ]
            assert (kept.code, kept.err) == (1, f"error: {group}: has members (stop them first)\n")
        finally:
            member.send_signal(signal)
        assert member.wait(timeout=20) == code
        assert member.stderr.read() == ""
    (described,) = json.loads(ok(cli("group", "describe", group, "--format", "json")))
    assert (described["state"], described["lag"]) == ("Empty", 0), "what was printed is committed"


def test_what_was_sent_without_waiting_is_counted(cli):
    ok(cli("topic", "create", "cli-acks"))
    done = cli("produce", "cli-acks", "--acks", "0", stdin="a\nb\n")
    assert ok(done) == ""
    assert done.err == "cli-acks: 2 records, sent without waiting for an answer\n"
    assert ok(cli("consume", "cli-acks", "-n", "2")) == "a\nb\n"
    summary = json.loads(ok(cli("produce", "cli-acks", "--acks", "0", "--format", "json", stdin="c")))
    assert summary == {"topic": "cli-acks", "count": 1, "failed": 0, "partitions": []}


def test_lines_of_any_length(cli, monkeypatch, tmp_path):
    ok(cli("topic", "create", "cli-long", "-c", "max.message.bytes=2MiB"))
    lines = ["a" * n for n in (1, CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 1, 0, 5)]
    ok(cli("produce", "cli-long", stdin="\n".join(lines)))
    assert ok(cli("consume", "cli-long", "-e")).splitlines() == lines
    refused = cli("produce", "cli-long", stdin="b" * (3 << 20))
    assert refused.code == 1
    assert "error: 1 record not written: message too large (max.message.bytes of the topic is the bound)" in refused.err
    monkeypatch.setattr(produce, "REQUEST_BYTES_MAX", 4 << 20)
    refused = cli("produce", "cli-long", stdin="x\n" + "b" * (5 << 20))
    assert refused.code == 1
    assert "stdin line 2 is longer than 4194304 bytes" in refused.err
    unreadable = cli("produce", "cli-long", str(tmp_path))
    assert unreadable.code == 1
    assert f"error: cannot read {tmp_path}: Is a directory" in unreadable.err


def test_bytes_of_the_command_line_are_bytes_of_the_record(cli):
    ok(cli("topic", "create", "cli-raw"))
    ok(cli("produce", "cli-raw", "-k", os.fsdecode(b"\xff"), "-H", os.fsdecode(b"h:\xfe"), stdin="v"))
    assert ok(cli("consume", "cli-raw", "-e", "-f", "%k{hex} %v\\n")) == "ff v\n"
    wrong = cli("topic", "create", os.fsdecode(b"\xff"))
    assert (wrong.code, wrong.err) == (2, "error: '\\udcff' is not UTF-8\n")


def test_a_producer_whose_server_is_gone_ends_soon_after_sigterm(server_factory):
    server = server_factory("gone")
    assert run(["topic", "create", "cli-gone", "-b", server.kafka]) == 0
    command = [sys.executable, "-m", "tools", "produce", "cli-gone", "-b", server.kafka]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as producer:
        producer.stdin.write("one\n")
        producer.stdin.flush()
        assert run(["consume", "cli-gone", "-n", "1", "-b", server.kafka]) == 0
        server.kill()
        producer.stdin.write("two\n")
        producer.stdin.flush()
        while array("i", ioctl(producer.stdin, FIONREAD, bytes(4)))[0]:
            sleep(0.01)
        producer.send_signal(SIGTERM)
        assert producer.wait(timeout=25) == 1, "sooner than an answer is waited for otherwise"
        # The first may be read before its answer is sent: readable is what is written, acknowledged what is fsynced.
        assert re.search("error: cli-gone: no answer for 2 s, [12] records may or may not", producer.stderr.read())


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
