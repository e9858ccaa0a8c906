-- Events to be sent later; dehydrated devices.

-- What residents want to be sent later. delay_id: the secret by which it is managed; txn_key: of the request that asked
-- for it. running_since: since when the delay runs; due_ts: when it is to be sent, NULL once it is over; ended_ts: since
-- when. action: NULL while it waits, "send" from when it is being sent, "cancel". content: JSON, NULL once it is over.
-- Times are milliseconds since 1970.
CREATE TABLE delayed_events (
    delayed_nid INTEGER PRIMARY KEY,
    delay_id TEXT NOT NULL UNIQUE,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_nid INTEGER NOT NULL,
    txn_key BLOB UNIQUE,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT,
    content BLOB,
    delay_ms INTEGER NOT NULL,
    running_since INTEGER NOT NULL,
    due_ts INTEGER,
    ended_ts INTEGER,
    action TEXT
);
CREATE INDEX delayed_events_due ON delayed_events (due_ts, delayed_nid);
CREATE INDEX delayed_events_user ON delayed_events (user_nid, due_ts);
CREATE INDEX delayed_events_ended ON delayed_events (ended_ts);

-- The device of a user that nobody is logged in on: it takes messages for devices to come. device_data: what opens it,
-- encrypted by the user's clients, as JSON.
CREATE TABLE dehydrated_devices (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    device_nid INTEGER NOT NULL,
    device_data BLOB NOT NULL,
    PRIMARY KEY (user_nid)
);
