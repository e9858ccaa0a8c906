-- What somebody has sent, wherever: users are told how much of theirs rests on a node.
CREATE INDEX events_sender ON events (sender_nid);
