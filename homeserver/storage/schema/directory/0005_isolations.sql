-- Jurisdictions whose borders are closed for now, whatever the policy lets flow.
CREATE TABLE isolations (
    jurisdiction TEXT PRIMARY KEY,
    since_ts INTEGER NOT NULL,
    reason TEXT NOT NULL
);
