-- What `verify` needs to prove that nothing was edited, and what a gap needs to say what must have happened in it.

-- What sources are called, in the order it became so: the last row of one holds. `source.name` repeats it; this one is
-- in the chain.
CREATE TABLE naming (
    seq    INTEGER PRIMARY KEY,
    source INTEGER NOT NULL REFERENCES source (id),
    name   TEXT NOT NULL
) STRICT;

-- How far the engine's clock is ahead of the recorder's, when it was last asked.
ALTER TABLE source ADD COLUMN skew_nano INTEGER;

-- What the engine said of itself on `/version` (JSON), when it was last asked.
ALTER TABLE source ADD COLUMN version TEXT;

-- The containers an engine had when it was last asked (a JSON array), so that a gap can say which came and went.
CREATE TABLE snapshot (
    source     INTEGER PRIMARY KEY REFERENCES source (id),
    taken_nano INTEGER NOT NULL,
    containers TEXT NOT NULL
) STRICT;

-- A beginning of the chain that was pruned: up to and with the sequence `upto`, where the chain's hash was `hash`. From
-- there the chain is proven now; the last row holds, and counts all that was ever pruned.
CREATE TABLE seal (
    seq         INTEGER PRIMARY KEY,
    upto        INTEGER NOT NULL,
    hash        BLOB NOT NULL,
    events      INTEGER NOT NULL,
    sealed_nano INTEGER NOT NULL
) STRICT;
