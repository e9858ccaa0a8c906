-- From where and when residents use their devices, sealed (protocol/epochs.py). None of these three is in an archive.

-- The keys to which records are sealed. number: grows, and is never given twice; shares: JSON, the shares of the secret
-- half, each sealed to its custodian; salt: what tags of days are keyed with, besides the deployment's secret. Both are
-- emptied when the epoch is destroyed. seen_ts: when it was last known to be in use; ends_ts: until when it is at most.
-- All times in milliseconds since 1970.
CREATE TABLE epochs (
    number INTEGER NOT NULL PRIMARY KEY,
    public_key BLOB NOT NULL,
    threshold INTEGER NOT NULL,
    shares BLOB NOT NULL,
    salt BLOB NOT NULL,
    born_ts INTEGER NOT NULL,
    seen_ts INTEGER NOT NULL,
    ends_ts INTEGER NOT NULL,
    destroyed_ts INTEGER
);

-- Records, which only the custodians of their epoch can open together.
CREATE TABLE sessions (
    session_nid INTEGER PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    epoch INTEGER NOT NULL,
    box BLOB NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_nid, epoch);
CREATE INDEX sessions_epoch ON sessions (epoch);

-- The last day on which a device was used, as a keyed and truncated tag of that day.
CREATE TABLE device_days (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_nid INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    tag BLOB NOT NULL,
    PRIMARY KEY (user_nid, device_nid)
);
CREATE INDEX device_days_epoch ON device_days (epoch);
