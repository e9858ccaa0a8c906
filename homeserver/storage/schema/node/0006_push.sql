-- Notifications on their way to push gateways: what waits is not written down, it is found again in the timelines.
-- set_ts: when the pusher was set. pushed_to: position up to which its owner has been told, or is not to be told.
-- failures: attempts in a row that failed, the first at failing_ts; before retry_ts there is no other. Times are
-- milliseconds since 1970.
ALTER TABLE pushers ADD COLUMN set_ts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pushers ADD COLUMN pushed_to INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pushers ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pushers ADD COLUMN failing_ts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pushers ADD COLUMN retry_ts INTEGER NOT NULL DEFAULT 0;
UPDATE pushers SET pushed_to = (SELECT position FROM stream WHERE id = 1);
