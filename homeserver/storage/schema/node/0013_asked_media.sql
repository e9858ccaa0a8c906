-- When somebody asked for a medium last, as exactly as its retention needs it (milliseconds since 1970). NULL: not noted,
-- as long as media are kept for ever, and of what has been uploaded since it was looked last.
ALTER TABLE media ADD COLUMN asked_ts INTEGER;
CREATE INDEX media_asked ON media (asked_ts);
