-- Several workers in several processes: runs have owners also while they wait, deaths of workers are counted, and notes
-- are left for owners. Times and payloads are as in the first schema.
--
-- stepwell_runs is built anew, by SQLite's procedure for changes that ALTER TABLE cannot make: a CHECK changes. Foreign
-- keys are off meanwhile. With legacy_alter_table the renaming at the end does not look at views, of which a user may
-- have some that read ours.

PRAGMA legacy_alter_table = ON;

DROP VIEW stepwell_run_view;
DROP VIEW stepwell_journal_view;
DROP VIEW stepwell_message_view;
DROP VIEW stepwell_worker_view;

CREATE TABLE stepwell_runs_anew (
    -- AUTOINCREMENT: a key names its run for ever; after a purge it must not name another one.
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The user's name for the run; the uniqueness is what makes a second start with the same id harmless.
    id TEXT NOT NULL UNIQUE CHECK (id <> ''),
    workflow TEXT NOT NULL,
    status TEXT NOT NULL CHECK (
        status = 'running' OR status = 'waiting' OR status = 'completed' OR status = 'pending'
        OR status = 'failed' OR status = 'cancelled' OR status = 'halted'
    ),
    input ANY,
    -- CRC-32 of workflow and input: tells a repeated start from another one with the same id.
    fingerprint INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    -- When the state was last changed, or a cancellation requested.
    updated_at INTEGER NOT NULL,
    -- When it first moved to running; the run's own clock begins there.
    started_at INTEGER,
    result ANY,
    error ANY,
    -- Why the run is pending, halted or cancelled.
    reason TEXT,
    -- The epoch of the worker (stepwell_workers) in whose memory the run is: nobody else acts on it, or writes its
    -- wake_at; others leave a note (stepwell_wakes). NULL: it is in no memory, and any worker may claim it.
    owner INTEGER,
    -- When a waiting run wants attention next; NULL: only when something arrives.
    wake_at INTEGER,
    deadline_at INTEGER,
    -- The run that started this one, and the operation in it. No foreign key: a parent may be purged first.
    parent INTEGER,
    parent_op INTEGER,
    -- 1: is cancelled when its parent ends.
    attached INTEGER NOT NULL DEFAULT 0 CHECK (attached = 0 OR attached = 1),
    cancel_requested_at INTEGER,
    cancel_reason TEXT,
    ended_at INTEGER,
    -- How many workers in a row died while they ran it, without a new line in its journal between two deaths.
    crashes INTEGER NOT NULL DEFAULT 0 CHECK (crashes >= 0),
    -- Its last position in the journal at the last of these deaths: beyond it, it has made progress.
    crash_position INTEGER NOT NULL DEFAULT 0,
    CHECK (status <> 'running' OR started_at IS NOT NULL),
    -- A running run is in a worker's memory; of the others only a waiting one can be.
    CHECK (status <> 'running' OR owner IS NOT NULL),
    CHECK (owner IS NULL OR status = 'running' OR status = 'waiting'),
    -- Only a waiting run has something to wait for.
    CHECK (wake_at IS NULL OR status = 'waiting'),
    -- A run that has ended says when, and never ends twice.
    CHECK ((status = 'completed' OR status = 'failed' OR status = 'cancelled') = (ended_at IS NOT NULL)),
    CHECK (result IS NULL OR status = 'completed'),
    CHECK ((error IS NOT NULL) = (status = 'failed')),
    -- No run is stuck without a stated reason.
    CHECK (status <> 'halted' OR reason IS NOT NULL),
    CHECK (parent IS NOT NULL OR (parent_op IS NULL AND attached = 0)),
    CHECK (cancel_reason IS NULL OR cancel_requested_at IS NOT NULL)
) STRICT;

-- Nobody else has the file open while it is migrated: what was running has lost its worker, and is due.
INSERT INTO stepwell_runs_anew
SELECT key, id, workflow, iif(status = 'running', 'waiting', status), input, fingerprint, created_at, updated_at,
    started_at, result, error, reason, NULL, iif(status = 'running', updated_at, wake_at), deadline_at, parent,
    parent_op, attached, cancel_requested_at, cancel_reason, ended_at, 0, 0
FROM stepwell_runs;

-- The keys of purged runs stay used.
DELETE FROM sqlite_sequence WHERE name = 'stepwell_runs_anew';
INSERT INTO sqlite_sequence (name, seq)
SELECT 'stepwell_runs_anew', seq FROM sqlite_sequence WHERE name = 'stepwell_runs';

DROP TABLE stepwell_runs;
ALTER TABLE stepwell_runs_anew RENAME TO stepwell_runs;

-- The indexes are partial, so that claims, timers and listings of what needs attention read only what they return,
-- however many runs are parked, over, or in the memory of others; and so that an ordinary run pays for few of them.
-- What can be claimed when its time comes. Runs that seem to kill their workers have an index of their own, so that many
-- of them stand in nobody's way; the bound is stepwell.store.store.SUSPECT_CRASHES.
CREATE INDEX stepwell_runs_by_wake ON stepwell_runs (workflow, wake_at)
    WHERE status = 'waiting' AND owner IS NULL AND wake_at IS NOT NULL AND crashes < 2;
-- The state is always the same here; named all the same, it makes SQLite prefer this index to that on states.
CREATE INDEX stepwell_runs_pending ON stepwell_runs (workflow, status) WHERE status = 'pending' AND crashes < 2;
CREATE INDEX stepwell_runs_suspect ON stepwell_runs (status, owner, workflow, wake_at)
    WHERE crashes >= 2 AND ended_at IS NULL;
-- What is in memory somewhere, all running ones included.
CREATE INDEX stepwell_runs_by_owner ON stepwell_runs (owner) WHERE owner IS NOT NULL;
CREATE INDEX stepwell_runs_by_status ON stepwell_runs (status)
    WHERE status = 'pending' OR status = 'halted' OR status = 'failed';
CREATE INDEX stepwell_runs_by_parent ON stepwell_runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX stepwell_runs_by_end ON stepwell_runs (ended_at) WHERE ended_at IS NOT NULL;

CREATE INDEX stepwell_workers_present ON stepwell_workers (ended_at) WHERE ended_at IS NULL;

CREATE TABLE stepwell_wakes (
    -- Something arrived for a run that is in the memory of a worker which does not know of it: its messages, or the
    -- request to cancel it, or the end of a run that it waits for. The worker deletes the row, then reads what came.
    -- So a run in this table has an owner.
    run INTEGER PRIMARY KEY REFERENCES stepwell_runs (key)
) STRICT;

ALTER TABLE stepwell_messages ADD COLUMN sender
    /* The epoch of the worker that wrote it: the owner of the run has to look for those of others. */
    INTEGER;

ALTER TABLE stepwell_workers ADD COLUMN slot
    /* Its byte in the lock file. The worker lives as long as a process holds that byte for this epoch: the kernel knows,
       the file does not. */
    INTEGER;
ALTER TABLE stepwell_workers ADD COLUMN takes_work
    /* 0: a mere client, which never claims a run. */
    INTEGER NOT NULL DEFAULT 1 CHECK (takes_work = 0 OR takes_work = 1);

PRAGMA legacy_alter_table = OFF;

CREATE VIEW stepwell_run_view AS
-- Runs for human eyes: times as ISO 8601 in UTC, durations in seconds, names instead of keys.
SELECT
    run.id AS id,
    run.workflow AS workflow,
    run.status AS status,
    run.reason AS reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', run.created_at / 1e6, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', run.updated_at / 1e6, 'unixepoch') AS updated_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', run.started_at / 1e6, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', run.wake_at / 1e6, 'unixepoch') AS wake_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', run.deadline_at / 1e6, 'unixepoch') AS deadline_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', run.cancel_requested_at / 1e6, 'unixepoch') AS cancel_requested_at,
    run.cancel_reason AS cancel_reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', run.ended_at / 1e6, 'unixepoch') AS ended_at,
    (run.ended_at - run.created_at) / 1e6 AS took_seconds,
    parent.id AS parent_id,
    run.parent_op AS parent_op,
    run.attached AS attached,
    CASE typeof(run.input) WHEN 'blob' THEN '(' || length(run.input) || ' bytes compressed)' ELSE run.input END AS input,
    CASE typeof(run.result) WHEN 'blob' THEN '(' || length(run.result) || ' bytes compressed)' ELSE run.result END
        AS result,
    CASE typeof(run.error) WHEN 'blob' THEN '(' || length(run.error) || ' bytes compressed)' ELSE run.error END
        AS error,
    worker.pid AS owner_pid,
    worker.host AS owner_host,
    run.crashes AS crashes,
    run.key AS key
FROM stepwell_runs AS run
LEFT JOIN stepwell_runs AS parent ON parent.key = run.parent
LEFT JOIN stepwell_workers AS worker ON worker.epoch = run.owner;

CREATE VIEW stepwell_journal_view AS
-- The journal for human eyes: what each run was told, in order.
SELECT
    entry.position AS position,
    run.id AS run_id,
    run.workflow AS workflow,
    entry.op AS op,
    entry.kind AS kind,
    entry.name AS name,
    CASE typeof(entry.value) WHEN 'blob' THEN '(' || length(entry.value) || ' bytes compressed)' ELSE entry.value END
        AS value,
    strftime('%Y-%m-%dT%H:%M:%fZ', entry.at / 1e6, 'unixepoch') AS at,
    nullif(entry.attempt, 0) AS attempt,
    CASE WHEN entry.started_at > 0 THEN (entry.at - entry.started_at) / 1e6 END AS took_seconds
FROM stepwell_journal AS entry
JOIN stepwell_runs AS run ON run.key = entry.run;

CREATE VIEW stepwell_message_view AS
-- The messages that are still to be received, and the remembered keys of those that were.
SELECT
    message.position AS position,
    run.id AS run_id,
    message.name AS name,
    message.key AS key,
    CASE typeof(message.value)
        WHEN 'blob' THEN '(' || length(message.value) || ' bytes compressed)' ELSE message.value
    END AS value,
    strftime('%Y-%m-%dT%H:%M:%fZ', message.sent_at / 1e6, 'unixepoch') AS sent_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', message.taken_at / 1e6, 'unixepoch') AS taken_at,
    message.sender AS sender
FROM stepwell_messages AS message
JOIN stepwell_runs AS run ON run.key = message.run;

CREATE VIEW stepwell_worker_view AS
-- The workers that ever opened the file, and how many runs each has in memory now. One without ended_at lives, or has
-- died and nobody has noticed yet: that is known to the kernel, not to the file.
SELECT
    worker.epoch AS epoch,
    worker.pid AS pid,
    worker.host AS host,
    strftime('%Y-%m-%dT%H:%M:%fZ', worker.started_at / 1e6, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', worker.ended_at / 1e6, 'unixepoch') AS ended_at,
    worker.fenced AS fenced,
    worker.takes_work AS takes_work,
    (SELECT count(*) FROM stepwell_runs AS run WHERE run.owner = worker.epoch) AS runs
FROM stepwell_workers AS worker;
