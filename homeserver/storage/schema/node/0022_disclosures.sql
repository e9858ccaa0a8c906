-- Orders to disclose something of accounts, and the register of what became of them (homeserver/disclosure).

-- body: the order as canonical JSON, as it was narrowed last; state: "open", "refused", "opened" or "expired".
-- gag_until: until when nothing is told of it but that it is there, in milliseconds since 1970; NULL: it is told.
CREATE TABLE disclosure_orders (
    order_number INTEGER PRIMARY KEY,
    body BLOB NOT NULL,
    state TEXT NOT NULL,
    expires_ts INTEGER NOT NULL,
    gag_until INTEGER
);

-- What approvers have signed, by the SHA-256 of the order as it was then, in hexadecimal.
CREATE TABLE disclosure_approvals (
    order_sha256 TEXT NOT NULL,
    approver TEXT NOT NULL,
    approval BLOB NOT NULL,
    PRIMARY KEY (order_sha256, approver)
);

-- Rows are appended, numbered from 1, and never changed. entry: canonical JSON that is signed and names the hash of the
-- entry before it, and the hashes of both other texts with their salts.
CREATE TABLE disclosure_register (
    seq INTEGER PRIMARY KEY,
    order_number INTEGER NOT NULL,
    entry BLOB NOT NULL,
    details BLOB NOT NULL,
    details_salt BLOB NOT NULL,
    withheld BLOB NOT NULL,
    withheld_salt BLOB NOT NULL
);

-- The end of the register: how many entries there are, and the SHA-256 of the last. seen_ts: how late it has been
-- while orders could run out, in milliseconds since 1970.
CREATE TABLE disclosure_register_head (
    id INTEGER PRIMARY KEY,
    entries INTEGER NOT NULL,
    digest TEXT NOT NULL,
    seen_ts INTEGER NOT NULL
);
