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

-- Bounds of each partition of a queue ----------------------------------------------------------------------------------

-- How many runs of one partition one worker takes, and how many start in any window of so many microseconds.
ALTER TABLE stepwell_queues ADD COLUMN partition_per_worker INTEGER CHECK (partition_per_worker >= 1);
ALTER TABLE stepwell_queues ADD COLUMN partition_rate_limit INTEGER CHECK (partition_rate_limit >= 1);
ALTER TABLE stepwell_queues ADD COLUMN partition_rate_per INTEGER
    CHECK (partition_rate_per >= 1 AND (partition_rate_limit IS NULL) = (partition_rate_per IS NULL));

CREATE TABLE stepwell_partition_starts (
    -- The starts that the rate of a partition has to heed, as stepwell_starts are for that of a queue.
    queue TEXT NOT NULL REFERENCES stepwell_queues (name),
    partition TEXT NOT NULL,
    at INTEGER NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (queue, partition, at, run)
) STRICT, WITHOUT ROWID;

CREATE INDEX stepwell_partition_starts_by_time ON stepwell_partition_starts (queue, at);

-- Blocked by the rate of its partition until then. A lane of nothing is kept so long.
ALTER TABLE stepwell_lanes ADD COLUMN opens_at INTEGER CHECK (opens_at IS NULL OR blocked = 1);
CREATE INDEX stepwell_lanes_opening ON stepwell_lanes (queue, opens_at) WHERE opens_at IS NOT NULL;
DROP INDEX stepwell_lanes_idle;
CREATE INDEX stepwell_lanes_idle ON stepwell_lanes (queue)
    WHERE waiting = 0 AND busy = 0 AND partition <> '' AND opens_at IS NULL;
