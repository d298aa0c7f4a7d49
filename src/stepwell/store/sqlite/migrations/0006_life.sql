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
