-- Application services: their place in the stream, transactions that wait.

-- How far a service whose users rest here has been sent what is for it, and the transaction that it has not answered
-- with success: that is repeated to the byte. Owned by the service's own user.
CREATE TABLE application_services (
    service TEXT PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    sent_pos INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    retry_ts INTEGER NOT NULL DEFAULT 0,
    txn_id TEXT,
    txn_upto INTEGER,
    txn_body BLOB
);
CREATE INDEX application_services_sent ON application_services (sent_pos);

-- What is for services, one row for all of them: at a position of this node, an event, a receipt (of everybody or of the
-- user alone) or a message to a device. ref_nid: the row id of the event, the room, the user or the device, by kind.
-- services: a JSON array of ids.
CREATE TABLE service_items (
    pos INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    ref_nid INTEGER NOT NULL,
    services TEXT NOT NULL
);

-- The rooms that services publish in the directories of their networks.
CREATE TABLE network_rooms (
    network TEXT NOT NULL,
    room_nid INTEGER NOT NULL,
    PRIMARY KEY (network, room_nid)
);
CREATE INDEX network_rooms_room ON network_rooms (room_nid);
