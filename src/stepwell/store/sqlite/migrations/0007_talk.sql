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
-- Attributes, tags, notes ----------------------------------------------------------------------------------------------
-- What runs are found by. Notes are acts (stepwell_acts, 'note').

INSERT INTO stepwell_journal_kinds (kind, operation, delivered) VALUES ('described', 'describe', 1);

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

-- The runs of one value stand in it by age, so a listing reads what it shows.
CREATE INDEX stepwell_attributes_by_value ON stepwell_attributes (name, kind, value, run);

CREATE TABLE stepwell_tags (
    -- The same in single words.
    run INTEGER NOT NULL REFERENCES stepwell_runs (key),
    tag TEXT NOT NULL CHECK (tag <> ''),
    PRIMARY KEY (run, tag)
) STRICT, WITHOUT ROWID;

CREATE INDEX stepwell_tags_by_tag ON stepwell_tags (tag, run);

-- Settlements ----------------------------------------------------------------------------------------------------------

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
