-- What is known of work that is under way before it has ended: how far steps, maps and polls are. One section for each thing,
-- as in 0007_talk.sql. Times are as in the first schema.

-- Progress -------------------------------------------------------------------------------------------------------------

CREATE TABLE stepwell_progress (
    -- How far the operations of runs are, by their own account; written over in place, so an operation has one row, however
    -- often it says something. It stays when the operation has ended, and goes with its run.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    -- Of a map the first operation that it called.
    op INTEGER NOT NULL CHECK (op >= 1),
    -- 'step': an attempt said it. 'map': counted. 'poll': a step that is repeated until what it returns fits; `done` are the
    -- attempts that returned something else.
    kind TEXT NOT NULL CHECK (kind = 'step' OR kind = 'map' OR kind = 'poll'),
    name TEXT NOT NULL CHECK (name <> ''),
    -- The attempt that said it last; 0 for a map.
    attempt INTEGER NOT NULL CHECK (attempt >= 0),
    done ANY NOT NULL CHECK (typeof(done) IN ('integer', 'real')),
    -- What `done` will be in the end; NULL: nobody knows.
    total ANY CHECK (typeof(total) IN ('integer', 'real', 'null')),
    -- How many items of a map failed.
    failed INTEGER NOT NULL DEFAULT 0 CHECK (failed >= 0),
    note TEXT,
    began_at INTEGER NOT NULL,
    at INTEGER NOT NULL,
    -- When a poll is due again.
    next_at INTEGER CHECK (next_at IS NULL OR kind = 'poll'),
    -- 1: the operation has ended.
    ended INTEGER NOT NULL DEFAULT 0 CHECK (ended = 0 OR ended = 1),
    PRIMARY KEY (run, op, kind)
) STRICT, WITHOUT ROWID;

CREATE VIEW stepwell_progress_view AS
-- Progress for human eyes.
SELECT
    run.id AS run_id,
    progress.op AS op,
    progress.kind AS kind,
    progress.name AS name,
    nullif(progress.attempt, 0) AS attempt,
    progress.done AS done,
    progress.total AS total,
    progress.failed AS failed,
    progress.note AS note,
    strftime('%Y-%m-%dT%H:%M:%fZ', (progress.began_at - run.ahead) / 1e6, 'unixepoch') AS began_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (progress.at - run.ahead) / 1e6, 'unixepoch') AS at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (progress.next_at - run.ahead) / 1e6, 'unixepoch') AS next_at,
    progress.ended AS ended
FROM stepwell_progress AS progress
JOIN stepwell_runs AS run ON run.key = progress.run;
