-- Groups and labels of devices. Sets of groups are interned: a certificate carries the number of its device's set.

CREATE TABLE class (
    number  INTEGER PRIMARY KEY,                 -- 1 … 65535, in the order of their making; never anything else afterwards
    members TEXT NOT NULL UNIQUE                 -- the groups in their order, with commas between them; never empty
) STRICT;

-- 0: in no group.
ALTER TABLE device ADD COLUMN class INTEGER NOT NULL DEFAULT 0;

CREATE TABLE label (
    device INTEGER NOT NULL REFERENCES device (number),
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (device, key)
) STRICT, WITHOUT ROWID;

-- All groups and labels of the device as of the entry, and the class; the hash is over it, too, where there is one.
ALTER TABLE journal ADD COLUMN labels TEXT;
