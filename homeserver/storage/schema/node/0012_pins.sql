-- Why a resident was pinned to this node, and when (milliseconds since 1970). how: phone, token, phone and token, choice,
-- default, or who named the node: admin, service, provider. rule: the conditions of the pin rule that matched, or ''.
CREATE TABLE pins (
    user_nid INTEGER PRIMARY KEY REFERENCES residents (user_nid),
    how TEXT NOT NULL,
    rule TEXT NOT NULL,
    ts INTEGER NOT NULL
);
CREATE INDEX pins_rule ON pins (rule, user_nid) WHERE rule <> '';
