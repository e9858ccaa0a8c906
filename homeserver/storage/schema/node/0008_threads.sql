-- Threads and their subscriptions; reports.

-- The threads of a room. latest_pos: where the newest event of the thread stands in the timeline; NULL: it has none left.
CREATE TABLE threads (
    room_nid INTEGER NOT NULL,
    root_id TEXT NOT NULL,
    latest_pos INTEGER,
    PRIMARY KEY (room_nid, root_id)
);
CREATE INDEX threads_by_activity ON threads (room_nid, latest_pos);
INSERT INTO threads (room_nid, root_id, latest_pos)
SELECT e.room_nid, r.parent_id, MAX(e.pos) FROM relations r JOIN events e ON e.event_nid = r.child_nid
WHERE r.rel_type = 'm.thread' AND e.verdict = 0 AND e.pos IS NOT NULL GROUP BY e.room_nid, r.parent_id;

-- What residents report to the operator. about: the user whom, or whose event, they report; room_id, event_id: as far as
-- they name them.
CREATE TABLE reports (
    report_id INTEGER PRIMARY KEY,
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    ts INTEGER NOT NULL,
    room_id TEXT,
    event_id TEXT,
    about TEXT,
    reason TEXT NOT NULL
);
CREATE INDEX reports_user ON reports (user_nid, report_id);

-- The threads that residents follow, or have said not to. pos: the position at which they said so last; automatic:
-- their client said it for them, since they were mentioned.
CREATE TABLE thread_subscriptions (
    user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
    room_nid INTEGER NOT NULL,
    root_id TEXT NOT NULL,
    pos INTEGER NOT NULL,
    subscribed INTEGER NOT NULL,
    automatic INTEGER NOT NULL,
    PRIMARY KEY (user_nid, room_nid, root_id)
);
CREATE INDEX thread_subscriptions_changes ON thread_subscriptions (user_nid, pos);
