-- Moving users from node to node (homeserver/residency/moves).

-- A move away from here, until what was here has been erased. state: how far it has come; halted: it is not going on,
-- NULL, "stopped" or "failed"; wish: what was asked, as JSON; reason: why it failed, or what it waits for. Times are
-- milliseconds since 1970.
CREATE TABLE departures (
    user_nid INTEGER PRIMARY KEY REFERENCES residents (user_nid),
    move_id TEXT NOT NULL UNIQUE,
    target TEXT NOT NULL,
    state TEXT NOT NULL,
    halted TEXT,
    wish BLOB NOT NULL,
    reason TEXT,
    begun_ts INTEGER NOT NULL,
    changed_ts INTEGER NOT NULL
);

-- A move to here. state: "staging" until all of it has been unpacked, "unpacked" until the directory says that the user
-- is here, "erasing" until nothing is left to be done elsewhere. account: what the receipt is made of, as JSON.
CREATE TABLE arrivals (
    move_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    source TEXT NOT NULL,
    state TEXT NOT NULL,
    account BLOB NOT NULL
);

-- The rows of who is on the way here, in a form that means nothing to anybody but the move: Matrix ids and JSON.
-- place: the position of the row on the source.
CREATE TABLE staged_rows (
    move_id TEXT NOT NULL,
    table_name TEXT NOT NULL,
    row_key TEXT NOT NULL,
    content BLOB NOT NULL,
    place INTEGER,
    PRIMARY KEY (move_id, table_name, row_key)
);

-- Where a resident was at home before: until which position of that node, and at which position of the next the next
-- epoch of their tokens began.
CREATE TABLE earlier_homes (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    epoch INTEGER NOT NULL,
    node TEXT NOT NULL,
    left_pos INTEGER NOT NULL,
    came_pos INTEGER NOT NULL,
    PRIMARY KEY (user_nid, epoch)
);

-- Where events of a room's timeline here stand on a node from which residents came, who may have been told of them there.
CREATE TABLE places_elsewhere (
    node TEXT NOT NULL,
    room_nid INTEGER NOT NULL,
    node_pos INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    PRIMARY KEY (node, room_nid, node_pos)
);

-- Messages to devices that came with their owner, and the positions that they had before.
CREATE TABLE carried_letters (
    pos INTEGER PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_nid INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    node_pos INTEGER NOT NULL
);
CREATE INDEX carried_letters_user ON carried_letters (user_nid);
CREATE INDEX carried_letters_device ON carried_letters (device_nid, pos);

-- What both nodes have signed of moves that have ended here; they go on with the resident.
CREATE TABLE move_receipts (
    move_id TEXT PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    ended_ts INTEGER NOT NULL,
    receipt BLOB NOT NULL
);
CREATE INDEX move_receipts_user ON move_receipts (user_nid);

-- A resident who leaves is looked for in every table.
CREATE INDEX to_device_user ON to_device (user_nid);
CREATE INDEX one_time_keys_user ON one_time_keys (user_nid);
CREATE INDEX fallback_keys_user ON fallback_keys (user_nid);
CREATE INDEX sliding_positions_user ON sliding_positions (user_nid);
CREATE INDEX peer_edus_user ON peer_edus (user_nid);
CREATE INDEX chores_user ON chores (user_nid);
CREATE INDEX application_services_user ON application_services (user_nid);
CREATE INDEX event_transactions_sender ON event_transactions (sender_nid);
CREATE INDEX receipts_user ON receipts (user_nid);
CREATE INDEX aliases_creator ON aliases (creator_nid);
