-- The OAuth 2.0 API: who is signed in to our pages, what clients were allowed, and who comes from which provider.

-- A browser in which a resident is signed in. confirmed_ts: when they last proved to be it.
CREATE TABLE browser_sessions (
    session_hash BLOB PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    confirmed_ts INTEGER NOT NULL,
    expires_ts INTEGER NOT NULL
);
CREATE INDEX browser_sessions_user ON browser_sessions (user_nid);
CREATE INDEX browser_sessions_expiry ON browser_sessions (expires_ts);

-- What a resident has allowed a client that has yet to take it up. device_nid: the device that it signed in, once it has;
-- until the code expires, a second attempt is noticed.
CREATE TABLE oauth_grants (
    code_hash BLOB PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    client_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    redirect_uri TEXT,
    challenge TEXT,
    expires_ts INTEGER NOT NULL,
    device_nid INTEGER
);
CREATE INDEX oauth_grants_user ON oauth_grants (user_nid);
CREATE INDEX oauth_grants_expiry ON oauth_grants (expires_ts);

-- The devices that a client signed in by OAuth. Their refresh tokens share a secret, the lineage, and are numbered.
CREATE TABLE oauth_sessions (
    device_nid INTEGER PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    client_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    lineage BLOB NOT NULL UNIQUE,
    generation INTEGER NOT NULL
);
CREATE INDEX oauth_sessions_user ON oauth_sessions (user_nid);
CREATE INDEX oauth_sessions_client ON oauth_sessions (client_id);

-- Whom a provider of identities means by a subject.
CREATE TABLE upstream_identities (
    provider TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    PRIMARY KEY (provider, subject)
);
CREATE INDEX upstream_identities_user ON upstream_identities (user_nid);
