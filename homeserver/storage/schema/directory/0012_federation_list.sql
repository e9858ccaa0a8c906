-- The federation list that was believed last, whole and signed: it is read again at each start. One row.
CREATE TABLE federation_list (
    place INTEGER NOT NULL PRIMARY KEY,
    document BLOB NOT NULL,
    serial INTEGER NOT NULL,
    taken_ts INTEGER NOT NULL,
    checked_ts INTEGER NOT NULL
);
