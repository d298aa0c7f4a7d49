-- Queues of runs, and limits for steps. Times are as in the first schema.

CREATE TABLE stepwell_queues (
    -- Queues and limits, by the name that code gives them. A bound of NULL does not bound.
    name TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
    kind TEXT NOT NULL CHECK (kind = 'queue' OR kind = 'limit'),
    -- What code said last, as JSON. Only when code says something else it replaces the bounds below, so what an operator
    -- changed stays in force.
    declared TEXT NOT NULL,
    concurrency INTEGER CHECK (concurrency >= 1),
    per_worker INTEGER CHECK (per_worker >= 1),
    partition_concurrency INTEGER CHECK (partition_concurrency >= 1),
    -- At most so many starts in any window of so many microseconds.
    rate_limit INTEGER CHECK (rate_limit >= 1),
    rate_per INTEGER CHECK (rate_per >= 1),
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused = 0 OR paused = 1),
    changed_at INTEGER NOT NULL,
    -- How many entries are in each state; changed in the transaction that moves the entries.
    delayed INTEGER NOT NULL DEFAULT 0 CHECK (delayed >= 0),
    waiting INTEGER NOT NULL DEFAULT 0 CHECK (waiting >= 0),
    running INTEGER NOT NULL DEFAULT 0 CHECK (running >= 0),
    -- How many rows of stepwell_starts it has, and how many of its entries have start_unknown.
    starts INTEGER NOT NULL DEFAULT 0 CHECK (starts >= 0),
    unconfirmed INTEGER NOT NULL DEFAULT 0 CHECK (unconfirmed >= 0),
    last_start_at INTEGER NOT NULL DEFAULT 0,
    -- Counts up: the order of waiting (place of an entry) and of turns (turn of a lane), independent of any clock.
    tickets INTEGER NOT NULL DEFAULT 0,
    CHECK ((rate_limit IS NULL) = (rate_per IS NULL)),
    CHECK (kind = 'queue' OR (per_worker IS NULL AND partition_concurrency IS NULL AND delayed = 0))
) STRICT, WITHOUT ROWID;

CREATE TABLE stepwell_entries (
    -- A run that stands in a queue (op = 0) until it ends, or an operation of a run that waits for, or has, a permit of a
    -- limit.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    op INTEGER NOT NULL CHECK (op >= 0),
    queue TEXT NOT NULL REFERENCES stepwell_queues (name),
    partition TEXT NOT NULL,
    -- Empty for permits: whoever frees one grants it to whoever is next.
    workflow TEXT NOT NULL,
    -- Higher goes first, then the lower place. A delayed entry has its place when it begins to wait.
    priority INTEGER NOT NULL,
    place INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state = 'waiting' OR state = 'running' OR state = 'delayed'),
    -- When it begins to wait, or began to.
    ready_at INTEGER NOT NULL,
    dedup TEXT,
    -- Debounced: the latest ready_at that a later start may give it. The dedup key is free again once it runs.
    latest_at INTEGER,
    -- It collects the inputs of further starts, and has so many items.
    items INTEGER CHECK (items >= 1),
    -- 1: it got a permit of a limit with a rate, and nobody has said when its attempt started. Counts as a start now.
    start_unknown INTEGER NOT NULL DEFAULT 0 CHECK (start_unknown = 0 OR (start_unknown = 1 AND state = 'running')),
    -- Of a permit: the epoch of the worker that had the run in memory when it was granted, or kept. NULL: none had, so
    -- the attempt cannot have started.
    holder INTEGER,
    PRIMARY KEY (run, op),
    CHECK (items IS NULL OR state = 'delayed'),
    CHECK (latest_at IS NULL OR dedup IS NOT NULL OR state = 'running')
) STRICT, WITHOUT ROWID;

CREATE INDEX stepwell_entries_waiting ON stepwell_entries (queue, workflow, partition, priority DESC, place)
    WHERE state = 'waiting';
CREATE INDEX stepwell_entries_delayed ON stepwell_entries (queue, ready_at) WHERE state = 'delayed';
CREATE UNIQUE INDEX stepwell_entries_by_dedup ON stepwell_entries (queue, dedup) WHERE dedup IS NOT NULL;
CREATE UNIQUE INDEX stepwell_entries_collecting ON stepwell_entries (queue, workflow, partition)
    WHERE items IS NOT NULL;

CREATE TABLE stepwell_lanes (
    -- The entries of one workflow in one partition, counted. All lanes of a partition have its turn, and its busy and
    -- blocked, so that a decision finds what it may take with one look into an index.
    queue TEXT NOT NULL REFERENCES stepwell_queues (name),
    partition TEXT NOT NULL,
    workflow TEXT NOT NULL,
    waiting INTEGER NOT NULL CHECK (waiting >= 0),
    -- How many entries of the whole partition are running.
    busy INTEGER NOT NULL CHECK (busy >= 0),
    -- 1: that is as many as the queue's partition_concurrency.
    blocked INTEGER NOT NULL CHECK (blocked = 0 OR blocked = 1),
    -- The partition with the lowest turn is the next to give an entry.
    turn INTEGER NOT NULL,
    PRIMARY KEY (queue, partition, workflow)
) STRICT, WITHOUT ROWID;

CREATE INDEX stepwell_lanes_open ON stepwell_lanes (queue, workflow, turn) WHERE waiting > 0 AND blocked = 0;
CREATE INDEX stepwell_lanes_busy ON stepwell_lanes (queue) WHERE busy > 0;
-- Empty at the end of each transaction: lanes of nothing are deleted, but for those without a partition.
CREATE INDEX stepwell_lanes_idle ON stepwell_lanes (queue) WHERE waiting = 0 AND busy = 0 AND partition <> '';

CREATE TABLE stepwell_starts (
    -- The starts that a rate has to heed; deleted once they have left the window.
    queue TEXT NOT NULL REFERENCES stepwell_queues (name),
    at INTEGER NOT NULL,
    run INTEGER NOT NULL,
    op INTEGER NOT NULL,
    PRIMARY KEY (queue, at, run, op)
) STRICT, WITHOUT ROWID;

CREATE TABLE stepwell_batch_items (
    -- The inputs of the starts that a run has collected, in order; together they are its input.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    number INTEGER NOT NULL,
    input ANY,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;

ALTER TABLE stepwell_runs ADD COLUMN queue
    /* The queue that it was started in. */
    TEXT;
ALTER TABLE stepwell_runs ADD COLUMN queued
    /* 1: it has not been taken from there yet. Then only its turn makes it run. */
    INTEGER NOT NULL DEFAULT 0 CHECK (queued = 0 OR (queued = 1 AND status = 'pending' AND queue IS NOT NULL));

DROP INDEX stepwell_runs_pending;
CREATE INDEX stepwell_runs_pending ON stepwell_runs (workflow)
    WHERE status = 'pending' AND queued = 0 AND crashes < 2;

-- What ends although nobody has begun it: at once where it is cancelled (whoever asked for that may have died before it
-- ended it), else at its deadline.
CREATE INDEX stepwell_runs_by_deadline ON stepwell_runs (coalesce(cancel_requested_at, deadline_at))
    WHERE coalesce(cancel_requested_at, deadline_at) IS NOT NULL AND status = 'pending' AND started_at IS NULL;

CREATE VIEW stepwell_queue_view AS
-- Queues and limits for human eyes.
SELECT
    queue.name AS name,
    queue.kind AS kind,
    queue.paused AS paused,
    queue.delayed AS delayed,
    queue.waiting AS waiting,
    queue.running AS running,
    queue.concurrency AS concurrency,
    queue.per_worker AS per_worker,
    queue.partition_concurrency AS partition_concurrency,
    queue.rate_limit AS rate_limit,
    queue.rate_per / 1e6 AS rate_per_seconds,
    strftime('%Y-%m-%dT%H:%M:%fZ', queue.changed_at / 1e6, 'unixepoch') AS changed_at
FROM stepwell_queues AS queue;

CREATE VIEW stepwell_entry_view AS
-- What stands in queues, and what waits for permits or has them.
SELECT
    entry.queue AS queue,
    run.id AS run_id,
    nullif(entry.op, 0) AS operation,
    entry.state AS state,
    nullif(entry.partition, '') AS partition,
    entry.priority AS priority,
    entry.dedup AS dedup,
    strftime('%Y-%m-%dT%H:%M:%fZ', entry.ready_at / 1e6, 'unixepoch') AS ready_at
FROM stepwell_entries AS entry
JOIN stepwell_runs AS run ON run.key = entry.run;
