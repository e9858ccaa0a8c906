-- How often the key log of a node has begun: with another log under another name, since one that was set back cannot go on.
ALTER TABLE log_heads ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;

-- How far those were that do not go on, and why. Shown to everybody.
CREATE TABLE ended_logs (
    node TEXT NOT NULL,
    generation INTEGER NOT NULL,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    ended_ts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (node, generation)
);
