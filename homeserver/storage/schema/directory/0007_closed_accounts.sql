-- Accounts that have been closed, by the hash under which routes have their owners, so that they are closed again when an
-- older archive of their node is put back. erased: their owners asked to be forgotten too.
CREATE TABLE closed_accounts (
    route_key BLOB PRIMARY KEY,
    erased INTEGER NOT NULL
);
