-- The first schema. Times are wall-clock milliseconds since 1970, ids of topics 16 bytes.

-- One row: the newest metadata version, and what is drawn once or counted for ever.
CREATE TABLE cluster (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    cluster_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    next_partition_id INTEGER NOT NULL,
    next_producer_id INTEGER NOT NULL
) STRICT;

CREATE TABLE brokers (
    node_id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    rack TEXT,
    version INTEGER NOT NULL
) STRICT;

-- A deleted topic keeps its row (deleted_version set, name free again): its id makes a late retry of its creation
-- harmless, and tells directories left over from directories never seen.
CREATE TABLE topics (
    topic_id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    config TEXT NOT NULL,
    created_version INTEGER NOT NULL,
    version INTEGER NOT NULL,
    deleted_version INTEGER
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX topics_by_name ON topics (name) WHERE deleted_version IS NULL;
CREATE INDEX topics_by_version ON topics (version);

CREATE TABLE partitions (
    partition_id INTEGER PRIMARY KEY,
    topic_id BLOB NOT NULL,
    idx INTEGER NOT NULL,
    UNIQUE (topic_id, idx)
) STRICT;

CREATE TABLE slots (
    kind INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    owner_node_id INTEGER NOT NULL,
    owner_epoch INTEGER NOT NULL,
    PRIMARY KEY (kind, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE groups (
    slot INTEGER NOT NULL,
    group_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    generation INTEGER NOT NULL,
    body BLOB NOT NULL,
    saved_at_ms INTEGER NOT NULL,
    PRIMARY KEY (slot, group_id)
) STRICT, WITHOUT ROWID;

-- The column is not called `offset` because that is a keyword of SQL.
CREATE TABLE group_offsets (
    slot INTEGER NOT NULL,
    group_id TEXT NOT NULL,
    partition_id INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    leader_epoch INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    commit_timestamp_ms INTEGER NOT NULL,
    PRIMARY KEY (slot, group_id, partition_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX group_offsets_by_partition ON group_offsets (partition_id);
