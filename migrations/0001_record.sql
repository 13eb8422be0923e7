-- What `record` keeps, and what `query`, `gaps`, `rejected` and `status` ask.

-- One row an engine. Its identity is the engine's own ID; a row without one holds imported events.
CREATE TABLE source (
    id          INTEGER PRIMARY KEY,
    engine_id   TEXT UNIQUE,
    name        TEXT NOT NULL UNIQUE,
    host        TEXT,
    -- When it was last reached: of several engines that were at one host, the latest is the one that left it last.
    contacted_nano INTEGER,
    -- Kept so that `status` need not count ten million rows.
    events      INTEGER NOT NULL DEFAULT 0,
    rejected    INTEGER NOT NULL DEFAULT 0,
    first_nano  INTEGER,
    last_nano   INTEGER,
    -- The last event seen, stored or not: the proof of continuity starts from it.
    seen_nano   INTEGER,
    seen_digest BLOB
) STRICT;

-- One row an event, in order of arrival. `raw` is the event as the engine sent it; the columns beside it only serve
-- to find it. Instants are nanoseconds since the Unix epoch.
CREATE TABLE event (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    source        INTEGER NOT NULL REFERENCES source (id),
    time_nano     INTEGER NOT NULL,
    received_nano INTEGER NOT NULL,
    type          TEXT NOT NULL,
    action        TEXT NOT NULL,
    actor_id      TEXT NOT NULL,
    name          TEXT,
    raw           TEXT NOT NULL
) STRICT;

-- Every query's order and window; and "is this event here already?", asked at one instant.
CREATE INDEX event_by_time ON event (time_nano);
-- query --action start, with or without a type.
CREATE INDEX event_by_action ON event (action, time_nano);
-- query --type image: the types are few, and the rare ones are what is asked for.
CREATE INDEX event_by_type ON event (type, time_nano);
-- query --container web, by the beginning of an ID or of a name.
CREATE INDEX event_by_actor ON event (actor_id, time_nano);
CREATE INDEX event_by_name ON event (name, time_nano) WHERE name IS NOT NULL;

-- Where the record is blind. `to_nano` is null while it lasts; `from_nano` is null where nothing was seen before.
CREATE TABLE gap (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    source    INTEGER NOT NULL REFERENCES source (id),
    from_nano INTEGER,
    to_nano   INTEGER,
    reason    TEXT NOT NULL,
    detail    TEXT
) STRICT;

-- What came down a stream and was no event.
CREATE TABLE rejected (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    source        INTEGER NOT NULL REFERENCES source (id),
    received_nano INTEGER NOT NULL,
    error         TEXT NOT NULL,
    bytes         BLOB NOT NULL
) STRICT;
