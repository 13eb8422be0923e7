-- What `query --no-healthchecks` needs to leave out the health checks of containers, which are three quarters of a
-- typical history.

-- The command with which a container checks its health, as its exec events repeat it; empty for a container that was
-- seen and has none. Of a container that no row names nothing is left out. In the chain.
--
-- A command that `--redact` takes something out of does not tell its events from others: those that `record` knew to be
-- of a health check refer to a shape whose `exec` is 2, and the chain covers that.
CREATE TABLE healthcheck (
    seq       INTEGER PRIMARY KEY,
    source    INTEGER NOT NULL REFERENCES source (id),
    container TEXT NOT NULL,
    command   TEXT NOT NULL
) STRICT;
-- query --no-healthchecks asks for each container with exec events; `record` notes the same only once.
CREATE UNIQUE INDEX healthcheck_by_container ON healthcheck (source, container, command);

-- How many events `record --no-healthchecks` has left out; `status` shows it.
ALTER TABLE source ADD COLUMN healthchecks_left_out INTEGER NOT NULL DEFAULT 0;
