-- The key logs of other servers, as far as they have shown them to us: the key that they were signed with first, and the
-- largest head. server: whose log; checkpoint: the signed note.
CREATE TABLE peer_logs (
    origin TEXT PRIMARY KEY,
    server TEXT NOT NULL,
    log_key TEXT NOT NULL,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    checkpoint BLOB NOT NULL
);
CREATE INDEX peer_logs_server ON peer_logs (server);

-- What of these cannot both be true, once for each log and kind; never deleted. one, other: a key and the note that it has
-- signed, which prove it to everybody.
CREATE TABLE peer_log_contradictions (
    origin TEXT NOT NULL,
    what TEXT NOT NULL,
    one BLOB NOT NULL,
    other BLOB NOT NULL,
    seen_ts INTEGER NOT NULL,
    PRIMARY KEY (origin, what)
);
