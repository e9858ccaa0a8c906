-- Finding users.

-- The display name that a member event gives, in lower case; none where it gives none.
CREATE TABLE member_names (
    event_nid INTEGER PRIMARY KEY,
    name TEXT NOT NULL
);

-- Events of the state that open a room to everybody: a join rule `public`, a history visibility `world_readable`.
CREATE TABLE openings (
    event_nid INTEGER PRIMARY KEY
);
