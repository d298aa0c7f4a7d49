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
-- --- steps that are started by themselves -----------------------------------------------------------------------------

CREATE TABLE stepwell_steps (
    -- The names that such runs have had in the place of a workflow's ("step:" and the name of the step), so that a worker
    -- knows which of its steps to look for.
    name TEXT NOT NULL PRIMARY KEY CHECK (name <> '')
) STRICT, WITHOUT ROWID;

-- --- starts whose id belongs to a run ---------------------------------------------------------------------------------

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

-- Finding runs among a million -----------------------------------------------------------------------------------------
-- Each of the first three (by workflow, creation, start) costs half a microsecond when a run starts; ADR 0063. The
-- others are of few runs.

CREATE INDEX stepwell_runs_by_workflow ON stepwell_runs (workflow);
-- Again, after that: of two that do, SQLite takes the later one.
DROP INDEX stepwell_runs_pending;
CREATE INDEX stepwell_runs_pending ON stepwell_runs (workflow)
    WHERE status = 'pending' AND queued = 0 AND suspect = 0 AND paused = 0;
CREATE INDEX stepwell_runs_by_creation ON stepwell_runs (created_at);
CREATE INDEX stepwell_runs_by_start ON stepwell_runs (started_at) WHERE started_at IS NOT NULL;
CREATE INDEX stepwell_runs_by_queue ON stepwell_runs (queue) WHERE queue IS NOT NULL;
CREATE INDEX stepwell_runs_cancelled ON stepwell_runs (status) WHERE status = 'cancelled';
-- Those that did not go well, of one workflow.
CREATE INDEX stepwell_runs_unwell ON stepwell_runs (workflow, status) WHERE status = 'failed' OR status = 'cancelled';
-- Those that wait in no memory, whether they are due some day or not.
CREATE INDEX stepwell_runs_parked ON stepwell_runs (key) WHERE status = 'waiting' AND owner IS NULL;

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

-- Streams --------------------------------------------------------------------------------------------------------------

INSERT INTO stepwell_journal_kinds (kind, operation, delivered) VALUES ('streamed', 'stream', 1), ('stream_failed', 'stream', 1);

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

-- With the operation, so that the items of one are found without the rows of the others.
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

-- Promises -------------------------------------------------------------------------------------------------------------

INSERT INTO stepwell_journal_kinds (kind, operation, delivered) VALUES
    ('promised', 'promise', 0), ('promise_kept', 'promise', 1), ('promise_failed', 'promise', 1);

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
-- Updates --------------------------------------------------------------------------------------------------------------
-- An update is a message that a function of the run's code answers. Its name and its key begin with the character 31, so no
-- message of a user's has the same. The answer stands beside it: it can be asked for again by the key.

INSERT INTO stepwell_journal_kinds (kind, operation, delivered) VALUES
    ('update', 'update', 1),
    ('answered', 'answer', 1),
    ('update_failed', 'answer', 1);

-- The operation that it is in the journal of the run, once its code has taken it on; NULL where it was refused.
ALTER TABLE stepwell_messages ADD COLUMN op INTEGER CHECK (op IS NULL OR op >= 1);
ALTER TABLE stepwell_messages ADD COLUMN answered_at INTEGER;
-- 1: the answer is a failure, as those in the journal, or says why the update was refused.
ALTER TABLE stepwell_messages ADD COLUMN failed INTEGER NOT NULL DEFAULT 0 CHECK (failed = 0 OR failed = 1);
ALTER TABLE stepwell_messages ADD COLUMN answer ANY CHECK (answer IS NULL OR answered_at IS NOT NULL);

-- Empty but for updates.
CREATE INDEX stepwell_messages_by_op ON stepwell_messages (run, op) WHERE op IS NOT NULL;

DROP VIEW stepwell_message_view;
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

-- Looks at other runs --------------------------------------------------------------------------------------------------

INSERT INTO stepwell_journal_kinds (kind, operation, delivered) VALUES ('looked', 'look', 1), ('look_failed', 'look', 1);

-- Versions -------------------------------------------------------------------------------------------------------------

-- Of the workflows that have one: [workflow, version] of each as JSON; NULL: none has.
ALTER TABLE stepwell_workers ADD COLUMN versions TEXT;
-- Every claim asks for them; where nobody has any, this is empty.
CREATE INDEX stepwell_workers_by_versions ON stepwell_workers (epoch) WHERE versions IS NOT NULL AND ended_at IS NULL;
-- Only what somebody counts the versions of costs anything.
CREATE INDEX stepwell_runs_by_version ON stepwell_runs (workflow, version) WHERE version IS NOT NULL AND ended_at IS NULL;
