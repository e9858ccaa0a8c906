-- Sticky events: those that every member is given once while they last.

-- pos: where clients find it: no token of this node had passed it when the event got its place in the timeline.
-- expires_ts: milliseconds since 1970.
CREATE TABLE sticky_events (
    event_nid INTEGER PRIMARY KEY,
    room_nid INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    expires_ts INTEGER NOT NULL
);
CREATE INDEX sticky_events_room ON sticky_events (room_nid, pos);
CREATE INDEX sticky_events_expiry ON sticky_events (expires_ts);

-- Events that another server is sent though they are older than its part in their room, at a place of their own in the
-- order of what it is sent.
CREATE TABLE peer_events (
    pos INTEGER PRIMARY KEY,
    server TEXT NOT NULL,
    room_nid INTEGER NOT NULL,
    event_nid INTEGER NOT NULL
);
CREATE INDEX peer_events_server ON peer_events (server, pos);
CREATE INDEX peer_events_room ON peer_events (room_nid);

-- For how many milliseconds the event will be sticky once it is sent; NULL: it will not be.
ALTER TABLE delayed_events ADD COLUMN sticky_ms INTEGER;
