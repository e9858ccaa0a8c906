-- Jurisdictions that the deployment leaves (homeserver/residency/withdrawing). plan: the digest of what was announced;
-- nodes: their names, as JSON; state: "announced", "closing", "closed", "erasing", "done"; account: what has been done so
-- far, as JSON; receipt: what the nodes have signed in the end. Times are milliseconds since 1970.
CREATE TABLE withdrawals (
    plan TEXT PRIMARY KEY,
    jurisdiction TEXT NOT NULL,
    nodes TEXT NOT NULL,
    state TEXT NOT NULL,
    announced_ts INTEGER NOT NULL,
    ends_ts INTEGER NOT NULL,
    account TEXT NOT NULL,
    receipt BLOB
);
CREATE UNIQUE INDEX withdrawals_open ON withdrawals (jurisdiction) WHERE state <> 'done';
