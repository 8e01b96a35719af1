-- Times are seconds since 1970-01-01T00:00:00Z, fingerprints are SHA-256, statuses are the codes of identity::Status.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE device (
    number            INTEGER PRIMARY KEY,
    folded            TEXT NOT NULL UNIQUE,      -- the id in lower case
    id                TEXT NOT NULL,             -- the id as first written
    standing          INTEGER NOT NULL,          -- 0 good, 1 suspended, 2 revoked
    created_at        INTEGER NOT NULL,
    last_seen_at      INTEGER,
    last_seen_address TEXT
) STRICT;

CREATE TABLE certificate (
    idx           INTEGER PRIMARY KEY,           -- the registry index; never used twice
    device        INTEGER REFERENCES device (number), -- NULL: a gateway's own certificate
    serial        BLOB NOT NULL,
    sha256        BLOB NOT NULL,
    tbs_sha256    BLOB NOT NULL,
    key_sha256    BLOB NOT NULL,                 -- of the SubjectPublicKeyInfo
    not_before    INTEGER NOT NULL,
    not_after     INTEGER NOT NULL,
    status        INTEGER NOT NULL,
    resume_status INTEGER,                       -- where a suspended certificate returns to
    class         INTEGER NOT NULL DEFAULT 0,
    issued_seq    INTEGER NOT NULL,
    changed_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX certificate_of_device ON certificate (device) WHERE device IS NOT NULL;
CREATE INDEX certificate_withdrawn ON certificate (status) WHERE status IN (4, 6, 7);

-- Apart from the rest, so that reading every status does not read every certificate.
CREATE TABLE certificate_der (
    idx INTEGER PRIMARY KEY REFERENCES certificate (idx),
    der BLOB NOT NULL
) STRICT;

-- One key belongs to one device for ever; a blocked one is not certified again.
CREATE TABLE device_key (
    sha256  BLOB PRIMARY KEY,
    device  INTEGER NOT NULL REFERENCES device (number),
    blocked INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX device_key_of_device ON device_key (device);

CREATE TABLE token (
    hash        BLOB PRIMARY KEY,                -- SHA-256 of the token; the token itself is kept nowhere
    device      INTEGER NOT NULL REFERENCES device (number),
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    voided      INTEGER NOT NULL DEFAULT 0,
    spent_key   BLOB,
    spent_index INTEGER REFERENCES certificate (idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX token_of_device ON token (device);

-- Ranges of indexes, handed out per class of lifetime so that whole segments expire together.
CREATE TABLE lease (
    lifetime INTEGER PRIMARY KEY,
    next     INTEGER NOT NULL,
    end      INTEGER NOT NULL                    -- exclusive
) STRICT;

CREATE TABLE journal (
    seq         INTEGER PRIMARY KEY,
    at          INTEGER NOT NULL,
    actor       TEXT NOT NULL,
    action      TEXT NOT NULL,
    subject     TEXT NOT NULL,
    device      INTEGER REFERENCES device (number),
    idx         INTEGER,
    status      INTEGER,
    certificate BLOB,
    reason      TEXT,
    hash        BLOB NOT NULL                    -- over the previous hash and every field above but device
) STRICT;
CREATE INDEX journal_of_device ON journal (device, seq) WHERE device IS NOT NULL;
