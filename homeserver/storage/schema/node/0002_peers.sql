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
