-- What was done at the machine and concerns nobody in particular, as in the tables of the same names on nodes. There is
-- one chain, that of nobody (user_nid 0), and no entry of it names a person.
CREATE TABLE admin_log (
    user_nid INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    entry BLOB NOT NULL,
    PRIMARY KEY (user_nid, seq)
);
CREATE TABLE admin_log_heads (
    user_nid INTEGER PRIMARY KEY,
    entries INTEGER NOT NULL,
    digest BLOB NOT NULL
);
