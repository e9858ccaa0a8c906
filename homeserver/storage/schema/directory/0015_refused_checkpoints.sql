-- Where a log that is witnessed is read (homeserver/transparency/suspecting.py); NULL where its operator gave its name only.
ALTER TABLE witnessed_logs ADD COLUMN url TEXT;

-- What the log has signed, and what was not signed here since it could not be told whether it goes on from what was: until
-- the log tells, or there is an alarm. note: the checkpoint under the log's own signature; refused_ts: since when,
-- in milliseconds since 1970.
CREATE TABLE refused_checkpoints (
    origin TEXT NOT NULL REFERENCES witnessed_logs (origin),
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    note BLOB NOT NULL,
    refused_ts INTEGER NOT NULL,
    PRIMARY KEY (origin, size, root)
);
