-- Moving runs that have ended into an archive, which is a file of the same schema. The statements whose names begin with
-- `archive_` are executed on the archive, to which the file is attached as `source`; see archive.py. ?1 is keys of runs, a
-- JSON array. Rows keep the keys of their runs, as parents are named by them; what numbers rows of one table only is
-- given anew, but for positions in the journal: these are moved together, for chapters begin at them.

-- name: archivable
-- Of these runs those that can leave the file now, by key, with how many journal entries each has: it has ended, no run
-- is to follow it, and its parent, who may still ask for its result, has ended.
SELECT run.key, run.id, (SELECT count(*) FROM stepwell_journal WHERE run = run.key) FROM stepwell_runs AS run
WHERE run.key IN (SELECT value FROM json_each(?1)) AND run.ended_at IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM stepwell_replacements WHERE run = run.key)
AND NOT EXISTS (SELECT 1 FROM stepwell_runs AS parent WHERE parent.key = run.parent AND parent.ended_at IS NULL)
ORDER BY run.key DESC;

-- name: archive_strangers
-- Runs of the archive that have a key or an id of these, and are others: key here, id here, and whether the key is taken.
SELECT old.key, old.id, old.key IN (SELECT value FROM json_each(?1)) FROM main.stepwell_runs AS old
WHERE old.key IN (SELECT value FROM json_each(?1))
AND old.id <> (SELECT id FROM source.stepwell_runs AS new WHERE new.key = old.key)
UNION ALL SELECT old.key, old.id, 0 FROM source.stepwell_runs AS new JOIN main.stepwell_runs AS old ON old.id = new.id
WHERE new.key IN (SELECT value FROM json_each(?1)) AND old.key <> new.key;

-- name: archive_shift
-- By how much positions in the journal grow, so that they are free in the archive.
SELECT max(0, ifnull((SELECT max(position) FROM main.stepwell_journal), 0) + 1
    - ifnull((SELECT min(position) FROM source.stepwell_journal WHERE run IN (SELECT value FROM json_each(?1))), 1));

-- name: archive_runs
INSERT INTO main.stepwell_runs SELECT * FROM source.stepwell_runs WHERE key IN (SELECT value FROM json_each(?1));

-- name: archive_runs_shifted
-- ?2 the shift.
UPDATE main.stepwell_runs SET journal_from = journal_from + iif(journal_from > 0, ?2, 0),
    crash_position = crash_position + iif(crash_position > 0, ?2, 0)
WHERE key IN (SELECT value FROM json_each(?1));

-- name: archive_journals
-- ?2 the shift.
INSERT INTO main.stepwell_journal (position, run, op, kind, name, fingerprint, at, value, attempt, started_at)
SELECT position + ?2, run, op, kind, name, fingerprint, at, value, attempt, started_at FROM source.stepwell_journal
WHERE run IN (SELECT value FROM json_each(?1));

-- name: archive_chapters
INSERT INTO main.stepwell_chapters SELECT * FROM source.stepwell_chapters
WHERE run IN (SELECT value FROM json_each(?1));

-- name: archive_chapters_shifted
-- ?2 the shift.
UPDATE main.stepwell_chapters SET journal_from = journal_from + iif(journal_from > 0, ?2, 0)
WHERE run IN (SELECT value FROM json_each(?1));

-- name: archive_messages
INSERT INTO main.stepwell_messages (run, name, value, key, sent_at, taken_at, sender, op, answered_at, failed, answer)
SELECT run, name, value, key, sent_at, taken_at, sender, op, answered_at, failed, answer FROM source.stepwell_messages
WHERE run IN (SELECT value FROM json_each(?1)) ORDER BY position;

-- name: archive_values
INSERT INTO main.stepwell_values SELECT * FROM source.stepwell_values WHERE run IN (SELECT value FROM json_each(?1));

-- name: archive_summaries
INSERT INTO main.stepwell_summaries SELECT * FROM source.stepwell_summaries
WHERE run IN (SELECT value FROM json_each(?1));

-- name: archive_progress
INSERT INTO main.stepwell_progress SELECT * FROM source.stepwell_progress
WHERE run IN (SELECT value FROM json_each(?1));

-- name: archive_streams
INSERT INTO main.stepwell_streams (run, name, next, first, last_op, closed_by, closed_at)
SELECT run, name, next, first, last_op, closed_by, closed_at FROM source.stepwell_streams
WHERE run IN (SELECT value FROM json_each(?1));

-- name: archive_stream_items
INSERT INTO main.stepwell_stream_items (stream, number, op, attempt, superseded, at, value)
SELECT new.key, item.number, item.op, item.attempt, item.superseded, item.at, item.value
FROM source.stepwell_streams AS old JOIN main.stepwell_streams AS new ON new.run = old.run AND new.name = old.name
JOIN source.stepwell_stream_items AS item ON item.stream = old.key
WHERE old.run IN (SELECT value FROM json_each(?1)) ORDER BY item.position;

-- name: archive_attributes
INSERT INTO main.stepwell_attributes SELECT * FROM source.stepwell_attributes
WHERE run IN (SELECT value FROM json_each(?1));

-- name: archive_tags
INSERT INTO main.stepwell_tags SELECT * FROM source.stepwell_tags WHERE run IN (SELECT value FROM json_each(?1));

-- name: archive_settlements
INSERT INTO main.stepwell_settlements SELECT * FROM source.stepwell_settlements
WHERE run IN (SELECT value FROM json_each(?1));

-- name: archive_promises
INSERT INTO main.stepwell_promises (token, run, op, state, created_at, deadline_at, ended_at, by, form, answer)
SELECT token, run, op, state, created_at, deadline_at, ended_at, by, form, answer FROM source.stepwell_promises
WHERE run IN (SELECT value FROM json_each(?1)) ORDER BY number;

-- name: archive_acts
INSERT INTO main.stepwell_acts (at, act, run, by, reason) SELECT at, act, run, by, reason FROM source.stepwell_acts
WHERE run IN (SELECT value FROM json_each(?1)) ORDER BY id;

-- name: archive_steps
-- Which workflows are steps that were started by themselves.
INSERT OR IGNORE INTO main.stepwell_steps SELECT step.name FROM source.stepwell_steps AS step WHERE step.name IN (
    SELECT workflow FROM source.stepwell_runs WHERE key IN (SELECT value FROM json_each(?1))
);

-- name: archive_noted
-- ?2 when, ?3 who, ?4 why: what the archive remembers of each run.
INSERT INTO main.stepwell_acts (at, act, run, by, reason)
SELECT ?2, 'archive', key, ?3, ?4 FROM main.stepwell_runs WHERE key IN (SELECT value FROM json_each(?1));
