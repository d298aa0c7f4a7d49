-- The first schema. Applied by the migration runner inside one transaction, which also sets user_version.
--
-- Times are microseconds since the Unix epoch, UTC. Payloads are JSON text, or compressed JSON as a BLOB; NULL is "no
-- value". The comments inside the statements stay visible in sqlite_schema, for whoever opens the file with any tool.
--
-- The CHECKs on closed sets are chains of OR and not IN: for IN, SQLite builds a temporary table in every execution of
-- a statement (measured: a journal row costs 2.5 us with IN, 1.2 us with OR). The commonest value stands first.

CREATE TABLE stepwell_runs (
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
    -- The epoch of the worker that runs it (stepwell_workers).
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
    CHECK (status <> 'running' OR started_at IS NOT NULL),
    -- Exactly a running run has an owner; only a waiting one has something to wait for.
    CHECK ((status = 'running') = (owner IS NOT NULL)),
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

-- The indexes are partial, so that recovery, timers and listings of what needs attention read only what they return,
-- however many runs are parked or over, and so that an ordinary run pays for few of them.
CREATE INDEX stepwell_runs_by_wake ON stepwell_runs (wake_at) WHERE status = 'waiting' AND wake_at IS NOT NULL;
CREATE INDEX stepwell_runs_by_status ON stepwell_runs (status)
    WHERE status = 'running' OR status = 'pending' OR status = 'halted' OR status = 'failed';
CREATE INDEX stepwell_runs_pending ON stepwell_runs (workflow) WHERE status = 'pending';
CREATE INDEX stepwell_runs_by_parent ON stepwell_runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX stepwell_runs_by_end ON stepwell_runs (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE stepwell_journal (
    -- One log for the whole file, only ever appended to: neighbouring rows of many runs share pages, which is what
    -- makes a commit of a thousand steps touch tens of pages instead of a thousand. The order of the positions of a
    -- run is the order in which its code was told.
    position INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    -- The number of the operation in its run, counted from 1 in the order of issue; 0 for a cancellation.
    op INTEGER NOT NULL CHECK (op >= 0),
    kind TEXT NOT NULL CHECK (
        kind = 'step' OR kind = 'timer' OR kind = 'child' OR kind = 'result' OR kind = 'message' OR kind = 'sent'
        OR kind = 'published' OR kind = 'attempt_failed' OR kind = 'step_failed' OR kind = 'step_started'
        OR kind = 'cancel' OR kind = 'result_failed' OR kind = 'child_failed' OR kind = 'send_failed'
        OR kind = 'patched'
    ),
    name TEXT NOT NULL,
    -- CRC-32 of the operation's arguments: replay compares it to notice changed code.
    fingerprint INTEGER NOT NULL,
    at INTEGER NOT NULL,
    value ANY,
    -- Steps only, 0 elsewhere.
    attempt INTEGER NOT NULL,
    started_at INTEGER NOT NULL
) STRICT;

-- Thin: holds (run, position) only.
CREATE INDEX stepwell_journal_by_run ON stepwell_journal (run);

CREATE TABLE stepwell_messages (
    -- AUTOINCREMENT: the order of sending, and never used again.
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    name TEXT NOT NULL,
    value ANY,
    -- The sender's name for the message. A taken message with a key stays, without its value, so that the same key is
    -- recognised when it is sent again; one without a key is deleted when it is taken.
    key TEXT,
    sent_at INTEGER NOT NULL,
    taken_at INTEGER,
    CHECK (taken_at IS NULL OR (key IS NOT NULL AND value IS NULL))
) STRICT;

CREATE INDEX stepwell_messages_by_run ON stepwell_messages (run);
CREATE UNIQUE INDEX stepwell_messages_by_key ON stepwell_messages (run, key) WHERE key IS NOT NULL;

CREATE TABLE stepwell_values (
    -- What a run published last under each key, for readers outside.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    key TEXT NOT NULL,
    value ANY,
    at INTEGER NOT NULL,
    PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE stepwell_watches (
    -- `watcher` is woken when `run` ends. A parent is woken by its children without a row here.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    watcher INTEGER NOT NULL REFERENCES stepwell_runs (key),
    PRIMARY KEY (run, watcher)
) STRICT, WITHOUT ROWID;

CREATE INDEX stepwell_watches_by_watcher ON stepwell_watches (watcher);

CREATE TABLE stepwell_workers (
    -- AUTOINCREMENT: an epoch is never used twice, so a worker from the past cannot be taken for a present one.
    epoch INTEGER PRIMARY KEY AUTOINCREMENT,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    -- Set by an orderly end or a fence; from then on every write with this epoch is refused.
    ended_at INTEGER,
    -- 1: was ended by others, because it was dead or stalled.
    fenced INTEGER NOT NULL DEFAULT 0 CHECK (fenced = 0 OR (fenced = 1 AND ended_at IS NOT NULL)),
    -- Counts those transactions that add no row anywhere. A COMMIT that raised may still have happened; this, or the
    -- added row, is what the store reads to find out.
    traces INTEGER NOT NULL DEFAULT 0
) STRICT;

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
    strftime('%Y-%m-%dT%H:%M:%fZ', message.taken_at / 1e6, 'unixepoch') AS taken_at
FROM stepwell_messages AS message
JOIN stepwell_runs AS run ON run.key = message.run;

CREATE VIEW stepwell_worker_view AS
-- The workers that ever opened the file, and how many runs each owns now.
SELECT
    worker.epoch AS epoch,
    worker.pid AS pid,
    worker.host AS host,
    strftime('%Y-%m-%dT%H:%M:%fZ', worker.started_at / 1e6, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', worker.ended_at / 1e6, 'unixepoch') AS ended_at,
    worker.fenced AS fenced,
    (SELECT count(*) FROM stepwell_runs AS run WHERE run.status = 'running' AND run.owner = worker.epoch) AS running
FROM stepwell_workers AS worker;
