-- The residency policies that were in force, one after the other. record: signed, and chained to the one before; text:
-- the file, which may hold the password of a database. Whoever may read this file may read that too.
CREATE TABLE policy_versions (
    serial INTEGER PRIMARY KEY,
    record BLOB NOT NULL,
    text TEXT NOT NULL
);

-- What approvers have said yes to, by the digest of a plan, until a version comes into force.
CREATE TABLE policy_approvals (
    plan TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    signature TEXT NOT NULL,
    PRIMARY KEY (plan, name)
);

-- The plan that is being applied: what it takes to go on with it, whoever was killed. base: digest of the record on
-- which it was made. recorded: 0, or the serial of its version, once that is in force.
CREATE TABLE policy_application (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    plan TEXT NOT NULL,
    base TEXT NOT NULL,
    text TEXT NOT NULL,
    restores INTEGER,
    started_ts INTEGER NOT NULL,
    moves INTEGER NOT NULL,
    replaced TEXT NOT NULL,
    recorded INTEGER NOT NULL DEFAULT 0
);
