-- What letting go of texts needs that no event uses any more (`store/sweep.rs`), and what finds one of very many actors
-- of one ID.

-- One row: the highest IDs that were ever given, for rows go and an ID that was given is never given again; how many
-- events had been pruned when the texts were last swept, and when that was.
CREATE TABLE swept (
    id         INTEGER PRIMARY KEY,
    actor      INTEGER NOT NULL,
    label      INTEGER NOT NULL,
    shape      INTEGER NOT NULL,
    form       INTEGER NOT NULL,
    events     INTEGER NOT NULL,
    swept_nano INTEGER NOT NULL
) STRICT;
INSERT INTO swept
SELECT 1,
       (SELECT ifnull(max(id), 0) FROM actor),
       (SELECT ifnull(max(id), 0) FROM label),
       (SELECT ifnull(max(id), 0) FROM shape),
       (SELECT ifnull(max(id), 0) FROM form),
       0,
       0;

-- The newest actor was never let go of, and nobody came back for it.
DELETE FROM actor
WHERE EXISTS (SELECT 1 FROM seal) AND NOT EXISTS (SELECT 1 FROM event WHERE event.actor = actor.id);

-- Some bits of a digest of what an actor is beside its ID. Most IDs have one or two such sets of attributes, the daemon's
-- (which is empty) has as many as there were events of it: `record` finds the one among them by this.
ALTER TABLE actor ADD COLUMN digest INTEGER;
DROP INDEX actor_by_id;
-- query --container, by the beginning of an ID; and the above.
CREATE INDEX actor_by_id ON actor (actor_id, digest);
