-- Nodes that were down when another server sent word of a change of its users' keys: their copies of such keys are not
-- to be believed. It stands here because it could not be written there.
CREATE TABLE missed_lists (
    node TEXT PRIMARY KEY,
    mark INTEGER NOT NULL
);
