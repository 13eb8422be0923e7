-- Ten million events in half a gigabyte: what an engine says again and again stands once, and an event is a row of
-- references and the few bytes that vary. See ARCHITECTURE.md, "The layout". Readable with SQLite alone: the views
-- `events`, `gaps` and `rejected_lines` show all of it plainly.

-- The events of the schema before, until they are moved (in the same transaction).
DROP INDEX event_by_time;
DROP INDEX event_by_action;
DROP INDEX event_by_type;
DROP INDEX event_by_actor;
DROP INDEX event_by_name;
ALTER TABLE event RENAME TO old_event;
ALTER TABLE gap RENAME TO old_gap;
ALTER TABLE rejected RENAME TO old_rejected;

-- The line of an event with holes in it, each a control character: 1 type, 2 action, 3 actor's ID, 4 image,
-- 5 attributes, 6 seconds, 7 nanoseconds.
CREATE TABLE form (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;

-- What is said: query --type, --action, --scope look here first. Without a form the event's line stands in `verbatim`.
CREATE TABLE shape (
    id     INTEGER PRIMARY KEY,
    type   TEXT NOT NULL,
    action TEXT NOT NULL,
    scope  TEXT NOT NULL,
    exec   INTEGER NOT NULL, -- whether its events have an exec_id
    form   INTEGER REFERENCES form (id)
) STRICT;
CREATE UNIQUE INDEX shape_by_action ON shape (action, type, scope, exec, form);

-- One attribute of actors that many have: labels, the image.
CREATE TABLE label (
    id    INTEGER PRIMARY KEY,
    key   TEXT NOT NULL,
    value TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX label_by_key ON label (key, value);

-- Whom it is said of: an ID with the attributes that stay. `labels` is a JSON array of label.id, in the order of their
-- keys; query --container looks at the beginnings of `actor_id` and `name`.
CREATE TABLE actor (
    id       INTEGER PRIMARY KEY,
    source   INTEGER NOT NULL REFERENCES source (id),
    actor_id TEXT NOT NULL,
    name     TEXT,
    labels   TEXT NOT NULL
) STRICT;
CREATE INDEX actor_by_id ON actor (actor_id);
CREATE INDEX actor_by_name ON actor (name) WHERE name IS NOT NULL;

-- One event. `seq` counts everything that is stored, events, gaps and rejected lines together, in order of arrival.
-- The attributes that vary: 64 hexadecimal digits as 32 bytes, a number as a number, all else as text; but an `exec_id`
-- that is a number names the event before that has the same.
CREATE TABLE event (
    seq           INTEGER PRIMARY KEY,
    time_nano     INTEGER NOT NULL,
    late_nano     INTEGER, -- how long after `time_nano` it was read; null where `arrival` says it for many
    shape         INTEGER NOT NULL,
    actor         INTEGER NOT NULL,
    exec_id       ANY,
    exit_code     ANY,
    exec_duration ANY,
    signal        ANY,
    container     ANY
) STRICT;
-- query --container, --label, --image: the actors are found first, and then their events.
CREATE INDEX event_by_actor ON event (actor);
-- query --action start: of the flood of health checks, which is three quarters, no index would help.
CREATE INDEX event_by_shape ON event (shape) WHERE exec_id IS NULL;

-- When events were read that were read together: from this one on.
CREATE TABLE arrival (
    first_seq     INTEGER PRIMARY KEY,
    received_nano INTEGER NOT NULL
) STRICT;

-- The line of an event that does not come out of form and actor byte for byte.
CREATE TABLE verbatim (
    seq INTEGER PRIMARY KEY,
    raw TEXT NOT NULL
) STRICT;

-- The events in stretches of some thousands: from when to when, and (a JSON array of shape.id, null if they are too
-- many) what is in it. In place of an index on time, which would cost more than half of all.
CREATE TABLE stretch (
    first_seq INTEGER PRIMARY KEY,
    last_seq  INTEGER NOT NULL,
    events    INTEGER NOT NULL,
    min_nano  INTEGER NOT NULL,
    max_nano  INTEGER NOT NULL,
    shapes    TEXT
) STRICT;

-- What became known of gaps, in order: the last row of one beginning holds. Without a reason it is withdrawn.
CREATE TABLE gap (
    seq       INTEGER PRIMARY KEY,
    source    INTEGER NOT NULL REFERENCES source (id),
    from_nano INTEGER,
    to_nano   INTEGER,
    reason    TEXT,
    detail    TEXT
) STRICT;

CREATE TABLE rejected (
    seq           INTEGER PRIMARY KEY,
    source        INTEGER NOT NULL REFERENCES source (id),
    received_nano INTEGER NOT NULL,
    error         TEXT NOT NULL,
    bytes         BLOB NOT NULL
) STRICT;

-- The hash chain over everything, in the order of `seq`: the hash after that entry, for some of them.
CREATE TABLE link (
    seq  INTEGER PRIMARY KEY,
    hash BLOB NOT NULL
) STRICT;

-- For people and other programs.
CREATE VIEW events AS
SELECT e.seq,
       source.name AS source,
       strftime('%Y-%m-%dT%H:%M:%S', e.time_nano / 1000000000, 'unixepoch')
           || printf('.%09dZ', e.time_nano % 1000000000) AS time,
       shape.type,
       shape.action,
       actor.actor_id,
       actor.name,
       (SELECT label.value FROM json_each(actor.labels) AS j JOIN label ON label.id = j.value
        WHERE label.key = 'image') AS image,
       json_patch(
           (SELECT json_group_object(key, value) FROM (
                SELECT label.key, label.value FROM json_each(actor.labels) AS j JOIN label ON label.id = j.value
                UNION ALL SELECT 'name', actor.name WHERE actor.name IS NOT NULL)),
           json_object(
               'container', iif(typeof(container) = 'blob', lower(hex(container)), CAST(container AS TEXT)),
               'execDuration', CAST(exec_duration AS TEXT),
               'execID', CASE typeof(exec_id)
                   WHEN 'blob' THEN lower(hex(exec_id))
                   WHEN 'integer' THEN (SELECT lower(hex(same.exec_id)) FROM event AS same WHERE same.seq = e.exec_id)
                   ELSE exec_id END,
               'exitCode', CAST(exit_code AS TEXT),
               'signal', CAST(signal AS TEXT))) AS attributes,
       e.time_nano
FROM event AS e
JOIN shape ON shape.id = e.shape
JOIN actor ON actor.id = e.actor
JOIN source ON source.id = actor.source;

CREATE VIEW gaps AS
SELECT gap.seq, source.name AS source, from_nano, to_nano, reason, detail
FROM gap JOIN source ON source.id = gap.source
WHERE reason IS NOT NULL
  AND gap.seq = (SELECT max(later.seq) FROM gap AS later
                 WHERE later.source = gap.source AND later.from_nano IS gap.from_nano);
