-- The snapshot that the whole current state is from this position on. NULL: none was made for it.
ALTER TABLE state_changes ADD COLUMN group_nid INTEGER;

-- Users of other servers whose public keys are copied here (device_keys, cross_signing_keys). as_of: position of this
-- node when they were asked for. stream_id: the version as their server counts; NULL: it did not say.
-- stale: a change was missed, so that the copy is shown to nobody.
CREATE TABLE remote_device_lists (
    user_nid INTEGER PRIMARY KEY,
    as_of INTEGER NOT NULL,
    stream_id INTEGER,
    stale INTEGER NOT NULL DEFAULT 0
);

-- Media of other servers that were fetched for residents. file_id names the file in the media folder.
CREATE TABLE remote_media (
    file_id TEXT PRIMARY KEY,
    server TEXT NOT NULL,
    media_id TEXT NOT NULL,
    content_type TEXT NOT NULL,
    filename TEXT,
    size INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    fetched_ts INTEGER NOT NULL,
    asked_ts INTEGER NOT NULL,
    UNIQUE (server, media_id)
);
CREATE INDEX remote_media_asked ON remote_media (asked_ts);

-- sending to other servers ---------------------------------------------------------------------

-- 1: this node sends the event to the other servers that take part in the room at its position.
ALTER TABLE events ADD COLUMN to_peers INTEGER NOT NULL DEFAULT 0;
CREATE INDEX events_to_peers ON events (room_nid, pos) WHERE to_peers = 1;

-- Stretches of this node's positions in which another server takes part in a room: since_pos < position <= until_pos;
-- until_pos NULL: it still does.
CREATE TABLE peer_rooms (
    server TEXT NOT NULL,
    room_nid INTEGER NOT NULL,
    since_pos INTEGER NOT NULL,
    until_pos INTEGER,
    PRIMARY KEY (server, room_nid, since_pos)
);
CREATE INDEX peer_rooms_open ON peer_rooms (room_nid) WHERE until_pos IS NULL;

-- How far another server has been sent what is for it, and when it is tried again after so many failures in a row.
CREATE TABLE peers (
    server TEXT PRIMARY KEY,
    sent_pos INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    retry_ts INTEGER NOT NULL DEFAULT 0
);

-- What waits for another server and is no event of a room: an EDU about a resident, as canonical JSON of its content.
-- class: the data class that is asked of the policy.
CREATE TABLE peer_edus (
    pos INTEGER PRIMARY KEY,
    server TEXT NOT NULL,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    class TEXT NOT NULL,
    kind TEXT NOT NULL,
    content BLOB NOT NULL
);
CREATE INDEX peer_edus_server ON peer_edus (server, pos);

-- receiving from other servers -------------------------------------------------------------------

-- Messages to devices that have been delivered, so that one that comes again is not.
CREATE TABLE received_to_device (
    origin TEXT NOT NULL,
    message_id TEXT NOT NULL,
    ts INTEGER NOT NULL,
    PRIMARY KEY (origin, message_id)
);
CREATE INDEX received_to_device_ts ON received_to_device (ts);

-- rooms' graphs ----------------------------------------------------------------------------------

-- What the state events cite as their authority; see storage/auth_links.py.
CREATE TABLE auth_links (
    event_nid INTEGER NOT NULL,
    cites TEXT NOT NULL,
    PRIMARY KEY (event_nid, cites)
) WITHOUT ROWID;

-- What would be looked for by reading a whole table. tests/storage/test_plans.py finds such statements.
CREATE INDEX access_tokens_refresh ON access_tokens (refresh_hash) WHERE refresh_hash IS NOT NULL;
CREATE INDEX refresh_tokens_next ON refresh_tokens (next_hash) WHERE next_hash IS NOT NULL;
CREATE INDEX client_transactions_device ON client_transactions (user_nid, device_nid);
CREATE INDEX pushers_key ON pushers (app_id, pushkey);
CREATE INDEX rooms_unfinished ON rooms (history_before) WHERE history_before IS NOT NULL;
CREATE INDEX outbox_kind ON outbox (destination, kind);

-- Which event of a timeline was sent nearest to a moment.
CREATE INDEX events_ts ON events (room_nid, ts) WHERE pos IS NOT NULL;

-- A redacted event relates to nothing any more, and is looked for by itself.
CREATE INDEX relations_child ON relations (child_nid);

-- Unread counts by thread, as JSON: root (or main) to notifications and highlights. read_to is from now on the position
-- at which the newest receipt came that the count knows of.
ALTER TABLE unread_counts ADD COLUMN threads BLOB;
DELETE FROM unread_counts;

-- Whose owner asked for erasure, and since which position of this node: who joins a room later is shown what they sent
-- as if it had been redacted.
CREATE TABLE erased_users (
    user_nid INTEGER PRIMARY KEY,
    pos INTEGER NOT NULL
);
