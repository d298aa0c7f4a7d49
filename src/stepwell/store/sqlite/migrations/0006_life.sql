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
