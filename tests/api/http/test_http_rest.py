"""Topics, clusters, health, metrics, documentation: everything off the hot path."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.http.app import create_app
from api.http.docs_page import docs_page
from api.http.door import HttpLimits
from api.http.lifecycle import Lifecycle
from api.http.metrics import gauge
from api.http.routes import PRODUCE_PARTITION_ROUTE, PRODUCE_ROUTE, READ_ROUTE, TAIL_ROUTE

V3 = "/v3/clusters"


def told(answer: httpx.Response, status: int, error_code: int) -> str:
    body = answer.json()
    assert (answer.status_code, body["error_code"]) == (status, error_code), body
    assert set(body) == {"error_code", "message"}
    return body["message"]


# --- v2 --------------------------------------------------------------------------------------------------------------


async def test_topics_partitions_and_offsets(house) -> None:
    assert (await house.client.get("/topics")).json() == []
    await house.node.create_topic("b", 2, {"retention.ms": "1d"})
    await house.node.create_topic("a", 1)
    await house.produce("b", [{"value": n} for n in range(3)], where="/partitions/1")
    await house.node.delete_records({house.node.topic("b").partition_ids[1]: 1})
    assert (await house.client.get("/topics")).json() == ["a", "b"]
    replicas = [{"broker": 1, "leader": True, "in_sync": True}]
    partitions = [{"partition": n, "leader": 1, "replicas": replicas} for n in range(2)]
    topic = (await house.client.get("/topics/b")).json()
    assert (topic["name"], topic["partitions"]) == ("b", partitions)
    assert topic["configs"]["retention.ms"] == "86400000"
    assert topic["configs"]["message.timestamp.type"] == "CreateTime"
    assert (await house.client.get("/topics/b/partitions")).json() == partitions
    assert (await house.client.get("/topics/b/partitions/1")).json() == partitions[1]
    offsets = await house.client.get("/topics/b/partitions/1/offsets")
    assert offsets.json() == {"beginning_offset": 1, "end_offset": 3}
    assert (await house.client.get("/brokers")).json() == {"brokers": [1]}


async def test_unknown_topics_and_partitions(house) -> None:
    await house.node.create_topic("t", 1)
    for path in ("/topics/x", "/topics/x/partitions", "/topics/x/partitions/0", "/topics/x/partitions/0/offsets"):
        assert "x" in told(await house.client.get(path), 404, 40401)
    for partition in ("1", "-1", "zero", "9" * 30):
        told(await house.client.get(f"/topics/t/partitions/{partition}"), 404, 40402)
        told(await house.client.get(f"/topics/t/partitions/{partition}/offsets"), 404, 40402)


async def test_unknown_paths_and_methods_have_the_same_body(house) -> None:
    assert "/docs" in told(await house.client.get("/nothing"), 404, 404)
    answer = await house.client.put("/topics/t")
    told(answer, 405, 405)
    assert answer.headers["allow"]


# --- v3 --------------------------------------------------------------------------------------------------------------


async def test_a_topic_is_made_listed_and_deleted_in_v3_shape(house) -> None:
    clusters = (await house.client.get(V3)).json()
    assert clusters["kind"] == "KafkaClusterList"
    (cluster,) = clusters["data"]
    assert (cluster["kind"], cluster["cluster_id"]) == ("KafkaCluster", house.node.image.cluster_id)
    assert (await house.client.get(cluster["metadata"]["self"])).json() == cluster
    topics = cluster["topics"]["related"]
    wanted = {"topic_name": "t", "partitions_count": 3, "configs": [{"name": "retention.ms", "value": "1000"}]}
    checked = await house.client.post(topics, json={**wanted, "validate_only": True})
    assert checked.status_code == 200
    assert "t" not in house.node.image.topics
    made = await house.client.post(topics, json=wanted)
    assert made.status_code == 201
    topic = made.json()
    assert {**topic, "metadata": None} == {
        "kind": "KafkaTopic", "metadata": None, "cluster_id": cluster["cluster_id"], "topic_name": "t",
        "is_internal": False, "replication_factor": 1, "partitions_count": 3, "authorized_operations": [],
    }  # fmt: skip
    assert topic["metadata"]["resource_name"] == f"crn:///kafka={cluster['cluster_id']}/topic=t"
    assert house.node.topic("t").config == {"retention.ms": "1000"}
    assert (await house.client.get(made.headers["location"])).json() == topic
    listed = (await house.client.get(topics)).json()
    assert (listed["kind"], listed["data"]) == ("KafkaTopicList", [topic])
    assert (await house.client.delete(topic["metadata"]["self"])).status_code == 204
    told(await house.client.get(topic["metadata"]["self"]), 404, 40401)
    told(await house.client.delete(topic["metadata"]["self"]), 404, 40401)


async def test_topics_that_cannot_be_made(house) -> None:
    topics = f"{V3}/{house.node.image.cluster_id}/topics"
    await house.node.create_topic("there")
    for body, status, said in [
        ({"topic_name": "there"}, 409, "there"),
        ({"topic_name": "a b"}, 422, "a b"),
        ({"topic_name": ""}, 422, ""),
        ({"topic_name": "t", "partitions_count": 10_001}, 422, "max.partitions.per.topic"),
        ({"topic_name": "t", "partitions_count": 0}, 400, "partitions_count"),
        ({"topic_name": "t", "partitions_count": 2**40}, 400, "partitions_count"),
        ({"topic_name": "t", "replication_factor": 3}, 422, "replication_factor"),
        ({"topic_name": "t", "configs": [{"name": "retention.msec", "value": "1"}]}, 422, "retention.ms"),
        ({"topic_name": "t", "configs": [{"name": "retention.ms", "value": "soon"}]}, 422, "soon"),
        ({"topic_name": "t", "configs": [{"name": "retention.ms", "value": "1"}] * 2}, 422, "twice"),
        ({"topic_name": "t", "partition_count": 1}, 400, "partition_count"),
        ({}, 400, "topic_name"),
        ([], 400, "body"),
    ]:
        assert said in told(await house.client.post(topics, json=body), status, 40002)
    told(await house.client.post(topics, content=b"{"), 400, 40002)
    told(await house.client.post(topics, content=b"{", headers={"content-type": "application/json"}), 400, 40002)
    told(await house.client.post(f"{V3}/other/topics", json={"topic_name": "t"}), 404, 404)
    assert list(house.node.image.topics) == ["there"]


# --- operation -------------------------------------------------------------------------------------------------------


async def test_health_follows_the_lifecycle(house) -> None:
    lifecycle = Lifecycle()
    app = create_app(house.node, clock=house.clock, lifecycle=lifecycle)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
        for step, status, phase in [(None, 503, "starting"), ("ready", 200, "ready"), ("drain", 503, "draining")]:
            if step:
                getattr(lifecycle, step)()
            assert (await client.get("/livez")).status_code == 200
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.text) == (status, phase + "\n")
            health = await client.get("/healthz")
            assert (health.status_code, health.json()["phase"]) == (status, phase)
            assert health.json()["checks"] is None
            verbose = (await client.get("/healthz?verbose")).json()
            assert verbose["checks"]["topics"] == "0"


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_what_happened(house) -> None:
    await house.node.create_topic("t", 2)
    await house.produce("t", [{"value": n} for n in range(5)], where="/partitions/1")
    await house.node.delete_records({house.node.topic("t").partition_ids[1]: 2})
    await house.read("t", 1, offset=3)
    await house.client.post("/topics/t", content=b"{", headers={"content-type": "application/json"})
    await house.client.get("/topics/t")
    await house.client.get("/no/such/path")
    answer = await house.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = samples(answer.text)
    at = (("partition", "1"), ("topic", "t"))
    assert found["kafka_topic_partition_current_offset", at] == 5
    assert found["kafka_topic_partition_oldest_offset", at] == 2
    assert found["logstore_partition_size_bytes", at] > 61
    assert found["kafka_topic_partitions", (("topic", "t"),)] == 2
    assert found["kafka_brokers", ()] == 1
    assert found["logstore_partitions", ()] == 2
    assert found["logstore_ready", ()] == 1
    assert found["logstore_http_records_produced_total", ()] == 5
    assert found["logstore_http_records_read_total", ()] == 2

    def requests(route: str, status: int) -> float:
        return found["logstore_http_requests_total", (("route", route), ("status", str(status)))]

    assert requests(PRODUCE_PARTITION_ROUTE, 200) == 1
    assert requests(PRODUCE_ROUTE, 400) == 1
    assert requests(READ_ROUTE, 200) == 1
    assert requests("/topics/{topic}", 200) == 1
    assert requests("(none)", 404) == 1


async def test_metrics_in_openmetrics_and_with_more_sources_and_a_cap(house) -> None:
    await house.node.create_topic("t", 5)
    app = create_app(
        house.node,
        clock=house.clock,
        lifecycle=house.lifecycle,
        stats=[lambda: [gauge("logstore_extra", "One more.", 3)]],
        limits=HttpLimits(partition_series_max=2),
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
        answer = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert "logstore_extra 3.0" in answer.text
    assert len(re.findall(r"^kafka_topic_partition_current_offset\{", answer.text, re.M)) == 2
    assert "logstore_partitions_unlisted 3.0" in answer.text


async def test_the_front_page_in_both_forms(house) -> None:
    links = (await house.client.get("/")).json()["links"]
    for link in links.values():
        assert (await house.client.get(link)).status_code == 200
    page = await house.client.get("/", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert '<a href="/docs">' in page.text


async def test_openapi_is_complete_and_true(house) -> None:
    document = (await house.client.get("/openapi.json")).json()
    assert "HTTPValidationError" not in json.dumps(document)
    paths = document["paths"]
    for path, method, params in [
        (PRODUCE_ROUTE, "post", {"topic", "acks"}),
        (PRODUCE_PARTITION_ROUTE, "post", {"topic", "partition", "acks"}),
        (READ_ROUTE, "get", {"topic", "partition", "offset", "timestamp", "max_bytes", "timeout"}),
        (TAIL_ROUTE, "get", {"topic", "partition", "offset", "timestamp", "format", "last-event-id"}),
    ]:
        operation = paths[path][method]
        assert {each["name"] for each in operation["parameters"]} == params
        assert operation["description"]
        for status, answer in operation["responses"].items():
            if status == "200":
                assert set(answer["content"]) != {"application/json"}, path
            else:
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Error"), (path, status)
    body = paths[PRODUCE_ROUTE]["post"]["requestBody"]["content"]
    for media_type, content in body.items():  # the examples are requests that work
        answer = await house.client.post("/topics/t", json=content["example"], headers={"content-type": media_type})
        assert answer.json()["offsets"][0]["error_code"] is None, media_type
    for path, item in paths.items():  # every path that takes no body leads somewhere
        if "get" in item and path != TAIL_ROUTE:
            filled = path.format(topic="t", partition=0, cluster_id=house.node.image.cluster_id)
            answer = await house.client.get(filled, params={"timeout": 0} if path == READ_ROUTE else {})
            assert answer.status_code == 200, filled


async def test_the_docs_page_needs_nothing_from_elsewhere(house) -> None:
    page = (await house.client.get("/docs")).text
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert "/topics/{topic}/partitions/{partition}/records" in page
    assert "vnd.kafka.json.v2+json" in page


def test_the_docs_page_escapes_what_the_document_says() -> None:
    hostile = "<script>x</script>"
    document = {
        "info": {"title": hostile, "version": "1", "description": hostile},
        "paths": {
            "/" + hostile: {
                "get": {
                    "tags": [hostile], "summary": hostile, "description": hostile,
                    "parameters": [
                        {"name": hostile, "in": "query", "schema": {"type": hostile, "default": hostile}},
                        {"name": hostile, "in": "query", "description": hostile},
                    ],
                    "requestBody": {"content": {hostile: {"example": {hostile: hostile}}}},
                    "responses": {hostile: {"description": hostile, "content": {hostile: {}}}},
                }
            }
        },
    }  # fmt: skip
    assert "<script" not in docs_page(document)


async def test_a_failed_scrape_of_one_partition_leaves_the_rest(house) -> None:
    topic = await house.node.create_topic("gone", 1)
    await house.node.create_topic("t", 1)
    image = house.node.image
    await house.node.delete_topic(topic)
    house.node.image = image  # as seen in the middle of a deletion
    found = samples((await house.client.get("/metrics")).text)
    assert found["logstore_partitions_unlisted", ()] == 1
    assert ("kafka_topic_partition_current_offset", (("partition", "0"), ("topic", "t"))) in found


@pytest.mark.parametrize("path", ["/topics//", "/topics/", "/topics/t/partitions//records", "/topics/t/partitions/0/x"])
async def test_crooked_paths_lead_nowhere(house, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await house.client.request(method, path, headers={"content-type": "application/json"}, content=b"{}")
        assert answer.status_code in (307, 404, 405), (method, path)
    assert not house.node.image.topics
