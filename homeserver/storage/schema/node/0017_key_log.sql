-- The log of changes of residents' public keys (homeserver/transparency). Nothing here is ever changed or deleted but
-- the one row of key_log and the tiles at the right edge.

-- size: leaves there are; hashed: how many of them are in the tiles; checkpoint: the newest that was signed, of `hashed`
-- leaves; found: the row id up to which those were looked through who had keys before there was a log.
CREATE TABLE key_log (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    size INTEGER NOT NULL,
    hashed INTEGER NOT NULL,
    checkpoint BLOB,
    found INTEGER NOT NULL
);

-- tag: whose keys, by a name that only the deployment can tell.
CREATE TABLE key_log_leaves (
    leaf_index INTEGER PRIMARY KEY,
    tag BLOB NOT NULL,
    leaf BLOB NOT NULL
);
CREATE INDEX key_log_leaves_tag ON key_log_leaves (tag, leaf_index);

-- Up to 256 hashes that follow on each other, of level 8 * level of the tree.
CREATE TABLE key_log_tiles (
    level INTEGER NOT NULL,
    place INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    PRIMARY KEY (level, place)
);
