-- Clients that have registered to sign users in by OAuth 2.0: what they say of themselves, and nothing of anybody. Equal
-- metadata is one client. used_ts: when somebody last signed in with it.
CREATE TABLE oauth_clients (
    client_id TEXT PRIMARY KEY,
    metadata BLOB NOT NULL,
    registered_ts INTEGER NOT NULL,
    used_ts INTEGER
);
CREATE INDEX oauth_clients_unused ON oauth_clients (registered_ts) WHERE used_ts IS NULL;
CREATE INDEX oauth_clients_used ON oauth_clients (used_ts) WHERE used_ts IS NOT NULL;
