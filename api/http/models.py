"""What the routes off the hot path take and give, as FastAPI checks and documents it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Error(BaseModel):
    """Every refusal."""

    error_code: int = Field(
        examples=[40401], description="The REST proxy's code; its first three digits mostly the status"
    )
    message: str


# --- v2 --------------------------------------------------------------------------------------------------------------


class Replica(BaseModel):
    broker: int
    leader: bool
    in_sync: bool


class Partition(BaseModel):
    partition: int
    leader: int
    replicas: list[Replica]


class Topic(BaseModel):
    name: str
    configs: dict[str, str]
    partitions: list[Partition]


class Offsets(BaseModel):
    beginning_offset: int = Field(description="Offset of the first record kept")
    end_offset: int = Field(description="Offset the next record will get")


class Brokers(BaseModel):
    brokers: list[int]


# --- v3 --------------------------------------------------------------------------------------------------------------


class ResourceMetadata(BaseModel):
    self: str
    resource_name: str | None = None


class ListMetadata(BaseModel):
    self: str
    next: str | None = None


class Related(BaseModel):
    related: str


class Cluster(BaseModel):
    kind: Literal["KafkaCluster"] = "KafkaCluster"
    metadata: ResourceMetadata
    cluster_id: str
    topics: Related


class ClusterList(BaseModel):
    kind: Literal["KafkaClusterList"] = "KafkaClusterList"
    metadata: ListMetadata
    data: list[Cluster]


class TopicV3(BaseModel):
    kind: Literal["KafkaTopic"] = "KafkaTopic"
    metadata: ResourceMetadata
    cluster_id: str
    topic_name: str
    is_internal: bool = False
    replication_factor: int = 1
    partitions_count: int
    authorized_operations: list[str] = []


class TopicListV3(BaseModel):
    kind: Literal["KafkaTopicList"] = "KafkaTopicList"
    metadata: ListMetadata
    data: list[TopicV3]


class TopicOption(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(examples=["retention.ms"])
    value: str = Field(examples=["604800000"])


class CreateTopic(BaseModel):
    model_config = ConfigDict(extra="forbid")
    topic_name: str = Field(examples=["orders"], max_length=1000)
    partitions_count: int | None = Field(None, description="Default: the broker's num.partitions", ge=1, le=2**31 - 1)
    replication_factor: int | None = Field(None, description="One node keeps one copy", ge=-1, le=2**15 - 1)
    configs: list[TopicOption] = Field([], max_length=1000)
    validate_only: bool = False


# --- health ----------------------------------------------------------------------------------------------------------


class Health(BaseModel):
    status: Literal["ok", "unavailable"]
    phase: str
    checks: dict[str, str] | None = Field(None, description="With ?verbose: each check and what it found")


class Index(BaseModel):
    name: str
    version: str
    links: dict[str, str]


Schema = dict[str, Any]
