-- What a run meets between its start and its end: pauses, chapters, acts on many runs, schedules. Times are as in the first
-- schema. One section for each; what is a closed set in the code is another row of its small table (see 0005_reasons.sql).

-- Chapters -------------------------------------------------------------------------------------------------------------

INSERT INTO stepwell_journal_kinds (kind, operation, delivered) VALUES ('chapter', 'chapter', 0);

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
    input ANY,
    PRIMARY KEY (run, number),
    CHECK (ended_at IS NOT NULL OR input IS NULL)
) STRICT, WITHOUT ROWID;

-- Pauses ---------------------------------------------------------------------------------------------------------------
-- A paused run is in no memory, as a halted one. Of stepwell_runs only CHECKs and comments change, so its text is replaced, as
-- that of the journal was in the fifth schema.

INSERT INTO stepwell_statuses (status, ended) VALUES ('paused', 0);
-- Of a run that was paused before its turn in a queue came: it keeps its place in the line.
INSERT INTO stepwell_entry_states (state) VALUES ('paused');

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(replace(replace(replace(replace(
    sql,
    '-- 1: no worker takes it up for being due or pending. Nothing sets it yet.',
    '-- 1: it is paused, or is to be as soon as its steps under way have ended. No worker takes it up.'),
    'CHECK (queued = 0 OR (queued = 1 AND status = ''pending'' AND queue IS NOT NULL))',
    'CHECK (queued = 0 OR (queued = 1 AND (status = ''pending'' OR status = ''paused'') AND queue IS NOT NULL))'),
    'waiting_on TEXT CHECK (waiting_on IS NULL OR status = ''waiting'')',
    'waiting_on TEXT CHECK (waiting_on IS NULL OR status = ''waiting'' OR status = ''paused'')'),
    '-- The failure that halted it, as in `error`, with its traceback.',
    '-- The failure that halted it, or for which it pauses, as in `error`, with its traceback.'),
    'halted_by ANY CHECK (halted_by IS NULL OR status = ''halted'')',
    'halted_by ANY CHECK (halted_by IS NULL OR status = ''halted'' OR status = ''paused'')')
WHERE type = 'table' AND name = 'stepwell_runs';

PRAGMA writable_schema = RESET;

DROP INDEX stepwell_runs_paused;
CREATE INDEX stepwell_runs_paused ON stepwell_runs (status) WHERE paused = 1;

-- Schedules ------------------------------------------------------------------------------------------------------------

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

-- Acts on many runs ----------------------------------------------------------------------------------------------------

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

-- Empty but for what is under way.
CREATE INDEX stepwell_bulk_acts_open ON stepwell_bulk_acts (worker) WHERE ended_at IS NULL;
