-- The newest checkpoints of each log that is witnessed that were signed here (homeserver/transparency/witnessing.py), as they
-- were answered: what the log signs later with fewer leaves is held against them.
CREATE TABLE signed_checkpoints (
    origin TEXT NOT NULL REFERENCES witnessed_logs (origin),
    size INTEGER NOT NULL,
    note BLOB NOT NULL,
    PRIMARY KEY (origin, size)
);
INSERT INTO signed_checkpoints (origin, size, note) SELECT origin, size, note FROM witnessed_logs WHERE note IS NOT NULL;
