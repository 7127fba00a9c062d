"""REST v3, the part that makes and lists topics; Confluent's shapes, with links only where something answers."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.http.door import Door
from api.http.errors import BAD_REQUEST, Problem
from api.http.hot_docs import refusals
from api.http.models import (
    Cluster,
    ClusterList,
    CreateTopic,
    ListMetadata,
    Related,
    ResourceMetadata,
    TopicListV3,
    TopicV3,
)
from cluster.image import TopicImage

_UNKNOWN = refusals(s404="No such cluster (404) or topic (40401)")
_REFUSED = _UNKNOWN | refusals(
    s409="The topic is there already (40002)", s422="A name, count or option that cannot be (40002)"
)


def router(door: Door) -> APIRouter:
    routes = APIRouter(prefix="/v3/clusters", tags=["v3"])

    def check(cluster_id: str) -> None:
        known = door.node.image.cluster_id
        if cluster_id != known:
            raise Problem(404, 404, f"cluster {cluster_id} is not here; this is {known}")

    def links(request: Request) -> _Links:
        return _Links(str(request.base_url), door.node.image.cluster_id)

    @routes.get("")
    async def list_clusters(request: Request) -> ClusterList:
        """The one cluster this node belongs to."""
        to = links(request)
        return ClusterList(metadata=ListMetadata(self=to.clusters), data=[to.cluster()])

    @routes.get("/{cluster_id}", responses=_UNKNOWN)
    async def describe_cluster(request: Request, cluster_id: str) -> Cluster:
        """The cluster."""
        check(cluster_id)
        return links(request).cluster()

    @routes.get("/{cluster_id}/topics", responses=_UNKNOWN)
    async def list_cluster_topics(request: Request, cluster_id: str) -> TopicListV3:
        """All topics, by name."""
        check(cluster_id)
        to = links(request)
        topics = sorted(door.node.image.topics.values(), key=lambda topic: topic.name)
        return TopicListV3(metadata=ListMetadata(self=to.topics), data=[to.topic(topic) for topic in topics])

    @routes.post("/{cluster_id}/topics", status_code=201, responses={200: {"model": TopicV3}, **_REFUSED})
    async def create_topic(request: Request, response: Response, cluster_id: str, body: CreateTopic) -> TopicV3:
        """Make a topic. With `validate_only` nothing is made, and the status is 200."""
        check(cluster_id)
        if body.replication_factor not in (None, -1, 1):
            message = f"replication_factor {body.replication_factor}: this node keeps one copy (leave it out, or 1)"
            raise Problem(422, BAD_REQUEST, message)
        names = [option.name for option in body.configs]
        if len(set(names)) < len(names):
            raise Problem(422, BAD_REQUEST, "an option is given twice in configs")
        config = {option.name: option.value for option in body.configs}
        count = -1 if body.partitions_count is None else body.partitions_count
        topic = await door.node.create_topic(body.topic_name, count, config, validate_only=body.validate_only)
        made = links(request).topic(topic)
        if body.validate_only:
            response.status_code = 200
        else:
            response.headers["location"] = made.metadata.self
        return made

    @routes.get("/{cluster_id}/topics/{topic}", responses=_UNKNOWN)
    async def describe_cluster_topic(request: Request, cluster_id: str, topic: str) -> TopicV3:
        """One topic."""
        check(cluster_id)
        return links(request).topic(door.node.topic(topic))

    @routes.delete("/{cluster_id}/topics/{topic}", status_code=204, responses=_UNKNOWN)
    async def delete_topic(cluster_id: str, topic: str) -> None:
        """Delete a topic and its records."""
        check(cluster_id)
        await door.node.delete_topic(door.node.topic(topic))

    return routes


class _Links:
    """Objects with their addresses, as seen from one request."""

    def __init__(self, base: str, cluster_id: str) -> None:
        self.cluster_id = cluster_id
        self.clusters = f"{base}v3/clusters"
        self.topics = f"{self.clusters}/{cluster_id}/topics"

    def cluster(self) -> Cluster:
        return Cluster(
            metadata=ResourceMetadata(
                self=f"{self.clusters}/{self.cluster_id}", resource_name=f"crn:///kafka={self.cluster_id}"
            ),
            cluster_id=self.cluster_id,
            topics=Related(related=self.topics),
        )

    def topic(self, topic: TopicImage) -> TopicV3:
        return TopicV3(
            metadata=ResourceMetadata(
                self=f"{self.topics}/{topic.name}",
                resource_name=f"crn:///kafka={self.cluster_id}/topic={topic.name}",
            ),
            cluster_id=self.cluster_id,
            topic_name=topic.name,
            partitions_count=len(topic.partition_ids),
        )
