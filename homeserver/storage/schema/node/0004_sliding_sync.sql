-- Connections of sliding sync.

-- What a connection has been told, as of one of its positions: the whole of it, or (with a parent) what differs from
-- another position. A device has few connections, and a connection few positions; see homeserver/sync/sliding.
CREATE TABLE sliding_positions (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_nid INTEGER NOT NULL,
    conn_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    parent INTEGER,
    ts INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (device_nid, conn_id, number)
);
CREATE INDEX sliding_positions_ts ON sliding_positions (ts);

-- Who has read up to the events of a timeline.
CREATE INDEX receipts_event ON receipts (event_id);
