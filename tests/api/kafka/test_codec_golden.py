"""Frames that real clients and brokers sent: read, written again, the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.kafka import codec
from api.kafka.messages import APIS
from api.kafka.schema import Api

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data" / "kafka-fixtures"
API_BY_NAME = {api.module.replace("_", ""): api for api in APIS.values()}


def has_tables(path: Path) -> bool:
    name, number = re.match(r"frame\.(\w+)_(?:request|response)_v(\d+)", path.name).groups()  # type: ignore[union-attr]  # or fail
    api = API_BY_NAME.get(name.replace("_", ""))
    return api is not None and api.has(int(number))


FRAMES = [
    path
    for folder in (SHARED / "tansu", ROOT / "tests/data/kafka")
    for path in sorted(folder.glob("frame.*.bin"))
    if has_tables(path) or folder != SHARED / "tansu"
]

# Well-formed, but not as a writer would write them: why, and only these.
NOT_CANONICAL = {
    "frame.fetch_response_v16_001.bin": "carries the tagged field node_endpoints although it is empty",
}
NOT_WELL_FORMED = {
    "apiVersions.v1_response_missing_throttle_time.bin": "kafkajs' sample of a broker that forgets the throttle time",
}


def test_there_are_frames_to_test() -> None:
    assert len(FRAMES) >= 6


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_whole_frame(path: Path) -> None:
    name, kind, number = re.fullmatch(r"frame\.(\w+)_(request|response)_v(\d+)_\w+\.bin", path.name).groups()  # type: ignore[union-attr]  # or fail
    api, version = API_BY_NAME.get(name.replace("_", "")), int(number)
    assert api is not None
    frame = path.read_bytes()
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    check_frame(api, version, kind, frame, canonical=path.name not in NOT_CANONICAL)


def test_the_frames_in_the_repository_are_all_of_served_versions() -> None:
    for path in (ROOT / "tests/data/kafka").glob("frame.*.bin"):
        name, number = re.match(r"frame\.(\w+)_(?:request|response)_v(\d+)", path.name).groups()  # type: ignore[union-attr]  # or fail
        assert API_BY_NAME[name.replace("_", "")].has(int(number))


@pytest.mark.skipif(not SHARED.exists(), reason="the shared captures are not here")
def test_a_captured_conversation_of_a_java_consumer() -> None:
    seen = set()
    for line in (SHARED / "kafka-go" / "frames.jsonl").read_text().splitlines():
        captured = json.loads(line)
        kind = "request" if captured["direction"].startswith("req") else "response"
        api, version = APIS[captured["api_key"]], captured["api_version"]
        check_frame(api, version, kind, bytes.fromhex(captured["frame_hex"]))
        seen.add((api.name, kind))
    assert len(seen) == 22


@pytest.mark.skipif(not SHARED.exists(), reason="the shared captures are not here")
def test_bodies_from_the_tests_of_kafkajs() -> None:
    checked = 0
    for path, api, version, kind in kafkajs_bodies():
        if path.name not in NOT_WELL_FORMED:
            check_body(api, version, kind, path.read_bytes())
            checked += 1
    assert checked == 115


def kafkajs_bodies() -> Iterator[tuple[Path, Api, int, str]]:
    for path in sorted((SHARED / "kafkajs").glob("*.bin")):
        found = re.match(r"(\w+)\.v(\d+)_(request|response)", path.name)
        api = API_BY_NAME.get(found[1].lower()) if found else None
        if found and api and api.has(int(found[2])):
            yield path, api, int(found[2]), found[3]


def check_frame(api: Api, version: int, kind: str, frame: bytes, *, canonical: bool = True) -> None:
    buffer = memoryview(frame)
    if kind == "request":
        header = codec.read_request_header(buffer, 4)
        assert (header.api_key, header.api_version) == (api.key, version)
        position = header.body_position
        head = codec.write_request_header(api.key, version, header.correlation_id, header.client_id)
    else:
        correlation_id, position = codec.read_response_header(api.key, version, buffer, 4)
        head = codec.response_header(api.key, version, correlation_id)
    assert head == frame[4:position]
    check_body(api, version, kind, frame[position:], canonical=canonical)


def check_body(api: Api, version: int, kind: str, body: bytes, *, canonical: bool = True) -> None:
    read = codec.read_request if kind == "request" else codec.read_response
    write = codec.write_request if kind == "request" else codec.write_response
    message = read(api.key, version, memoryview(body))
    again = write(api.key, version, message)
    if canonical:
        assert again == body
    else:
        assert again != body
        assert write(api.key, version, read(api.key, version, memoryview(again))) == again
