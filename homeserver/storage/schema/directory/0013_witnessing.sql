-- The logs that this deployment witnesses (homeserver/transparency/witnessing.py), and of each the newest checkpoint that
-- it has signed, as it was answered: stored before the answer. key: what the log signs with; removed_ts: since when it is
-- witnessed no more, for the row stays. refused_ts, refusal: since when nothing of it could be signed, and why. Times of
-- day are milliseconds since 1970, cosigned_at is seconds.
CREATE TABLE witnessed_logs (
    origin TEXT PRIMARY KEY,
    place TEXT NOT NULL UNIQUE,
    log_key TEXT NOT NULL,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    note BLOB,
    cosigned_at INTEGER NOT NULL,
    added_ts INTEGER NOT NULL,
    removed_ts INTEGER,
    refused_ts INTEGER,
    refusal TEXT
);

-- Alarms about logs, ours and those that are witnessed, and what became of them: a chain (homeserver/protocol/log_alarms.py).
CREATE TABLE log_alarms (
    number INTEGER PRIMARY KEY,
    link BLOB NOT NULL
);
