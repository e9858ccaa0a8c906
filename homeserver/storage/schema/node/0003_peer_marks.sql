-- What a node remembers of other servers over time.

-- Its position at moments (milliseconds since 1970) an hour apart, so that it is known what is older than a moment.
CREATE TABLE peer_marks (
    ts INTEGER PRIMARY KEY,
    pos INTEGER NOT NULL
);

-- A server that was away for too long: of what was for it up to gone_upto it gets the newest event of each room.
-- gone_since: it is to be told of the residents whose keys changed from there up to gone_upto. NULL: it was.
ALTER TABLE peers ADD COLUMN gone_upto INTEGER NOT NULL DEFAULT 0;
ALTER TABLE peers ADD COLUMN gone_since INTEGER;
