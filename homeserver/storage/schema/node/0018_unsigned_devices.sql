-- Since when a resident's device has been there without a signature by its owner's self-signing key (ms since 1970; 0:
-- since before anybody looked; NULL: it is signed, or it is a copy), and whether others are not shown it for that.
ALTER TABLE device_keys ADD COLUMN unsigned_since INTEGER;
ALTER TABLE device_keys ADD COLUMN withheld INTEGER NOT NULL DEFAULT 0;
UPDATE device_keys SET unsigned_since = 0 WHERE user_nid IN (SELECT user_nid FROM residents);
CREATE INDEX device_keys_unsigned ON device_keys (unsigned_since) WHERE unsigned_since IS NOT NULL;

-- What the key log says last of a resident: the digests that its leaf is a digest of. What was put into the tables of keys
-- by hand does not stand in it. tag: the name by which the leaves are about them.
CREATE TABLE key_manifests (
    user_nid INTEGER PRIMARY KEY REFERENCES residents (user_nid),
    tag BLOB NOT NULL,
    keys BLOB NOT NULL
);
-- Who is in the log already gets theirs.
UPDATE key_log SET found = 0;
