-- How far the key log of each node was when it was last shown to anybody: a node that comes back older is noticed.
CREATE TABLE log_heads (
    node TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    root BLOB NOT NULL
);
