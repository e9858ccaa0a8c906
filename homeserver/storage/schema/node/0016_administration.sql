-- Roles of those who administer the deployment, and the log of what they do.

-- A role that a resident was given, besides that of an operator, which is `admin` of accounts; given_ts: milliseconds
-- since 1970.
CREATE TABLE roles (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    role TEXT NOT NULL,
    given_ts INTEGER NOT NULL,
    PRIMARY KEY (user_nid, role)
);

-- What a resident has done or tried as an administrator, and what somebody at the machine has done to them. Rows are
-- appended, numbered from 1, and never changed. entry: canonical JSON that is signed and names the hash of the entry
-- before it.
CREATE TABLE admin_log (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    seq INTEGER NOT NULL,
    entry BLOB NOT NULL,
    PRIMARY KEY (user_nid, seq)
);

-- The end of a resident's entries: how many there are, and the SHA-256 of the last.
CREATE TABLE admin_log_heads (
    user_nid INTEGER PRIMARY KEY REFERENCES residents (user_nid),
    entries INTEGER NOT NULL,
    digest BLOB NOT NULL
);
