-- The SQL of the read side. Read by queries.py; used by reader.py.
-- Wherever a run's record is read, the columns are the fields of model.RunRecord in their order; for a journal entry
-- those of journal.Entry, for a message those of model.Message.

-- name: read_begun
-- A snapshot for reads that must agree with each other.
BEGIN;

-- name: read_ended
COMMIT;

-- name: run_by_id
-- ?1 id.
SELECT key, id, workflow, status, input, fingerprint, created_at, updated_at, started_at, result, error,
    reason, owner, wake_at, deadline_at, parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at
FROM stepwell_runs WHERE id = ?1;

-- name: run_by_key
-- ?1 key.
SELECT key, id, workflow, status, input, fingerprint, created_at, updated_at, started_at, result, error,
    reason, owner, wake_at, deadline_at, parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at
FROM stepwell_runs WHERE key = ?1;

-- name: runs_listed
-- Walks back from the newest run until enough match. The parameters of this and the next three:
-- ?1 statuses as a JSON array or NULL, ?2 workflow or NULL, ?3 id at least or NULL, ?4 id below or NULL,
-- ?5 parent or NULL, ?6 created after or NULL, ?7 created before or NULL, ?8 key below, ?9 limit.
SELECT key, id, workflow, status, input, fingerprint, created_at, updated_at, started_at, result, error,
    reason, owner, wake_at, deadline_at, parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at
FROM stepwell_runs
WHERE (?1 IS NULL OR status IN (SELECT value FROM json_each(?1)))
    AND (?2 IS NULL OR workflow = ?2)
    AND (?3 IS NULL OR (id >= ?3 AND id < ?4))
    AND (?5 IS NULL OR parent = ?5)
    AND (?6 IS NULL OR created_at > ?6)
    AND (?7 IS NULL OR created_at < ?7)
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: runs_listed_by_parent
-- The children of one run, by their index.
SELECT key, id, workflow, status, input, fingerprint, created_at, updated_at, started_at, result, error,
    reason, owner, wake_at, deadline_at, parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at
FROM stepwell_runs
WHERE (?1 IS NULL OR status IN (SELECT value FROM json_each(?1)))
    AND (?2 IS NULL OR workflow = ?2)
    AND (?3 IS NULL OR (id >= ?3 AND id < ?4))
    AND parent = ?5
    AND (?6 IS NULL OR created_at > ?6)
    AND (?7 IS NULL OR created_at < ?7)
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: runs_listed_by_prefix
-- Runs whose id begins in some way, by the index on the id. The keys are sorted first and the rows fetched afterwards:
-- with a prefix that many runs have, sorting whole rows took seconds.
SELECT key, id, workflow, status, input, fingerprint, created_at, updated_at, started_at, result, error,
    reason, owner, wake_at, deadline_at, parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at
FROM stepwell_runs
WHERE key IN (
    SELECT run.key FROM stepwell_runs AS run
    WHERE (?1 IS NULL OR run.status IN (SELECT value FROM json_each(?1)))
        AND (?2 IS NULL OR run.workflow = ?2)
        AND run.id >= ?3 AND run.id < ?4
        AND (?5 IS NULL OR run.parent = ?5)
        AND (?6 IS NULL OR run.created_at > ?6)
        AND (?7 IS NULL OR run.created_at < ?7)
        AND +run.key < ?8
    ORDER BY run.key DESC LIMIT ?9
)
ORDER BY key DESC;

-- name: runs_listed_by_status
-- Runs in one of the states that stepwell_runs_by_status holds; ?1 is one status here. The second line repeats the
-- index's condition, by which SQLite knows that it may use it.
SELECT key, id, workflow, status, input, fingerprint, created_at, updated_at, started_at, result, error,
    reason, owner, wake_at, deadline_at, parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at
FROM stepwell_runs
WHERE status = ?1
    AND (status = 'running' OR status = 'pending' OR status = 'halted' OR status = 'failed')
    AND (?2 IS NULL OR workflow = ?2)
    AND (?3 IS NULL OR (id >= ?3 AND id < ?4))
    AND (?5 IS NULL OR parent = ?5)
    AND (?6 IS NULL OR created_at > ?6)
    AND (?7 IS NULL OR created_at < ?7)
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: journal
-- ?1 run, ?2 after position, ?3 limit.
SELECT run, op, kind, name, fingerprint, at, value, attempt, started_at, position
FROM stepwell_journal WHERE run = ?1 AND position > ?2 ORDER BY position LIMIT ?3;

-- name: loaded_runs
-- ?1 keys as a JSON array.
SELECT key, id, workflow, status, input, fingerprint, created_at, updated_at, started_at, result, error,
    reason, owner, wake_at, deadline_at, parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at
FROM stepwell_runs WHERE key IN (SELECT value FROM json_each(?1));

-- name: loaded_entries
-- ?1 keys as a JSON array. Ordered within each run by the index.
SELECT run, op, kind, name, fingerprint, at, value, attempt, started_at, position
FROM stepwell_journal WHERE run IN (SELECT value FROM json_each(?1)) ORDER BY run, position;

-- name: loaded_messages
-- ?1 keys as a JSON array.
SELECT run, position, name, value, sent_at
FROM stepwell_messages WHERE run IN (SELECT value FROM json_each(?1)) AND taken_at IS NULL ORDER BY run, position;

-- name: value
-- ?1 run, ?2 key.
SELECT value, at FROM stepwell_values WHERE run = ?1 AND key = ?2;

-- name: values_of_run
-- ?1 run.
SELECT key, value FROM stepwell_values WHERE run = ?1 ORDER BY key;

-- name: running
SELECT key FROM stepwell_runs WHERE status = 'running' ORDER BY key;

-- name: halted
SELECT key FROM stepwell_runs WHERE status = 'halted' ORDER BY key;

-- name: due
-- ?1 now, ?2 limit.
SELECT key FROM stepwell_runs WHERE status = 'waiting' AND wake_at IS NOT NULL AND wake_at <= ?1
ORDER BY wake_at, key LIMIT ?2;

-- name: next_wake
-- ?1 after.
SELECT wake_at FROM stepwell_runs WHERE status = 'waiting' AND wake_at IS NOT NULL AND wake_at > ?1 ORDER BY wake_at LIMIT 1;

-- name: pending
-- ?1 workflow, ?2 limit. By workflow, so that a million runs of a workflow that no worker has do not stand in the way.
SELECT key FROM stepwell_runs WHERE status = 'pending' AND workflow = ?1 ORDER BY key LIMIT ?2;

-- name: counts
SELECT status, count(*) FROM stepwell_runs GROUP BY status;

-- name: last_at
-- The newest time in the file. A batch is written in the order of commits, not quite of times, so the last hundred rows
-- of each log are looked at.
SELECT max(
    coalesce((SELECT max(at) FROM (SELECT at FROM stepwell_journal ORDER BY position DESC LIMIT 100)), 0),
    coalesce((SELECT max(updated_at) FROM (SELECT updated_at FROM stepwell_runs ORDER BY key DESC LIMIT 100)), 0),
    coalesce((SELECT max(ended_at) FROM stepwell_runs WHERE ended_at IS NOT NULL), 0),
    coalesce((SELECT max(sent_at) FROM (SELECT sent_at FROM stepwell_messages ORDER BY position DESC LIMIT 100)), 0),
    coalesce((SELECT max(max(started_at, coalesce(ended_at, 0))) FROM
        (SELECT started_at, ended_at FROM stepwell_workers ORDER BY epoch DESC LIMIT 100)), 0)
);
