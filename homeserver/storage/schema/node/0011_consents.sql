-- Users' consent to rooms that cross a border.

-- What a resident has agreed to: rooms of theirs, whose data rests in jurisdiction source, may reach target. classes: the
-- data classes that they were told of, parted by blanks. shown: SHA-256 of the page's text, which was in this language;
-- policy_serial: the version of the policy that it told of. withdrawn_ts: since when it holds no more.
CREATE TABLE consents (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    source TEXT NOT NULL,
    target TEXT NOT NULL,
    classes TEXT NOT NULL,
    shown BLOB NOT NULL,
    language TEXT NOT NULL,
    policy_serial INTEGER NOT NULL,
    given_ts INTEGER NOT NULL,
    withdrawn_ts INTEGER,
    PRIMARY KEY (user_nid, source, target)
);
