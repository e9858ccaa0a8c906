-- One node's database. Integer row ids inside, Matrix ids only in `users`, `rooms` and `events`.
-- A column REFERENCES residents where the class of its table may rest on no other node:
-- the database itself then refuses a foreign row (storage/tables.py says which class a table has).

CREATE TABLE users (
    user_nid INTEGER PRIMARY KEY,
    user_id TEXT NOT NULL UNIQUE
);

CREATE TABLE residents (
    user_nid INTEGER PRIMARY KEY
);

-- The node's one counter of positions; `history` counts down for what is older than the replica.
CREATE TABLE stream (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    position INTEGER NOT NULL,
    history INTEGER NOT NULL
);
INSERT INTO stream (id, position, history) VALUES (1, 1, 0);

-- account ------------------------------------------------------------------------------------

CREATE TABLE accounts (
    user_nid INTEGER PRIMARY KEY REFERENCES residents (user_nid),
    password_hash TEXT,
    created_ts INTEGER NOT NULL,
    admin INTEGER NOT NULL DEFAULT 0,
    guest INTEGER NOT NULL DEFAULT 0,
    locked INTEGER NOT NULL DEFAULT 0,
    suspended INTEGER NOT NULL DEFAULT 0,
    deactivated_ts INTEGER
);

CREATE TABLE threepids (
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    validated_ts INTEGER NOT NULL,
    added_ts INTEGER NOT NULL,
    PRIMARY KEY (medium, address)
);
CREATE INDEX threepids_user ON threepids (user_nid);

CREATE TABLE devices (
    device_nid INTEGER PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_id TEXT NOT NULL,
    display_name TEXT,
    created_ts INTEGER NOT NULL,
    UNIQUE (user_nid, device_id)
);

CREATE TABLE access_tokens (
    token_hash BLOB PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_nid INTEGER NOT NULL,
    expires_ts INTEGER,
    refresh_hash BLOB
);
CREATE INDEX access_tokens_device ON access_tokens (device_nid);
CREATE INDEX access_tokens_user ON access_tokens (user_nid);

-- A used refresh token stays until the access token that it bought is used.
CREATE TABLE refresh_tokens (
    token_hash BLOB PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_nid INTEGER NOT NULL,
    next_hash BLOB,
    expires_ts INTEGER
);
CREATE INDEX refresh_tokens_device ON refresh_tokens (device_nid);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_nid);

-- room_nid 0: global.
CREATE TABLE account_data (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    room_nid INTEGER NOT NULL,
    type TEXT NOT NULL,
    content BLOB NOT NULL,
    pos INTEGER NOT NULL,
    PRIMARY KEY (user_nid, room_nid, type)
);
CREATE INDEX account_data_pos ON account_data (user_nid, pos);

CREATE TABLE push_rules (
    user_nid INTEGER PRIMARY KEY REFERENCES residents (user_nid),
    ruleset BLOB NOT NULL,
    pos INTEGER NOT NULL
);

CREATE TABLE pushers (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    device_nid INTEGER,
    definition BLOB NOT NULL,
    PRIMARY KEY (user_nid, app_id, pushkey)
);

CREATE TABLE filters (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    filter_id INTEGER NOT NULL,
    definition BLOB NOT NULL,
    PRIMARY KEY (user_nid, filter_id)
);

CREATE TABLE forgotten_rooms (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    room_nid INTEGER NOT NULL,
    PRIMARY KEY (user_nid, room_nid)
);

-- Read positions that only the user sees (m.read.private); thread_id '' is the unthreaded receipt.
CREATE TABLE private_receipts (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    room_nid INTEGER NOT NULL,
    thread_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    event_pos INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    PRIMARY KEY (user_nid, room_nid, thread_id)
);

-- How far the unread events of a room have been counted; derived, may be deleted at any time.
CREATE TABLE unread_counts (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    room_nid INTEGER NOT NULL,
    read_to INTEGER NOT NULL,
    counted_to INTEGER NOT NULL,
    notifications INTEGER NOT NULL,
    highlights INTEGER NOT NULL,
    PRIMARY KEY (user_nid, room_nid)
);

-- What a device did under a transaction id; the key is that of event_transactions where an event came of it.
CREATE TABLE client_transactions (
    txn_key BLOB PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_nid INTEGER NOT NULL,
    txn_id TEXT NOT NULL,
    ts INTEGER NOT NULL
);
CREATE INDEX client_transactions_ts ON client_transactions (ts);

-- key_backup ---------------------------------------------------------------------------------

CREATE TABLE backup_versions (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    version INTEGER NOT NULL,
    algorithm TEXT NOT NULL,
    auth_data BLOB NOT NULL,
    etag INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (user_nid, version)
);

CREATE TABLE backup_sessions (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    version INTEGER NOT NULL,
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    first_message_index INTEGER NOT NULL,
    forwarded_count INTEGER NOT NULL,
    is_verified INTEGER NOT NULL,
    session_data BLOB NOT NULL,
    PRIMARY KEY (user_nid, version, room_id, session_id)
);

-- mailbox ------------------------------------------------------------------------------------

CREATE TABLE to_device (
    pos INTEGER PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_nid INTEGER NOT NULL,
    message BLOB NOT NULL
);
CREATE INDEX to_device_device ON to_device (device_nid, pos);

-- keys ---------------------------------------------------------------------------------------

-- Public, and copied to the nodes that share a room with the owner: no reference to residents.
CREATE TABLE device_keys (
    user_nid INTEGER NOT NULL,
    device_id TEXT NOT NULL,
    keys BLOB NOT NULL,
    PRIMARY KEY (user_nid, device_id)
);

CREATE TABLE cross_signing_keys (
    user_nid INTEGER NOT NULL,
    usage TEXT NOT NULL,
    key BLOB NOT NULL,
    PRIMARY KEY (user_nid, usage)
);

-- Signatures by user-signing keys: nobody but the signer is shown them.
CREATE TABLE user_signatures (
    signer_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    target_user_id TEXT NOT NULL,
    target_key_id TEXT NOT NULL,
    signing_key_id TEXT NOT NULL,
    signature TEXT NOT NULL,
    pos INTEGER NOT NULL,
    PRIMARY KEY (signer_nid, target_user_id, target_key_id, signing_key_id)
);

-- The last position at which somebody's public keys changed.
CREATE TABLE device_list_changes (
    user_nid INTEGER PRIMARY KEY,
    pos INTEGER NOT NULL
);
CREATE INDEX device_list_changes_pos ON device_list_changes (pos);

-- Which other nodes were given a resident's public keys: they are told of every change, or to forget them.
CREATE TABLE key_holders (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    node TEXT NOT NULL,
    PRIMARY KEY (user_nid, node)
);

-- Whose public keys are copied here, from which node, and as of which position there.
CREATE TABLE key_replicas (
    user_nid INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    version INTEGER NOT NULL
);

-- Given out in the order of key_nid. The last ones that were claimed stay, so that an upload that is repeated does not
-- bring one back.
CREATE TABLE one_time_keys (
    key_nid INTEGER PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_nid INTEGER NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    key BLOB NOT NULL,
    claimed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (device_nid, algorithm, key_id)
);
CREATE INDEX one_time_keys_left ON one_time_keys (device_nid, algorithm, key_nid) WHERE claimed = 0;

CREATE TABLE fallback_keys (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_nid INTEGER NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    key BLOB NOT NULL,
    used INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (device_nid, algorithm)
);

-- events -------------------------------------------------------------------------------------

CREATE TABLE rooms (
    room_nid INTEGER PRIMARY KEY,
    room_id TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    home TEXT,
    tips TEXT NOT NULL DEFAULT '',
    state_group INTEGER,
    published INTEGER NOT NULL DEFAULT 0,
    history_before INTEGER
);
CREATE INDEX rooms_published ON rooms (published) WHERE published = 1;

-- pos: place in the timeline as this node saw it; NULL for what is known only as state or authority.
-- client, rest, unsigned: byte strings of protocol/events.py. verdict: 0 accepted, 1 soft-failed, 2 rejected.
CREATE TABLE events (
    event_nid INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    room_nid INTEGER NOT NULL,
    pos INTEGER,
    depth INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT,
    sender_nid INTEGER NOT NULL,
    state_group INTEGER,
    verdict INTEGER NOT NULL DEFAULT 0,
    client BLOB NOT NULL,
    rest BLOB NOT NULL,
    unsigned BLOB
);
CREATE UNIQUE INDEX events_timeline ON events (room_nid, pos);
CREATE INDEX events_state ON events (room_nid, type, state_key) WHERE state_key IS NOT NULL;

-- The transaction ids of senders, as keyed hashes, so that a repeated request finds its event.
CREATE TABLE event_transactions (
    txn_key BLOB PRIMARY KEY,
    sender_nid INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    ts INTEGER NOT NULL
);
CREATE INDEX event_transactions_event ON event_transactions (event_id);
CREATE INDEX event_transactions_ts ON event_transactions (ts);

CREATE TABLE current_state (
    room_nid INTEGER NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    event_nid INTEGER NOT NULL,
    PRIMARY KEY (room_nid, type, state_key)
);

-- What the current state became, when. event_nid NULL: the key left the state.
CREATE TABLE state_changes (
    room_nid INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    event_nid INTEGER,
    PRIMARY KEY (room_nid, pos, type, state_key)
);
CREATE INDEX state_changes_key ON state_changes (room_nid, type, state_key, pos);

-- A snapshot is its entries over those of its parent (protocol of the chain: storage/state.py).
CREATE TABLE state_groups (
    group_nid INTEGER PRIMARY KEY,
    room_nid INTEGER NOT NULL,
    parent_nid INTEGER,
    depth INTEGER NOT NULL
);

CREATE TABLE state_group_entries (
    group_nid INTEGER NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    event_nid INTEGER NOT NULL,
    PRIMARY KEY (group_nid, type, state_key)
);

CREATE TABLE memberships (
    user_nid INTEGER NOT NULL,
    room_nid INTEGER NOT NULL,
    membership TEXT NOT NULL,
    event_nid INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    PRIMARY KEY (user_nid, room_nid)
);
CREATE INDEX memberships_room ON memberships (room_nid, membership);

-- Which nodes of this deployment have members in a room, and how many.
CREATE TABLE room_nodes (
    room_nid INTEGER NOT NULL,
    node TEXT NOT NULL,
    members INTEGER NOT NULL,
    PRIMARY KEY (room_nid, node)
);

-- What an invited or knocking resident may see of a room.
CREATE TABLE invitations (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    room_nid INTEGER NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (user_nid, room_nid)
);

CREATE TABLE relations (
    parent_id TEXT NOT NULL,
    child_nid INTEGER NOT NULL,
    room_nid INTEGER NOT NULL,
    rel_type TEXT NOT NULL,
    type TEXT NOT NULL,
    sender_nid INTEGER NOT NULL,
    PRIMARY KEY (parent_id, rel_type, child_nid)
);

-- A redaction whose target has not arrived yet.
CREATE TABLE waiting_redactions (
    target_id TEXT NOT NULL,
    redaction_nid INTEGER NOT NULL,
    PRIMARY KEY (target_id, redaction_nid)
);

CREATE TABLE aliases (
    alias TEXT PRIMARY KEY,
    room_nid INTEGER NOT NULL,
    creator_nid INTEGER NOT NULL
);
CREATE INDEX aliases_room ON aliases (room_nid);

-- receipts, presence, profile, media ---------------------------------------------------------

CREATE TABLE receipts (
    room_nid INTEGER NOT NULL,
    user_nid INTEGER NOT NULL,
    thread_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    event_pos INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    PRIMARY KEY (room_nid, user_nid, thread_id)
);
CREATE INDEX receipts_pos ON receipts (room_nid, pos);

CREATE TABLE presence (
    user_nid INTEGER PRIMARY KEY REFERENCES residents (user_nid),
    presence TEXT NOT NULL,
    status_msg TEXT,
    last_active_ts INTEGER NOT NULL
);

CREATE TABLE profiles (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    field TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (user_nid, field)
);

CREATE TABLE media (
    media_id TEXT PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    content_type TEXT NOT NULL,
    filename TEXT,
    size INTEGER,
    sha256 BLOB,
    created_ts INTEGER NOT NULL,
    expires_ts INTEGER
);
CREATE INDEX media_user ON media (user_nid);
CREATE INDEX media_pending ON media (expires_ts) WHERE expires_ts IS NOT NULL;

-- traffic between the nodes ------------------------------------------------------------------

-- What waits to be shipped to another node, in order of position. `body` is interpreted by its kind.
CREATE TABLE outbox (
    pos INTEGER PRIMARY KEY,
    destination TEXT NOT NULL,
    kind TEXT NOT NULL,
    room_nid INTEGER,
    event_nid INTEGER,
    body BLOB
);
CREATE INDEX outbox_destination ON outbox (destination, pos);

-- How far the outbox of another node has been applied here: what makes a shipment happen once.
CREATE TABLE inbox (
    source TEXT PRIMARY KEY,
    pos INTEGER NOT NULL
);

-- Messages that came straight from another node, as keyed hashes: so that a repeated request delivers nothing twice.
CREATE TABLE received_messages (
    message_key BLOB PRIMARY KEY,
    ts INTEGER NOT NULL
);
CREATE INDEX received_messages_ts ON received_messages (ts);

-- Work that a service below asks of one above (see docs/architecture.md): consumed by a job.
CREATE TABLE chores (
    chore_nid INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    user_nid INTEGER REFERENCES residents (user_nid),
    body BLOB NOT NULL
);
CREATE INDEX chores_kind ON chores (kind, chore_nid);
