-- What others say to a run while it lives, and what is found by: requests and their answers, promises, streams, progress,
-- attributes. Times are as in the first schema. One section for each; what is a closed set in the code is another row of its
-- small table (see 0005_reasons.sql).

-- Forks ----------------------------------------------------------------------------------------------------------------

-- Of the first chapter of a run that was forked from another one: the id that this had, the operation, and a checksum of
-- what was given in place of what that run had, so that the same fork is known again.
ALTER TABLE stepwell_chapters ADD COLUMN forked_from TEXT;
ALTER TABLE stepwell_chapters ADD COLUMN forked_op INTEGER;
ALTER TABLE stepwell_chapters ADD COLUMN forked_as INTEGER
    CHECK ((forked_as IS NULL) = (forked_from IS NULL) AND (forked_op IS NULL) = (forked_from IS NULL));

-- --- steps written where they are called ------------------------------------------------------------------------------

CREATE TABLE stepwell_summaries (
    -- What a call of a step is about, in a line for people. Few calls have one, so it is no column of the journal.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    op INTEGER NOT NULL CHECK (op > 0),
    summary TEXT NOT NULL CHECK (summary <> ''),
    PRIMARY KEY (run, op)
) STRICT, WITHOUT ROWID;
