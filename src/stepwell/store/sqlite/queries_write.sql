-- The SQL of the write side. Read by queries.py; used by changes.py, writer.py and lent.py.
-- Times are microseconds since the Unix epoch. "epoch" is that of the writing worker's claim.

-- name: begin
-- Takes SQLite's write lock at once: a read transaction that upgrades later can fail without waiting.
BEGIN IMMEDIATE;

-- name: commit
COMMIT;

-- name: rollback
ROLLBACK;

-- name: savepoint
-- One name serves at any depth: SQLite means the innermost.
SAVEPOINT stepwell_unit;

-- name: savepoint_kept
RELEASE stepwell_unit;

-- name: savepoint_undone
ROLLBACK TO stepwell_unit;

-- name: page_size
PRAGMA page_size;

-- name: busy_timeout
PRAGMA busy_timeout;

-- name: worker_registered
-- ?1 pid, ?2 host, ?3 now. Returns the epoch.
INSERT INTO stepwell_workers (pid, host, started_at) VALUES (?1, ?2, ?3) RETURNING epoch;

-- name: worker_may_write
-- ?1 epoch. A row unless the worker has ended or was fenced.
SELECT 1 FROM stepwell_workers WHERE epoch = ?1 AND ended_at IS NULL;

-- name: worker_state
-- ?1 epoch. For the message that refuses its write.
SELECT fenced, pid, host FROM stepwell_workers WHERE epoch = ?1;

-- name: worker_ended
-- ?1 epoch, ?2 now.
UPDATE stepwell_workers SET ended_at = ?2 WHERE epoch = ?1 AND ended_at IS NULL;

-- name: worker_fenced
-- ?1 epoch, ?2 now.
UPDATE stepwell_workers SET fenced = 1, ended_at = coalesce(ended_at, ?2) WHERE epoch = ?1;

-- name: earlier_workers_fenced
-- ?1 epoch, ?2 now. The workers before this one that did not end in order; they must never write again.
UPDATE stepwell_workers SET fenced = 1, ended_at = ?2 WHERE epoch < ?1 AND ended_at IS NULL;

-- name: runs_recovered
-- ?1 epoch. The new owner takes over what earlier workers were running.
UPDATE stepwell_runs SET owner = ?1 WHERE status = 'running' AND owner < ?1;

-- name: trace_left
-- ?1 epoch. Evidence for a transaction that adds no row. Returns the count.
UPDATE stepwell_workers SET traces = traces + 1 WHERE epoch = ?1 RETURNING traces;

-- name: evidence_of_trace
-- ?1 epoch, ?2 count.
SELECT 1 FROM stepwell_workers WHERE epoch = ?1 AND traces >= ?2;

-- name: evidence_of_worker
-- ?1 epoch.
SELECT 1 FROM stepwell_workers WHERE epoch = ?1;

-- name: evidence_of_fence
-- ?1 epoch.
SELECT 1 FROM stepwell_workers WHERE epoch = ?1 AND fenced = 1;

-- name: evidence_of_entry
-- ?1 position, ?2 run, ?3 op, ?4 kind, ?5 at.
SELECT 1 FROM stepwell_journal WHERE position = ?1 AND run = ?2 AND op = ?3 AND kind = ?4 AND at = ?5;

-- name: evidence_of_run
-- ?1 key, ?2 id.
SELECT 1 FROM stepwell_runs WHERE key = ?1 AND id = ?2;

-- name: evidence_of_message
-- ?1 position, ?2 run, ?3 sent_at.
SELECT 1 FROM stepwell_messages WHERE position = ?1 AND run = ?2 AND sent_at = ?3;

-- name: entry_appended
-- The columns are the fields of journal.Entry in their order, without the position. The row is repeated by
-- queries.ladder. OR FAIL and not the default ABORT: an error undoes the whole transaction, or the savepoint, anyway,
-- so SQLite need not keep a copy of each page for undoing the statement alone.
INSERT OR FAIL INTO stepwell_journal (run, op, kind, name, fingerprint, at, value, attempt, started_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: run_created
-- Nothing happens where the id exists.
INSERT INTO stepwell_runs
    (id, workflow, status, input, fingerprint, created_at, updated_at, started_at, reason, owner, deadline_at,
     parent, parent_op, attached)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, iif(?3 = 'running', ?6, NULL), ?7, ?8, ?9, ?10, ?11, ?12)
ON CONFLICT (id) DO NOTHING;

-- name: run_record_by_id
-- ?1 id. The columns are the fields of model.RunRecord in their order, here and wherever a record is read.
SELECT key, id, workflow, status, input, fingerprint, created_at, updated_at, started_at, result, error,
    reason, owner, wake_at, deadline_at, parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at
FROM stepwell_runs WHERE id = ?1;

-- name: run_state
-- ?1 key. For the message that refuses a change.
SELECT id, status, owner FROM stepwell_runs WHERE key = ?1;

-- name: run_state_by_id
-- ?1 id.
SELECT key, status FROM stepwell_runs WHERE id = ?1;

-- name: run_moved
-- ?1 run, ?2 status, ?3 at, ?4 wake_at, ?5 reason, ?6 the owner afterwards, ?7 epoch.
UPDATE stepwell_runs SET status = ?2, updated_at = ?3, wake_at = ?4, reason = ?5, owner = ?6,
    started_at = iif(?2 = 'running', coalesce(started_at, ?3), started_at)
WHERE key = ?1 AND ended_at IS NULL AND (owner IS NULL OR owner = ?7);

-- name: run_finished
-- ?1 run, ?2 status, ?3 at, ?4 result, ?5 error, ?6 reason, ?7 epoch. No RETURNING: it costs 6 us, and what is
-- wanted is the row before (run_ties).
UPDATE stepwell_runs SET status = ?2, updated_at = ?3, ended_at = ?3, result = ?4, error = ?5, reason = ?6,
    owner = NULL, wake_at = NULL
WHERE key = ?1 AND ended_at IS NULL AND (owner IS NULL OR owner = ?7)
    AND NOT (status = 'pending' AND ?2 = 'completed');

-- name: run_ties
-- ?1 run. Its parent, whether it has messages, whether it is watched: most runs have none, and need no more statements.
SELECT
    parent,
    EXISTS (SELECT 1 FROM stepwell_messages WHERE run = ?1),
    EXISTS (SELECT 1 FROM stepwell_watches WHERE run = ?1)
FROM stepwell_runs WHERE key = ?1;

-- name: unreceived_messages_deleted
-- ?1 run.
DELETE FROM stepwell_messages WHERE run = ?1 AND taken_at IS NULL;

-- name: watchers
-- ?1 run.
SELECT watcher FROM stepwell_watches WHERE run = ?1;

-- name: watchers_removed
-- ?1 run.
DELETE FROM stepwell_watches WHERE run = ?1;

-- name: run_woken
-- ?1 run, ?2 at.
UPDATE stepwell_runs SET wake_at = ?2 WHERE key = ?1 AND status = 'waiting' AND (wake_at IS NULL OR wake_at > ?2);

-- name: cancel_requested
-- ?1 id, ?2 at, ?3 reason. The first request's time and reason stay. Returns the record.
UPDATE stepwell_runs SET
    updated_at = ?2,
    cancel_reason = CASE WHEN cancel_requested_at IS NULL THEN ?3 ELSE cancel_reason END,
    cancel_requested_at = coalesce(cancel_requested_at, ?2),
    wake_at = CASE WHEN status = 'waiting' THEN min(coalesce(wake_at, ?2), ?2) END
WHERE id = ?1 AND ended_at IS NULL
RETURNING key, id, workflow, status, input, fingerprint, created_at, updated_at, started_at, result, error,
    reason, owner, wake_at, deadline_at, parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at;

-- name: children_cancelled
-- ?1 parent, ?2 at, ?3 reason. Returns the keys of the attached children that have not ended.
UPDATE stepwell_runs SET
    updated_at = ?2,
    cancel_reason = CASE WHEN cancel_requested_at IS NULL THEN ?3 ELSE cancel_reason END,
    cancel_requested_at = coalesce(cancel_requested_at, ?2),
    wake_at = CASE WHEN status = 'waiting' THEN min(coalesce(wake_at, ?2), ?2) END
WHERE parent = ?1 AND attached = 1 AND ended_at IS NULL
RETURNING key;

-- name: message_sent
-- ?1 run, ?2 name, ?3 value, ?4 key, ?5 sent_at. Nothing happens where the run has seen the key.
INSERT INTO stepwell_messages (run, name, value, key, sent_at) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (run, key) WHERE key IS NOT NULL DO NOTHING;

-- name: message_key_seen
-- ?1 run, ?2 key.
SELECT 1 FROM stepwell_messages WHERE run = ?1 AND key = ?2;

-- name: message_taken
-- ?1 run, ?2 position. A message without a key is gone once it is taken.
DELETE FROM stepwell_messages WHERE position = ?2 AND run = ?1 AND key IS NULL;

-- name: keyed_message_taken
-- ?1 run, ?2 position, ?3 at. A message with a key leaves the key behind.
UPDATE stepwell_messages SET value = NULL, taken_at = ?3 WHERE position = ?2 AND run = ?1 AND taken_at IS NULL;

-- name: value_published
-- ?1 run, ?2 key, ?3 value, ?4 at.
INSERT INTO stepwell_values (run, key, value, at) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (run, key) DO UPDATE SET value = excluded.value, at = excluded.at;

-- name: watch_added
-- ?1 run, ?2 watcher.
INSERT INTO stepwell_watches (run, watcher) VALUES (?1, ?2) ON CONFLICT DO NOTHING;

-- name: purgeable
-- ?1 ended before, ?2 limit. Keys, the longest ended first. A child stays while its parent lives: the parent may still
-- ask for its result.
SELECT run.key FROM stepwell_runs AS run
WHERE run.ended_at IS NOT NULL AND run.ended_at < ?1 AND NOT EXISTS (
    SELECT 1 FROM stepwell_runs AS parent WHERE parent.key = run.parent AND parent.ended_at IS NULL
)
ORDER BY run.ended_at LIMIT ?2;

-- name: journals_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_journal WHERE run IN (SELECT value FROM json_each(?1));

-- name: messages_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_messages WHERE run IN (SELECT value FROM json_each(?1));

-- name: values_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_values WHERE run IN (SELECT value FROM json_each(?1));

-- name: watches_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_watches WHERE run IN (SELECT value FROM json_each(?1));

-- name: watchings_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_watches WHERE watcher IN (SELECT value FROM json_each(?1));

-- name: runs_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_runs WHERE key IN (SELECT value FROM json_each(?1));
