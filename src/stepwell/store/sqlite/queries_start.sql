-- The SQL of starts whose id belongs to a run already, and of starts of steps. Read by `named_sql`; used by `sql/successors.py` and
-- `sql/creation.py`. Times are
-- microseconds since the Unix epoch.

-- name: step_started
-- ?1 name.
INSERT INTO stepwell_steps (name) VALUES (?1) ON CONFLICT DO NOTHING;

-- name: started_steps
SELECT name FROM stepwell_steps;

-- name: last_message
-- Messages with higher positions are sent after this.
SELECT coalesce(max(position), 0) FROM stepwell_messages;

-- name: last_op
-- ?1 run. The highest number of an operation of any of its chapters; a step that was started has one that is not in the
-- journal where it returned.
SELECT max(
    coalesce((SELECT max(op) FROM stepwell_journal WHERE run = ?1), 0),
    coalesce((SELECT max(ops_before) FROM stepwell_chapters WHERE run = ?1), 0)
        + (SELECT workflow LIKE 'step:%' FROM stepwell_runs WHERE key = ?1)
);

-- name: workflow_of
-- ?1 run.
SELECT workflow FROM stepwell_runs WHERE key = ?1;

-- name: replacement_noted
-- ?1 run, ?2 at, ?3 input, ?4 fingerprint, ?5 deadline_at, ?6 ahead, ?7 reason, ?8 messages_after, ?9 entry as JSON. The last
-- start is the one that counts.
INSERT INTO stepwell_replacements (run, at, input, fingerprint, deadline_at, ahead, reason, messages_after, entry)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
ON CONFLICT (run) DO UPDATE SET at = excluded.at, input = excluded.input, fingerprint = excluded.fingerprint,
    deadline_at = excluded.deadline_at, ahead = excluded.ahead, reason = excluded.reason,
    messages_after = excluded.messages_after, entry = excluded.entry;

-- name: replacement_of
-- ?1 run.
SELECT at, input, fingerprint, deadline_at, ahead, reason, messages_after, entry FROM stepwell_replacements WHERE run = ?1;

-- name: replacement_dropped
-- ?1 run.
DELETE FROM stepwell_replacements WHERE run = ?1;

-- name: replacements_of_children_dropped
-- ?1 parent.
DELETE FROM stepwell_replacements WHERE run IN (
    SELECT key FROM stepwell_runs WHERE parent = ?1 AND attached = 1 AND ended_at IS NULL
);

-- name: replacements_purged
-- ?1 keys of runs as a JSON array.
DELETE FROM stepwell_replacements WHERE run IN (SELECT value FROM json_each(?1));

-- name: messages_before_deleted
-- ?1 run, ?2 position of the last one that was meant for the run before.
DELETE FROM stepwell_messages WHERE run = ?1 AND position <= ?2;

-- name: run_started_anew
-- ?1 run, ?2 at, ?3 journal_from, ?4 input, ?5 fingerprint, ?6 deadline_at, ?7 ahead, ?8 reason, ?9 queue. A run that has
-- ended is one that nobody has begun. Whose child it is, only its parent's end changes: that may wait for it.
UPDATE stepwell_runs SET
    status = 'pending', updated_at = ?2, started_at = NULL, ended_at = NULL, result = NULL, error = NULL, reason = ?8,
    owner = NULL, wake_at = NULL, waiting_on = NULL, halted_by = NULL, remedy = NULL, queue_place = NULL, resumed = 0,
    paused = 0, journal_from = ?3, deadline_at = ?6, queue = ?9, queued = (?9 IS NOT NULL), crashes = 0, suspect = 0,
    crash_position = (SELECT max(position) FROM stepwell_journal WHERE run = ?1),
    cancel_requested_at = NULL, cancel_reason = NULL, input = ?4, fingerprint = ?5, ahead = ?7, version = NULL
WHERE key = ?1;
