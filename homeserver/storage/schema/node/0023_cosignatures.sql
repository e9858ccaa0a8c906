-- What witnesses have signed of the node's key log. cosigned: the newest checkpoint under the signatures of a quorum;
-- lacking_since_ts: since when there was none for what is shown, in milliseconds since 1970.
CREATE TABLE key_log_cosigned (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    checkpoint BLOB,
    lacking_since_ts INTEGER
);

-- Of each witness: the newest checkpoint that it has signed, and its signature. fault: why it does not sign now, and since
-- when (fault_since_ts).
CREATE TABLE key_log_witnesses (
    name TEXT PRIMARY KEY,
    witness_key TEXT NOT NULL,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    signature TEXT NOT NULL,
    fault TEXT,
    fault_since_ts INTEGER
);
