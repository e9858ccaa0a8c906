-- The deployment's routing table: keyed hashes and the node they lead to. Nothing else about a person.

CREATE TABLE routes (
    kind TEXT NOT NULL,
    route_key BLOB NOT NULL,
    node TEXT NOT NULL,
    PRIMARY KEY (kind, route_key)
);

CREATE TABLE registration_tokens (
    token TEXT PRIMARY KEY,
    uses_allowed INTEGER,
    completed INTEGER NOT NULL DEFAULT 0,
    expires_ts INTEGER
);

-- Nodes whose database has been made: one that is gone later must not come back empty.
CREATE TABLE founded_nodes (
    node TEXT PRIMARY KEY
);
