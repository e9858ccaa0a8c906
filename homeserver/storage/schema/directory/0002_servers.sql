-- What is known of other servers' signing keys. They are public and belong to nobody, so they are kept once, beside
-- the routes, and not on a node.

-- The last answer of each server about its keys, as it signed it: a notary passes it on.
CREATE TABLE servers (
    server_name TEXT PRIMARY KEY,
    document BLOB NOT NULL,
    valid_until_ts INTEGER NOT NULL,
    fetched_ts INTEGER NOT NULL
);

-- Each key that a server ever named. A key may have signed up to good_until_ts, and nothing later.
CREATE TABLE server_keys (
    server_name TEXT NOT NULL,
    key_id TEXT NOT NULL,
    public_key BLOB NOT NULL,
    good_until_ts INTEGER NOT NULL,
    PRIMARY KEY (server_name, key_id)
);
