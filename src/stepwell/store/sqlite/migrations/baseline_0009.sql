-- What the scripts 1 to 9 make of an empty file, for new files to begin with: without the tables that later
-- scripts build anew. Made from the scripts, by tests/store/test_baseline.py, which compares the two. Do not edit.

CREATE TABLE stepwell_journal (
    -- One log for the whole file, only ever appended to: neighbouring rows of many runs share pages, which is what
    -- makes a commit of a thousand steps touch tens of pages instead of a thousand. The order of the positions of a
    -- run is the order in which its code was told; not all that stands here is of its present chapter, see journal_from.
    position INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    -- The number of the operation in its run, counted from 1 in the order of issue; 0 for a cancellation.
    op INTEGER NOT NULL CHECK (op >= 0),
    kind TEXT NOT NULL REFERENCES stepwell_journal_kinds (kind),
    name TEXT NOT NULL,
    -- CRC-32 of the operation's arguments: replay compares it to notice changed code.
    fingerprint INTEGER NOT NULL,
    at INTEGER NOT NULL,
    value ANY,
    -- Steps only, 0 elsewhere.
    attempt INTEGER NOT NULL,
    started_at INTEGER NOT NULL
) STRICT;

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
    taken_at INTEGER, sender
    /* The epoch of the worker that wrote it: the owner of the run has to look for those of others. */
    INTEGER, op INTEGER CHECK (op IS NULL OR op >= 1), answered_at INTEGER, failed INTEGER NOT NULL DEFAULT 0 CHECK (failed = 0 OR failed = 1), answer ANY CHECK (answer IS NULL OR answered_at IS NOT NULL),
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
, slot
    /* Its byte in the lock file. The worker lives as long as a process holds that byte for this epoch: the kernel knows,
       the file does not. */
    INTEGER, takes_work
    /* 0: a mere client, which never claims a run. */
    INTEGER NOT NULL DEFAULT 1 CHECK (takes_work = 0 OR takes_work = 1), workflows
    /* The workflows that it has, as JSON; NULL: not known. */
    TEXT, queues
    /* The queues that it takes runs from, as JSON; NULL: all. */
    TEXT, versions TEXT) STRICT;

CREATE INDEX stepwell_workers_present ON stepwell_workers (ended_at) WHERE ended_at IS NULL;

CREATE TABLE stepwell_wakes (
    -- Something arrived for a run that is in the memory of a worker which does not know of it: its messages, or the
    -- request to cancel it, or the end of a run that it waits for. The worker deletes the row, then reads what came.
    -- So a run in this table has an owner.
    run INTEGER PRIMARY KEY REFERENCES stepwell_runs (key)
, given INTEGER NOT NULL DEFAULT 0 CHECK (given = 0 OR given = 1)) STRICT;

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
    tickets INTEGER NOT NULL DEFAULT 0, partition_per_worker INTEGER CHECK (partition_per_worker >= 1), partition_rate_limit INTEGER CHECK (partition_rate_limit >= 1), partition_rate_per INTEGER
    CHECK (partition_rate_per >= 1 AND (partition_rate_limit IS NULL) = (partition_rate_per IS NULL)),
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
    state TEXT NOT NULL REFERENCES stepwell_entry_states (state),
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
    turn INTEGER NOT NULL, opens_at INTEGER CHECK (opens_at IS NULL OR blocked = 1),
    PRIMARY KEY (queue, partition, workflow)
) STRICT, WITHOUT ROWID;

CREATE INDEX stepwell_lanes_open ON stepwell_lanes (queue, workflow, turn) WHERE waiting > 0 AND blocked = 0;

CREATE INDEX stepwell_lanes_busy ON stepwell_lanes (queue) WHERE busy > 0;

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

CREATE TABLE stepwell_left_permits (
    -- The epoch of the worker (stepwell_workers) that executes the attempt. When it ends, so do its attempts.
    worker INTEGER NOT NULL,
    -- The run may have ended, and may have been purged.
    run INTEGER NOT NULL,
    op INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    queue TEXT NOT NULL REFERENCES stepwell_queues (name),
    PRIMARY KEY (worker, run, op, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE stepwell_statuses (
    -- The states of a run; stepwell.model.lifecycle has them, and is tested against this.
    status TEXT NOT NULL PRIMARY KEY,
    -- 1: the run has ended.
    ended INTEGER NOT NULL CHECK (ended = 0 OR ended = 1)
) STRICT, WITHOUT ROWID;
INSERT INTO stepwell_statuses VALUES ('cancelled', 1);
INSERT INTO stepwell_statuses VALUES ('completed', 1);
INSERT INTO stepwell_statuses VALUES ('failed', 1);
INSERT INTO stepwell_statuses VALUES ('halted', 0);
INSERT INTO stepwell_statuses VALUES ('paused', 0);
INSERT INTO stepwell_statuses VALUES ('pending', 0);
INSERT INTO stepwell_statuses VALUES ('running', 0);
INSERT INTO stepwell_statuses VALUES ('waiting', 0);

CREATE TABLE stepwell_journal_kinds (
    -- The kinds of journal entries; stepwell.model.journal has them, and is tested against this.
    kind TEXT NOT NULL PRIMARY KEY,
    -- What the operation is that such an entry belongs to.
    operation TEXT NOT NULL,
    -- 0: history only; a replay checks it, and tells the code nothing.
    delivered INTEGER NOT NULL CHECK (delivered = 0 OR delivered = 1)
) STRICT, WITHOUT ROWID;
INSERT INTO stepwell_journal_kinds VALUES ('answered', 'answer', 1);
INSERT INTO stepwell_journal_kinds VALUES ('attempt_failed', 'step', 0);
INSERT INTO stepwell_journal_kinds VALUES ('cancel', 'cancel', 1);
INSERT INTO stepwell_journal_kinds VALUES ('chapter', 'chapter', 0);
INSERT INTO stepwell_journal_kinds VALUES ('child', 'start', 1);
INSERT INTO stepwell_journal_kinds VALUES ('child_failed', 'start', 1);
INSERT INTO stepwell_journal_kinds VALUES ('described', 'describe', 1);
INSERT INTO stepwell_journal_kinds VALUES ('look_failed', 'look', 1);
INSERT INTO stepwell_journal_kinds VALUES ('looked', 'look', 1);
INSERT INTO stepwell_journal_kinds VALUES ('message', 'receive', 1);
INSERT INTO stepwell_journal_kinds VALUES ('patched', 'patch', 1);
INSERT INTO stepwell_journal_kinds VALUES ('promise_failed', 'promise', 1);
INSERT INTO stepwell_journal_kinds VALUES ('promise_kept', 'promise', 1);
INSERT INTO stepwell_journal_kinds VALUES ('promised', 'promise', 0);
INSERT INTO stepwell_journal_kinds VALUES ('published', 'publish', 1);
INSERT INTO stepwell_journal_kinds VALUES ('result', 'result', 1);
INSERT INTO stepwell_journal_kinds VALUES ('result_failed', 'result', 1);
INSERT INTO stepwell_journal_kinds VALUES ('send_failed', 'send', 1);
INSERT INTO stepwell_journal_kinds VALUES ('sent', 'send', 1);
INSERT INTO stepwell_journal_kinds VALUES ('step', 'step', 1);
INSERT INTO stepwell_journal_kinds VALUES ('step_failed', 'step', 1);
INSERT INTO stepwell_journal_kinds VALUES ('step_started', 'step', 0);
INSERT INTO stepwell_journal_kinds VALUES ('stream_failed', 'stream', 1);
INSERT INTO stepwell_journal_kinds VALUES ('streamed', 'stream', 1);
INSERT INTO stepwell_journal_kinds VALUES ('timer', 'timer', 1);
INSERT INTO stepwell_journal_kinds VALUES ('update', 'update', 1);
INSERT INTO stepwell_journal_kinds VALUES ('update_failed', 'answer', 1);

CREATE TABLE stepwell_entry_states (
    -- The states of what stands in a queue or waits for a permit; stepwell.model.permit_states has them, and is tested
    -- against this.
    state TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
INSERT INTO stepwell_entry_states VALUES ('delayed');
INSERT INTO stepwell_entry_states VALUES ('paused');
INSERT INTO stepwell_entry_states VALUES ('running');
INSERT INTO stepwell_entry_states VALUES ('waiting');

CREATE TABLE "stepwell_runs" (
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
    -- 1: it is paused, or is to be as soon as its steps under way have ended. No worker takes it up.
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused = 0 OR paused = 1),
    -- The version of its workflow's code that it began with. Nothing sets it yet; it is here because a column that is added
    -- later stands behind the payloads.
    version INTEGER,
    -- The queue that it was started in.
    queue TEXT,
    -- 1: it has not been taken from there yet. Then only its turn makes it run.
    queued INTEGER NOT NULL DEFAULT 0 CHECK (queued = 0 OR (queued = 1 AND (status = 'pending' OR status = 'paused') AND queue IS NOT NULL)),
    -- What its code waited for when it was parked, as JSON: see stepwell.model.waits. NULL in a waiting run: it was under way
    -- when its worker ended, and is due.
    waiting_on TEXT CHECK (waiting_on IS NULL OR status = 'waiting' OR status = 'paused'),
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
    -- The failure that halted it, or for which it pauses, as in `error`, with its traceback.
    halted_by ANY CHECK (halted_by IS NULL OR status = 'halted' OR status = 'paused'),
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

CREATE INDEX stepwell_runs_by_wake ON stepwell_runs (workflow, wake_at)
    WHERE status = 'waiting' AND owner IS NULL AND wake_at IS NOT NULL AND suspect = 0 AND paused = 0;

CREATE INDEX stepwell_runs_suspect ON stepwell_runs (status, owner, workflow, wake_at)
    WHERE suspect = 1 AND ended_at IS NULL;

CREATE INDEX stepwell_runs_by_owner ON stepwell_runs (owner) WHERE owner IS NOT NULL;

CREATE INDEX stepwell_runs_by_status ON stepwell_runs (status)
    WHERE status = 'pending' OR status = 'halted' OR status = 'failed';

CREATE INDEX stepwell_runs_by_parent ON stepwell_runs (parent) WHERE parent IS NOT NULL;

CREATE INDEX stepwell_runs_by_end ON stepwell_runs (ended_at) WHERE ended_at IS NOT NULL;

CREATE INDEX stepwell_runs_by_deadline ON stepwell_runs (coalesce(cancel_requested_at, deadline_at))
    WHERE coalesce(cancel_requested_at, deadline_at) IS NOT NULL AND status = 'pending' AND started_at IS NULL;

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

CREATE INDEX stepwell_acts_by_run ON stepwell_acts (run) WHERE run IS NOT NULL;

CREATE INDEX stepwell_acts_by_queue ON stepwell_acts (queue) WHERE queue IS NOT NULL;

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

CREATE TABLE stepwell_chapters (
    -- The chapters of those runs that have had more than one, the present one included.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    -- Counted from 1.
    number INTEGER NOT NULL CHECK (number >= 1),
    -- How it began, in a word: stepwell.model.chapters has them.
    beginning TEXT NOT NULL CHECK (beginning <> ''),
    began_at INTEGER NOT NULL,
    -- NULL: it is the present one.
    ended_at INTEGER CHECK (ended_at IS NULL OR ended_at >= began_at),
    -- The first position in the journal that is of this chapter. The one before it is taken by an entry of the kind
    -- 'chapter', so that no position is given out again below.
    journal_from INTEGER NOT NULL CHECK (journal_from >= 0),
    -- Where the clock of its code begins; NULL: at the run's started_at.
    clock_from INTEGER,
    -- What the random numbers of its code come from.
    seed TEXT NOT NULL,
    -- Its operations are counted on from here, so that no two of a run that goes on as new have one number.
    ops_before INTEGER NOT NULL CHECK (ops_before >= 0),
    -- The highest key of a run when it began: no run below is a child of what its code starts anew.
    runs_before INTEGER NOT NULL CHECK (runs_before >= 0),
    -- What its code was given; of the present one the run's row has it.
    input ANY, forked_from TEXT, forked_op INTEGER, forked_as INTEGER
    CHECK ((forked_as IS NULL) = (forked_from IS NULL) AND (forked_op IS NULL) = (forked_from IS NULL)),
    PRIMARY KEY (run, number),
    CHECK (ended_at IS NOT NULL OR input IS NULL)
) STRICT, WITHOUT ROWID;

CREATE INDEX stepwell_runs_paused ON stepwell_runs (status) WHERE paused = 1;

CREATE TABLE stepwell_schedules (
    -- One row a schedule. Its due time is all that a worker looks at, by an index, so schedules at rest cost nothing.
    id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    workflow TEXT NOT NULL,
    -- When a worker has something to decide about it next, by the wall clock; 0: at once. NULL: not by itself.
    due_at INTEGER,
    -- 1: no tick starts a run. Whoever paused it says why.
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused = 0 OR paused = 1),
    note TEXT,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    -- As JSON: what was asked for, and how far it has come; see stepwell.model.schedule.
    definition TEXT NOT NULL,
    state TEXT NOT NULL,
    -- The arguments of each run.
    input ANY
) STRICT;

CREATE INDEX stepwell_schedules_by_due ON stepwell_schedules (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE stepwell_schedule_waits (
    -- The schedules that have something to decide when a run ends. The end of a run looks here, so it holds only those.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    schedule TEXT NOT NULL REFERENCES stepwell_schedules (id),
    PRIMARY KEY (run, schedule)
) STRICT, WITHOUT ROWID;

CREATE VIEW stepwell_schedule_view AS
-- Schedules for human eyes.
SELECT
    id,
    workflow,
    paused,
    note,
    strftime('%Y-%m-%dT%H:%M:%fZ', due_at / 1e6, 'unixepoch') AS due_at,
    definition,
    state
FROM stepwell_schedules;

CREATE TABLE stepwell_bulk_acts (
    -- An act on all runs that match a filter: done in pages, newest run first, and gone on with by another worker where
    -- the one that was at it ended.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    act TEXT NOT NULL CHECK (act <> ''),
    -- As it was written, and what it meant at that time, as JSON: stepwell.store.inspector.RunFilter.
    filter TEXT NOT NULL,
    bounds TEXT NOT NULL,
    by TEXT NOT NULL CHECK (by <> ''),
    reason TEXT,
    created_at INTEGER NOT NULL,
    -- How many runs matched when it began, how many were looked at, and of how many of these it was refused.
    total INTEGER NOT NULL CHECK (total >= 0),
    seen INTEGER NOT NULL DEFAULT 0 CHECK (seen >= 0),
    refused INTEGER NOT NULL DEFAULT 0 CHECK (refused >= 0),
    -- It goes on with the runs whose keys are below this.
    before_key INTEGER NOT NULL,
    -- The epoch of the worker that is at it (stepwell_workers).
    worker INTEGER NOT NULL,
    ended_at INTEGER
) STRICT;

CREATE INDEX stepwell_bulk_acts_open ON stepwell_bulk_acts (worker) WHERE ended_at IS NULL;

CREATE TABLE stepwell_summaries (
    -- What a call of a step is about, in a line for people. Few calls have one, so it is no column of the journal.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    op INTEGER NOT NULL CHECK (op > 0),
    summary TEXT NOT NULL CHECK (summary <> ''),
    PRIMARY KEY (run, op)
) STRICT, WITHOUT ROWID;

CREATE TABLE stepwell_steps (
    -- The names that such runs have had in the place of a workflow's ("step:" and the name of the step), so that a worker
    -- knows which of its steps to look for.
    name TEXT NOT NULL PRIMARY KEY CHECK (name <> '')
) STRICT, WITHOUT ROWID;

CREATE TABLE stepwell_replacements (
    -- Starts that wait for the end of the run that has their id, and was asked to stop: one of each run, the last. The
    -- transaction that writes the end has the run begin again, with this.
    run INTEGER PRIMARY KEY REFERENCES stepwell_runs (key),
    at INTEGER NOT NULL,
    fingerprint INTEGER NOT NULL,
    deadline_at INTEGER,
    ahead INTEGER NOT NULL,
    reason TEXT,
    -- Messages to the run up to this position were meant for the one that ends.
    messages_after INTEGER NOT NULL,
    -- How it stands in a queue, as JSON (Entered in stepwell.store.queues); NULL: in none.
    entry TEXT,
    input ANY
) STRICT;

CREATE TABLE stepwell_attributes (
    -- What somebody, or its own code, said of a run: typed values by name.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    name TEXT NOT NULL CHECK (name <> ''),
    -- 'str', 'number', 'bool' or 'datetime': what the value stands for. Values of one kind are compared with each other.
    kind TEXT NOT NULL CHECK (
        kind = 'str' AND typeof(value) = 'text' OR kind = 'number' AND typeof(value) IN ('integer', 'real')
        OR kind = 'bool' AND value IN (0, 1) OR kind = 'datetime' AND typeof(value) = 'integer'
    ),
    -- A time is microseconds since the Unix epoch, UTC, by the wall clock.
    value ANY NOT NULL,
    PRIMARY KEY (run, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX stepwell_attributes_by_value ON stepwell_attributes (name, kind, value, run);

CREATE TABLE stepwell_tags (
    -- The same in single words.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    tag TEXT NOT NULL CHECK (tag <> ''),
    PRIMARY KEY (run, tag)
) STRICT, WITHOUT ROWID;

CREATE INDEX stepwell_tags_by_tag ON stepwell_tags (tag, run);

CREATE INDEX stepwell_runs_by_workflow ON stepwell_runs (workflow);

CREATE INDEX stepwell_runs_pending ON stepwell_runs (workflow)
    WHERE status = 'pending' AND queued = 0 AND suspect = 0 AND paused = 0;

CREATE INDEX stepwell_runs_by_creation ON stepwell_runs (created_at);

CREATE INDEX stepwell_runs_by_start ON stepwell_runs (started_at) WHERE started_at IS NOT NULL;

CREATE INDEX stepwell_runs_by_queue ON stepwell_runs (queue) WHERE queue IS NOT NULL;

CREATE INDEX stepwell_runs_cancelled ON stepwell_runs (status) WHERE status = 'cancelled';

CREATE INDEX stepwell_runs_unwell ON stepwell_runs (workflow, status) WHERE status = 'failed' OR status = 'cancelled';

CREATE INDEX stepwell_runs_parked ON stepwell_runs (key) WHERE status = 'waiting' AND owner IS NULL;

CREATE TABLE stepwell_settlements (
    -- How a step ended, as somebody says who found out, until the run's worker enters it in the journal. Empty but for what
    -- no worker has taken yet.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    op INTEGER NOT NULL CHECK (op >= 1),
    -- The entry that it becomes, and its value.
    kind TEXT NOT NULL CHECK (kind = 'step' OR kind = 'step_failed'),
    value ANY,
    at INTEGER NOT NULL,
    PRIMARY KEY (run, op)
) STRICT, WITHOUT ROWID;

CREATE TABLE stepwell_streams (
    -- What runs write for readers outside, item after item. A run's streams have names.
    key INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    name TEXT NOT NULL CHECK (name <> ''),
    -- The offset that the next item gets, from 0, and that of the first item that is kept: those before were deleted.
    next INTEGER NOT NULL CHECK (next >= 0),
    first INTEGER NOT NULL DEFAULT 0 CHECK (first >= 0 AND first <= next),
    -- The highest operation that has written an item, so that a step that writes for the first time need not look for items
    -- of an earlier execution of itself.
    last_op INTEGER NOT NULL,
    -- The operation that closed it, by which a retry or a rewind finds that it is open again.
    closed_by INTEGER,
    closed_at INTEGER,
    CHECK ((closed_by IS NULL) = (closed_at IS NULL)),
    UNIQUE (run, name)
) STRICT;

CREATE TABLE stepwell_stream_items (
    -- One log for the whole file, only ever appended to, as the journal and for the same reason.
    position INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL REFERENCES stepwell_streams (key),
    number INTEGER NOT NULL CHECK (number >= 0),
    -- The operation that wrote it, and which attempt of it; 0 for the workflow itself.
    op INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    -- 1: the attempt was repeated, or the operation undone. Set later, in place: SQLite keeps 0 and 1 in no byte at all.
    superseded INTEGER NOT NULL DEFAULT 0 CHECK (superseded = 0 OR superseded = 1),
    at INTEGER NOT NULL,
    value ANY
) STRICT;

CREATE INDEX stepwell_stream_items_by_stream ON stepwell_stream_items (stream, number, op);

CREATE VIEW stepwell_stream_view AS
-- The items of streams for human eyes.
SELECT
    run.id AS run_id,
    stream.name AS stream,
    item.number AS item,
    CASE typeof(item.value) WHEN 'blob' THEN '(' || length(item.value) || ' bytes compressed)' ELSE item.value END AS value,
    item.op AS op,
    nullif(item.attempt, 0) AS attempt,
    item.superseded AS superseded,
    strftime('%Y-%m-%dT%H:%M:%fZ', item.at / 1e6, 'unixepoch') AS at
FROM stepwell_stream_items AS item
JOIN stepwell_streams AS stream ON stream.key = item.stream
JOIN stepwell_runs AS run ON run.key = stream.run;

CREATE TABLE stepwell_promises (
    -- In the order in which they were made.
    number INTEGER PRIMARY KEY,
    -- What whoever may answer has in hand. Random, and so long that nobody guesses it.
    token TEXT NOT NULL UNIQUE CHECK (token <> ''),
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    -- The number of the operation in its run.
    op INTEGER NOT NULL CHECK (op >= 1),
    -- What has become of it: it leaves 'open' once, in one transaction, and the run is told what this row says.
    -- 'withdrawn': the run goes on from before it was made. stepwell.model.promise has the states.
    state TEXT NOT NULL DEFAULT 'open' CHECK (
        state = 'open' OR state = 'resolved' OR state = 'rejected' OR state = 'timed_out' OR state = 'withdrawn'
    ),
    created_at INTEGER NOT NULL,
    -- From then on it is answered no more. NULL: it waits as long as its run.
    deadline_at INTEGER,
    ended_at INTEGER,
    -- Who answered, in words.
    by TEXT,
    -- How a person is asked, see stepwell.model.promise.
    form ANY NOT NULL,
    -- The value, or the failure that it was rejected with.
    answer ANY,
    CHECK ((state = 'open') = (ended_at IS NULL)),
    CHECK (answer IS NULL OR state = 'resolved' OR state = 'rejected')
) STRICT;

CREATE INDEX stepwell_promises_by_run ON stepwell_promises (run);

CREATE INDEX stepwell_promises_open ON stepwell_promises (number) WHERE state = 'open';

CREATE VIEW stepwell_promise_view AS
-- Promises for human eyes.
SELECT
    promise.token AS token,
    run.id AS run_id,
    run.workflow AS workflow,
    promise.op AS op,
    promise.state AS state,
    strftime('%Y-%m-%dT%H:%M:%fZ', (promise.created_at - run.ahead) / 1e6, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (promise.deadline_at - run.ahead) / 1e6, 'unixepoch') AS deadline_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (promise.ended_at - run.ahead) / 1e6, 'unixepoch') AS ended_at,
    promise.by AS by,
    CASE typeof(promise.form) WHEN 'blob' THEN '(' || length(promise.form) || ' bytes compressed)' ELSE promise.form END
        AS form,
    CASE typeof(promise.answer)
        WHEN 'blob' THEN '(' || length(promise.answer) || ' bytes compressed)' ELSE promise.answer
    END AS answer
FROM stepwell_promises AS promise
JOIN stepwell_runs AS run ON run.key = promise.run;

CREATE INDEX stepwell_messages_by_op ON stepwell_messages (run, op) WHERE op IS NOT NULL;

CREATE VIEW stepwell_message_view AS
-- Messages for human eyes, with the updates among them.
SELECT
    message.position AS position,
    run.id AS run_id,
    CASE WHEN message.name < ' ' THEN 'update' ELSE 'message' END AS kind,
    ltrim(message.name, char(31)) AS name,
    ltrim(message.key, char(31)) AS key,
    CASE typeof(message.value)
        WHEN 'blob' THEN '(' || length(message.value) || ' bytes compressed)' ELSE message.value
    END AS value,
    strftime('%Y-%m-%dT%H:%M:%fZ', message.sent_at / 1e6, 'unixepoch') AS sent_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', message.taken_at / 1e6, 'unixepoch') AS taken_at,
    message.sender AS sender,
    strftime('%Y-%m-%dT%H:%M:%fZ', message.answered_at / 1e6, 'unixepoch') AS answered_at,
    message.failed AS failed,
    CASE typeof(message.answer)
        WHEN 'blob' THEN '(' || length(message.answer) || ' bytes compressed)' ELSE message.answer
    END AS answer
FROM stepwell_messages AS message
JOIN stepwell_runs AS run ON run.key = message.run;

CREATE INDEX stepwell_workers_by_versions ON stepwell_workers (epoch) WHERE versions IS NOT NULL AND ended_at IS NULL;

CREATE INDEX stepwell_runs_by_version ON stepwell_runs (workflow, version) WHERE version IS NOT NULL AND ended_at IS NULL;

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

CREATE TABLE stepwell_partition_starts (
    -- The starts that the rate of a partition has to heed, as stepwell_starts are for that of a queue.
    queue TEXT NOT NULL REFERENCES stepwell_queues (name),
    partition TEXT NOT NULL,
    at INTEGER NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (queue, partition, at, run)
) STRICT, WITHOUT ROWID;

CREATE INDEX stepwell_partition_starts_by_time ON stepwell_partition_starts (queue, at);

CREATE INDEX stepwell_lanes_opening ON stepwell_lanes (queue, opens_at) WHERE opens_at IS NOT NULL;

CREATE INDEX stepwell_lanes_idle ON stepwell_lanes (queue)
    WHERE waiting = 0 AND busy = 0 AND partition <> '' AND opens_at IS NULL;
