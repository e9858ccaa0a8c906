-- What another log says of the keys that there is a copy of here, and proves it: JSON with a checkpoint of its own. It is of
-- that copy, and goes with it. origin: which log.
CREATE TABLE carried_proofs (
    user_nid INTEGER PRIMARY KEY,
    origin TEXT NOT NULL,
    proof BLOB NOT NULL
);
