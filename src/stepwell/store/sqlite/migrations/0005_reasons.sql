-- Why a run does not run: what it waits for, written by the update that parks it, and what halted it; which workers could
-- carry it on; who did what to it. And room to grow: what is a closed set in the code (states, kinds) is the rows of a small
-- table here, so that another operation is another row, and no large table is built anew. Times are as in the first schema.

CREATE TABLE stepwell_statuses (
    -- The states of a run; stepwell.model.lifecycle has them, and is tested against this.
    status TEXT NOT NULL PRIMARY KEY,
    -- 1: the run has ended.
    ended INTEGER NOT NULL CHECK (ended = 0 OR ended = 1)
) STRICT, WITHOUT ROWID;

INSERT INTO stepwell_statuses (status, ended) VALUES
    ('pending', 0), ('running', 0), ('waiting', 0), ('halted', 0), ('completed', 1), ('failed', 1), ('cancelled', 1);

CREATE TABLE stepwell_journal_kinds (
    -- The kinds of journal entries; stepwell.model.journal has them, and is tested against this.
    kind TEXT NOT NULL PRIMARY KEY,
    -- What the operation is that such an entry belongs to.
    operation TEXT NOT NULL,
    -- 0: history only; a replay checks it, and tells the code nothing.
    delivered INTEGER NOT NULL CHECK (delivered = 0 OR delivered = 1)
) STRICT, WITHOUT ROWID;

INSERT INTO stepwell_journal_kinds (kind, operation, delivered) VALUES
    ('step', 'step', 1), ('step_failed', 'step', 1), ('attempt_failed', 'step', 0), ('step_started', 'step', 0),
    ('timer', 'timer', 1), ('message', 'receive', 1), ('sent', 'send', 1), ('send_failed', 'send', 1),
    ('published', 'publish', 1), ('child', 'start', 1), ('child_failed', 'start', 1), ('result', 'result', 1),
    ('result_failed', 'result', 1), ('patched', 'patch', 1), ('cancel', 'cancel', 1);

CREATE TABLE stepwell_entry_states (
    -- The states of what stands in a queue or waits for a permit; stepwell.model.permit_states has them, and is tested
    -- against this.
    state TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;

INSERT INTO stepwell_entry_states (state) VALUES ('delayed'), ('waiting'), ('running');

-- Of two tables nothing but such a CHECK changes. They are the largest, and their rows stay as they are, so only their
-- texts are replaced, by the procedure that SQLite's documentation gives for changes that touch no content ("Making Other
-- Kinds Of Table Schema Changes"): to build the journal anew takes minutes where it has millions of rows. RESET has this
-- connection read the texts again; what is created further down changes the number by which others notice.

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = 'CREATE TABLE stepwell_journal (
    -- One log for the whole file, only ever appended to: neighbouring rows of many runs share pages, which is what
    -- makes a commit of a thousand steps touch tens of pages instead of a thousand. The order of the positions of a
    -- run is the order in which its code was told; not all that stands here is of its present chapter, see journal_from.
    position INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    -- The number of the operation in its run, counted from 1 in the order of issue; 0 for a cancellation.
    op INTEGER NOT NULL CHECK (op >= 0),
    kind TEXT NOT NULL REFERENCES stepwell_journal_kinds (kind),
    name TEXT NOT NULL,
    -- CRC-32 of the operation''s arguments: replay compares it to notice changed code.
    fingerprint INTEGER NOT NULL,
    at INTEGER NOT NULL,
    value ANY,
    -- Steps only, 0 elsewhere.
    attempt INTEGER NOT NULL,
    started_at INTEGER NOT NULL
) STRICT' WHERE type = 'table' AND name = 'stepwell_journal';

UPDATE sqlite_schema SET sql = replace(
    sql,
    'CHECK (state = ''waiting'' OR state = ''running'' OR state = ''delayed'')',
    'REFERENCES stepwell_entry_states (state)'
) WHERE type = 'table' AND name = 'stepwell_entries';

PRAGMA writable_schema = RESET;

-- stepwell_runs is built anew, in the same way as in the second schema, so that its payloads come last.

PRAGMA legacy_alter_table = ON;

CREATE TABLE stepwell_runs_anew (
    -- AUTOINCREMENT: a key names its run for ever; after a purge it must not name another one.
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The user's name for the run; the uniqueness is what makes a second start with the same id harmless.
    id TEXT NOT NULL UNIQUE CHECK (id <> ''),
    workflow TEXT NOT NULL,
    -- One of stepwell_statuses. No foreign key: with one, each UPDATE of it keeps a journal of its own, which costs a
    -- fifth of what it takes to park or end a run.
    status TEXT NOT NULL CHECK (status <> ''),
    -- CRC-32 of workflow and input: tells a repeated start from another one with the same id.
    fingerprint INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    -- When the state was last changed, or a cancellation requested.
    updated_at INTEGER NOT NULL,
    -- When it first moved to running; the run's own clock begins there.
    started_at INTEGER,
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
    -- 1: so many that it is taken up only while no other such run is under way, so that the one that kills workers is
    -- found. Whoever counts the crashes says it.
    suspect INTEGER NOT NULL DEFAULT 0 CHECK (suspect = 0 OR (suspect = 1 AND crashes > 0)),
    -- The position in the journal at which its present chapter begins: its code is told nothing of what is before.
    journal_from INTEGER NOT NULL DEFAULT 0 CHECK (journal_from >= 0),
    -- 1: no worker takes it up for being due or pending. Nothing sets it yet.
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused = 0 OR paused = 1),
    -- The version of its workflow's code that it began with. Nothing sets it yet; it is here because a column that is added
    -- later stands behind the payloads.
    version INTEGER,
    -- The queue that it was started in.
    queue TEXT,
    -- 1: it has not been taken from there yet. Then only its turn makes it run.
    queued INTEGER NOT NULL DEFAULT 0 CHECK (queued = 0 OR (queued = 1 AND status = 'pending' AND queue IS NOT NULL)),
    -- What its code waited for when it was parked, as JSON: see stepwell.model.waits. NULL in a waiting run: it was under way
    -- when its worker ended, and is due.
    waiting_on TEXT CHECK (waiting_on IS NULL OR status = 'waiting'),
    -- How far the times in this file were ahead of the wall clock when the run was created, in microseconds: 0, but where
    -- something was written to the file while a clock was wrong. The run reckons its dates with it.
    ahead INTEGER NOT NULL DEFAULT 0,
    -- 1 where somebody asked that it be tried again, since it was halted last: then a step whose result could not be
    -- recorded is executed once more with the same code.
    resumed INTEGER NOT NULL DEFAULT 0 CHECK (resumed = 0 OR resumed = 1),
    -- What is left to do about a halted run: 'resume' where its reason says what to mend, else 'mend'.
    remedy TEXT CHECK (remedy IS NULL OR status = 'halted'),
    -- Where a run that failed or was cancelled stood in its queue: partition and priority, as JSON. For a retry.
    queue_place TEXT CHECK (queue_place IS NULL OR ended_at IS NOT NULL),
    -- Payloads stand last, the larger ones behind the others: SQLite reads all pages of a row up to the last column that
    -- is asked for, and nobody who lists runs asks for these.
    error ANY,
    -- The failure that halted it, as in `error`, with its traceback.
    halted_by ANY CHECK (halted_by IS NULL OR status = 'halted'),
    input ANY,
    result ANY,
    CHECK (status <> 'running' OR started_at IS NOT NULL),
    -- A running run is in a worker's memory; of the others only a waiting one can be.
    CHECK (status <> 'running' OR owner IS NOT NULL),
    CHECK (owner IS NULL OR status = 'running' OR status = 'waiting'),
    -- Only a waiting run has something to wait for.
    CHECK (wake_at IS NULL OR status = 'waiting'),
    -- A run that has ended says when, and never ends twice. What is said of states here is said of those by name, so that
    -- another one may come.
    CHECK (ended_at IS NOT NULL OR (status <> 'completed' AND status <> 'failed' AND status <> 'cancelled')),
    CHECK (ended_at IS NULL OR (status <> 'running' AND status <> 'waiting' AND status <> 'pending' AND status <> 'halted')),
    CHECK (result IS NULL OR status = 'completed'),
    CHECK (error IS NOT NULL OR status <> 'failed'),
    CHECK (error IS NULL OR (
        status <> 'running' AND status <> 'waiting' AND status <> 'pending' AND status <> 'halted'
        AND status <> 'completed' AND status <> 'cancelled'
    )),
    -- No run is stuck without a stated reason.
    CHECK (status <> 'halted' OR reason IS NOT NULL),
    CHECK (parent IS NOT NULL OR (parent_op IS NULL AND attached = 0)),
    CHECK (cancel_reason IS NULL OR cancel_requested_at IS NOT NULL)
) STRICT;

INSERT INTO stepwell_runs_anew
SELECT key, id, workflow, status, fingerprint, created_at, updated_at, started_at, reason, owner, wake_at, deadline_at,
    parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at, crashes, crash_position, crashes >= 2, 0, 0,
    NULL, queue, queued, NULL, 0, 0,
    -- Before this schema only the words of the reason tell.
    CASE WHEN status = 'halted' THEN iif(reason LIKE '%resume the run%', 'resume', 'mend') END,
    NULL, error, NULL, input, result
FROM stepwell_runs;

-- The keys of purged runs stay used.
DELETE FROM sqlite_sequence WHERE name = 'stepwell_runs_anew';
INSERT INTO sqlite_sequence (name, seq)
SELECT 'stepwell_runs_anew', seq FROM sqlite_sequence WHERE name = 'stepwell_runs';

DROP TABLE stepwell_runs;
ALTER TABLE stepwell_runs_anew RENAME TO stepwell_runs;

PRAGMA legacy_alter_table = OFF;

-- The indexes are partial, so that claims, timers and listings of what needs attention read only what they return,
-- however many runs are parked, over, or in the memory of others; and so that an ordinary run pays for few of them.
-- What can be claimed when its time comes. Runs that seem to kill their workers have an index of their own, so that many
-- of them stand in nobody's way, and so have those that are paused.
CREATE INDEX stepwell_runs_by_wake ON stepwell_runs (workflow, wake_at)
    WHERE status = 'waiting' AND owner IS NULL AND wake_at IS NOT NULL AND suspect = 0 AND paused = 0;
CREATE INDEX stepwell_runs_suspect ON stepwell_runs (status, owner, workflow, wake_at)
    WHERE suspect = 1 AND ended_at IS NULL;
CREATE INDEX stepwell_runs_paused ON stepwell_runs (workflow) WHERE paused = 1;
-- What is in memory somewhere, all running ones included.
CREATE INDEX stepwell_runs_by_owner ON stepwell_runs (owner) WHERE owner IS NOT NULL;
CREATE INDEX stepwell_runs_by_status ON stepwell_runs (status)
    WHERE status = 'pending' OR status = 'halted' OR status = 'failed';
CREATE INDEX stepwell_runs_by_parent ON stepwell_runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX stepwell_runs_by_end ON stepwell_runs (ended_at) WHERE ended_at IS NOT NULL;
-- After that on states: of two that do, SQLite takes the later one.
CREATE INDEX stepwell_runs_pending ON stepwell_runs (workflow)
    WHERE status = 'pending' AND queued = 0 AND suspect = 0 AND paused = 0;
-- What ends although nobody has begun it: at once where it is cancelled (whoever asked for that may have died before it
-- ended it), else at its deadline.
CREATE INDEX stepwell_runs_by_deadline ON stepwell_runs (coalesce(cancel_requested_at, deadline_at))
    WHERE coalesce(cancel_requested_at, deadline_at) IS NOT NULL AND status = 'pending' AND started_at IS NULL;

ALTER TABLE stepwell_workers ADD COLUMN workflows
    /* The workflows that it has, as JSON; NULL: not known. */
    TEXT;
ALTER TABLE stepwell_workers ADD COLUMN queues
    /* The queues that it takes runs from, as JSON; NULL: all. */
    TEXT;

-- What people and programs did to runs and queues: who, when, why. Unlike the journal, no code is ever told of it.
CREATE TABLE stepwell_acts (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    act TEXT NOT NULL,
    run INTEGER REFERENCES stepwell_runs (key),
    queue TEXT REFERENCES stepwell_queues (name),
    -- Who, in words: a user and a host, a name that a web back end gave, a worker.
    by TEXT NOT NULL CHECK (by <> ''),
    reason TEXT,
    -- It is about a run, or about a queue. No list of the acts that there are: it is in model.acts, and grows.
    CHECK ((run IS NULL) <> (queue IS NULL))
) STRICT;

-- An index has the row's id behind the key, so each gives the acts of one in their order.
CREATE INDEX stepwell_acts_by_run ON stepwell_acts (run) WHERE run IS NOT NULL;
CREATE INDEX stepwell_acts_by_queue ON stepwell_acts (queue) WHERE queue IS NOT NULL;

DROP VIEW stepwell_run_view;
CREATE VIEW stepwell_run_view AS
-- Runs for human eyes: times as ISO 8601 in UTC, durations in seconds, names instead of keys.
SELECT
    run.id AS id,
    run.workflow AS workflow,
    run.status AS status,
    run.reason AS reason,
    run.waiting_on AS waiting_on,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.created_at - run.ahead) / 1e6, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.updated_at - run.ahead) / 1e6, 'unixepoch') AS updated_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.started_at - run.ahead) / 1e6, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.wake_at - run.ahead) / 1e6, 'unixepoch') AS wake_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.deadline_at - run.ahead) / 1e6, 'unixepoch') AS deadline_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.cancel_requested_at - run.ahead) / 1e6, 'unixepoch') AS cancel_requested_at,
    run.cancel_reason AS cancel_reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.ended_at - run.ahead) / 1e6, 'unixepoch') AS ended_at,
    (run.ended_at - run.created_at) / 1e6 AS took_seconds,
    parent.id AS parent_id,
    run.parent_op AS parent_op,
    run.attached AS attached,
    CASE typeof(run.input) WHEN 'blob' THEN '(' || length(run.input) || ' bytes compressed)' ELSE run.input END AS input,
    CASE typeof(run.result) WHEN 'blob' THEN '(' || length(run.result) || ' bytes compressed)' ELSE run.result END
        AS result,
    CASE typeof(run.error) WHEN 'blob' THEN '(' || length(run.error) || ' bytes compressed)' ELSE run.error END
        AS error,
    CASE typeof(run.halted_by)
        WHEN 'blob' THEN '(' || length(run.halted_by) || ' bytes compressed)' ELSE run.halted_by
    END AS halted_by,
    worker.pid AS owner_pid,
    worker.host AS owner_host,
    run.crashes AS crashes,
    run.key AS key
FROM stepwell_runs AS run
LEFT JOIN stepwell_runs AS parent ON parent.key = run.parent
LEFT JOIN stepwell_workers AS worker ON worker.epoch = run.owner;
