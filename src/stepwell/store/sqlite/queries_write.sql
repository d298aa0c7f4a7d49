-- The SQL of the write side. Read by `named_sql`; used by `run_changes`, `writer` and `user_connection`.
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
-- ?1 pid, ?2 host, ?3 now, ?4 slot, ?5 takes_work, ?6 workflows, ?7 queues, ?8 versions. Returns the epoch.
INSERT INTO stepwell_workers (pid, host, started_at, slot, takes_work, workflows, queues, versions)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING epoch;

-- name: worker_serves
-- ?1 epoch, ?2 workflows, ?3 versions.
UPDATE stepwell_workers SET workflows = ?2, versions = ?3 WHERE epoch = ?1;

-- name: workers_forgotten
-- ?1 epoch, ?2 how many. Of the workers up to that epoch those that have ended, the oldest first. AUTOINCREMENT remembers
-- the epochs that were used, and a worker without a row may write no more than one that has ended.
DELETE FROM stepwell_workers WHERE epoch IN (
    SELECT epoch FROM stepwell_workers WHERE epoch <= ?1 AND ended_at IS NOT NULL ORDER BY epoch LIMIT ?2
);

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
-- ?1 epoch, ?2 now. Not before anything that was written until then: who fences may have read the clock some time ago.
UPDATE stepwell_workers SET fenced = 1, ended_at = coalesce(ended_at, max(?2, coalesce((
    SELECT max(at) FROM (SELECT at FROM stepwell_journal ORDER BY position DESC LIMIT 100)
), 0))) WHERE epoch = ?1;

-- name: workers_not_ended
-- The workers that live, or have died unnoticed, by age.
SELECT epoch, slot FROM stepwell_workers WHERE ended_at IS NULL ORDER BY epoch;

-- name: crashes_counted
-- ?1 epoch, ?2 now, ?3 1 where the worker crashed. Before its runs are released. A crash counts for what was running, or
-- due; progress since the last crash begins the count anew.
UPDATE stepwell_runs SET
    crashes = CASE
        WHEN {came_further} THEN ?3 AND (status = 'running' OR ifnull(wake_at <= ?2, 0))
        ELSE crashes + (?3 AND (status = 'running' OR ifnull(wake_at <= ?2, 0)))
    END,
    crash_position = CASE
        WHEN ?3 AND (status = 'running' OR wake_at <= ?2)
            THEN coalesce((SELECT max(position) FROM stepwell_journal WHERE run = key), 0)
        ELSE crash_position
    END,
    suspect = 0
WHERE owner = ?1 AND owner IS NOT NULL AND (?3 OR crashes > 0);

-- name: runs_of_worker_released
-- ?1 epoch, ?2 now, ?3 from how many crashes on a run is a suspect. Its runs are anyone's now. What it was running is due,
-- and whatever something came for that it may not have looked at. One that was to pause is paused.
UPDATE stepwell_runs SET
    owner = NULL,
    status = iif(paused = 1, 'paused', 'waiting'),
    updated_at = iif(status = 'running', ?2, updated_at),
    wake_at = CASE
        WHEN paused = 1 THEN NULL
        WHEN status = 'running' OR cancel_requested_at IS NOT NULL
            OR EXISTS (SELECT 1 FROM stepwell_wakes WHERE run = key)
            OR EXISTS (SELECT 1 FROM stepwell_messages WHERE run = stepwell_runs.key AND taken_at IS NULL)
            THEN min(coalesce(wake_at, ?2), ?2)
        ELSE wake_at
    END,
    suspect = crashes >= ?3
WHERE owner = ?1 AND owner IS NOT NULL;

-- name: stale_wakes_deleted
-- Notes for runs that have no owner any more, after a release.
DELETE FROM stepwell_wakes WHERE (SELECT owner FROM stepwell_runs WHERE key = run) IS NULL;

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
-- Nothing happens where the id exists. The row is repeated by named_sql.ladder, and is made in store.sql.creation.
INSERT INTO stepwell_runs
    (id, workflow, status, input, fingerprint, created_at, updated_at, started_at, reason, owner, deadline_at,
     parent, parent_op, attached, queue, queued, ahead)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING;

-- name: last_run
-- The highest key, 0 where there is none.
SELECT coalesce(max(key), 0) FROM stepwell_runs;

-- name: runs_after
-- ?1 key. The ids and keys of the runs that were created later.
SELECT id, key FROM stepwell_runs WHERE key > ?1;

-- name: run_uncreated
-- ?1 key. Takes back a row that was made just now, in the same transaction, for somebody who was interrupted.
DELETE FROM stepwell_runs WHERE key = ?1;

-- name: earlier_deadline
-- ?1 deadline_at, ?2 key. A row where a run that nobody has begun has an earlier deadline than this one, or the same.
-- Nobody need know of those that are cancelled.
SELECT 1 FROM stepwell_runs INDEXED BY stepwell_runs_by_deadline
WHERE coalesce(cancel_requested_at, deadline_at) IS NOT NULL AND status = 'pending' AND started_at IS NULL
    AND coalesce(cancel_requested_at, deadline_at) <= ?1 AND cancel_requested_at IS NULL AND key <> ?2
LIMIT 1;

-- name: run_state
-- ?1 key. For the message that refuses a change.
SELECT id, status, owner FROM stepwell_runs WHERE key = ?1;

-- name: run_state_by_id
-- ?1 id.
SELECT key, status, owner FROM stepwell_runs WHERE id = ?1;

-- name: run_moved
-- ?1 run, ?2 status, ?3 at, ?4 wake_at, ?5 waiting_on, ?6 epoch, ?7 the owner afterwards, ?8 reason, ?9 halted_by,
-- ?10 remedy.
UPDATE stepwell_runs SET status = ?2, updated_at = ?3, wake_at = ?4, waiting_on = ?5, owner = ?7, reason = ?8,
    halted_by = ?9, remedy = ?10, resumed = iif(?2 = 'halted', 0, resumed),
    paused = CASE ?2 WHEN 'paused' THEN 1 WHEN 'halted' THEN 0 ELSE paused END,
    started_at = iif(?2 = 'running', coalesce(started_at, ?3), started_at), queued = iif(?2 = 'pending', queued, 0)
WHERE key = ?1 AND ended_at IS NULL AND (owner IS NULL OR owner = ?6) AND (status <> 'paused' OR ?2 = 'paused')
    AND NOT (status = 'halted' AND ?2 = 'paused');

-- name: run_moved_by_owner
-- ?1 run, ?2 status, ?3 at, ?4 wake_at, ?5 waiting_on, ?6 epoch. The common case of run_moved: the run is in the worker's
-- memory, and stays. Without the owner among what is set, its index is not touched.
UPDATE stepwell_runs SET status = ?2, updated_at = ?3, wake_at = ?4, waiting_on = ?5, reason = NULL,
    started_at = iif(?2 = 'running', coalesce(started_at, ?3), started_at)
WHERE key = ?1 AND owner = ?6;

-- name: run_finished
-- ?1 run, ?2 status, ?3 at, ?4 result, ?5 error, ?6 reason, ?7 epoch, ?8 whether only if nobody has begun it. No
-- RETURNING: it costs 6 us, and what is wanted is the row before (run_ties).
UPDATE stepwell_runs SET status = ?2, updated_at = ?3, ended_at = ?3, result = ?4, error = ?5, reason = ?6,
    owner = NULL, wake_at = NULL, waiting_on = NULL, halted_by = NULL, remedy = NULL, queued = 0, paused = 0
WHERE key = ?1 AND ended_at IS NULL AND (owner IS NULL OR owner = ?7)
    AND NOT (status = 'pending' AND ?2 = 'completed') AND NOT (status = 'paused' AND ?2 <> 'cancelled') AND (?8 = 0 OR started_at IS NULL);

-- name: run_ties
-- ?1 run. Its parent, whether it has messages, whether it is watched, whether there is a note for its owner, whether it
-- is a suspect, whether it has a place in a queue or permits, whether a schedule waits for its end, whether another start of
-- its id does: most runs have none of it, and need no more statements.
SELECT
    parent,
    EXISTS (SELECT 1 FROM stepwell_messages WHERE run = ?1),
    EXISTS (SELECT 1 FROM stepwell_watches WHERE run = ?1),
    EXISTS (SELECT 1 FROM stepwell_wakes WHERE run = ?1),
    suspect,
    EXISTS (SELECT 1 FROM stepwell_entries WHERE run = ?1),
    EXISTS (SELECT 1 FROM stepwell_schedule_waits WHERE run = ?1),
    cancel_requested_at IS NOT NULL AND EXISTS (SELECT 1 FROM stepwell_replacements WHERE run = ?1)
FROM stepwell_runs WHERE key = ?1;

-- name: runs_ties
-- ?1 keys as a JSON array. The same of many runs, behind the key of each, as one JSON array.
SELECT json_group_array(json_array(
    key,
    parent,
    EXISTS (SELECT 1 FROM stepwell_messages WHERE run = stepwell_runs.key),
    EXISTS (SELECT 1 FROM stepwell_watches WHERE run = stepwell_runs.key),
    EXISTS (SELECT 1 FROM stepwell_wakes WHERE run = stepwell_runs.key),
    suspect,
    EXISTS (SELECT 1 FROM stepwell_entries WHERE run = stepwell_runs.key),
    EXISTS (SELECT 1 FROM stepwell_schedule_waits WHERE run = stepwell_runs.key),
    cancel_requested_at IS NOT NULL AND EXISTS (SELECT 1 FROM stepwell_replacements WHERE run = stepwell_runs.key)
)) FROM stepwell_runs WHERE key IN (SELECT value FROM json_each(?1));

-- name: unreceived_messages_deleted
-- ?1 run.
DELETE FROM stepwell_messages WHERE run = ?1 AND taken_at IS NULL;

-- name: watchers
-- ?1 run.
SELECT watcher FROM stepwell_watches WHERE run = ?1;

-- name: watchers_removed
-- ?1 run.
DELETE FROM stepwell_watches WHERE run = ?1;

-- name: run_made_due
-- ?1 run, ?2 at. For a run that nobody owns, or the writing worker: should that die before it acts, the run is due.
UPDATE stepwell_runs SET wake_at = ?2
WHERE key = ?1 AND status = 'waiting' AND (wake_at IS NULL OR wake_at > ?2);

-- name: wake_noted
-- ?1 run. For a run that another worker owns.
INSERT INTO stepwell_wakes (run) VALUES (?1) ON CONFLICT (run) DO UPDATE SET given = 0 WHERE given = 1;

-- name: run_given
-- ?1 run. For one that was made another worker's own just now.
INSERT INTO stepwell_wakes (run, given) VALUES (?1, 1);

-- name: wake_deleted
-- ?1 run.
DELETE FROM stepwell_wakes WHERE run = ?1;

-- name: wakes_taken
-- ?1 keys as a JSON array, ?2 epoch.
DELETE FROM stepwell_wakes WHERE run IN (
    SELECT run.key FROM stepwell_runs AS run WHERE run.key IN (SELECT value FROM json_each(?1)) AND run.owner = ?2
);

-- name: news_made_due
-- ?1 keys as a JSON array, ?2 epoch. What a note told of is not in the journal yet: should the owner die before that,
-- the run must be due. Its next move sets the time anew.
UPDATE stepwell_runs SET wake_at = updated_at
WHERE key IN (SELECT value FROM json_each(?1)) AND owner = ?2 AND status = 'waiting'
    AND (wake_at IS NULL OR wake_at > updated_at);

-- name: due
-- ?1 workflow, ?2 now, ?3 limit. A JSON array of [wake_at, key], the longest due first. As one value, here and below:
-- apsw lets go of the GIL for every row.
SELECT json_group_array(json_array(wake_at, key)) FROM (
    SELECT wake_at, key FROM stepwell_runs
    WHERE {may_wake}
        AND workflow = ?1 AND wake_at <= ?2
    ORDER BY wake_at, key LIMIT ?3
);

-- name: pending
-- ?1 workflow, ?2 limit. A JSON array of keys by age.
SELECT json_group_array(key) FROM (
    SELECT key FROM stepwell_runs
    WHERE {may_begin} AND workflow = ?1 ORDER BY key LIMIT ?2
);

-- name: workflows_due
-- ?1 now. A JSON array of the workflows of which a run is due. Jumps from one workflow to the next in the index, so that
-- what it costs follows from the workflows in the file, and not from those that the process serves.
WITH RECURSIVE ordinary (workflow) AS (
    SELECT min(workflow) FROM stepwell_runs
    WHERE {may_wake}
    UNION ALL
    SELECT (
        SELECT min(workflow) FROM stepwell_runs
        WHERE {may_wake}
            AND workflow > ordinary.workflow
    ) FROM ordinary WHERE ordinary.workflow IS NOT NULL
)
SELECT json_group_array(workflow) FROM ordinary WHERE workflow IS NOT NULL AND EXISTS (
    SELECT 1 FROM stepwell_runs
    WHERE {may_wake}
        AND workflow = ordinary.workflow AND wake_at <= ?1
);

-- name: workflows_pending
-- The same, of which a run may begin. The index is named because SQLite prefers that on states, in which all pending runs are.
WITH RECURSIVE ordinary (workflow) AS (
    SELECT min(workflow) FROM stepwell_runs INDEXED BY stepwell_runs_pending
    WHERE {may_begin}
    UNION ALL
    SELECT (
        SELECT min(workflow) FROM stepwell_runs INDEXED BY stepwell_runs_pending
        WHERE {may_begin} AND workflow > ordinary.workflow
    ) FROM ordinary WHERE ordinary.workflow IS NOT NULL
)
SELECT json_group_array(workflow) FROM ordinary WHERE workflow IS NOT NULL;

-- name: suspect_due
-- ?1 workflows as a JSON array, ?2 now. The suspect that is due longest, unless one is under way: running, and without
-- progress since its last crash.
SELECT run.wake_at, run.key
FROM json_each(?1) AS wanted CROSS JOIN stepwell_runs AS run ON run.key = (
    SELECT one.key FROM stepwell_runs AS one
    WHERE {suspect_may_wake}
        AND one.workflow = wanted.value AND one.wake_at <= ?2
    ORDER BY one.wake_at, one.key LIMIT 1
)
WHERE NOT EXISTS (
    {suspect_under_way}
)
ORDER BY run.wake_at, run.key LIMIT 1;

-- name: suspect_pending
-- ?1 workflows as a JSON array. The oldest pending suspect, unless one is under way.
SELECT run.key
FROM json_each(?1) AS wanted CROSS JOIN stepwell_runs AS run ON run.key = (
    SELECT one.key FROM stepwell_runs AS one
    WHERE {suspect_may_begin}
        AND one.workflow = wanted.value AND one.wake_at IS NULL
    ORDER BY one.key LIMIT 1
)
WHERE NOT EXISTS (
    {suspect_under_way}
)
ORDER BY run.key LIMIT 1;

-- name: runs_claimed
-- ?1 keys as a JSON array, ?2 at, ?3 epoch. A run that stands in a queue is taken in its turn only. One that waits goes
-- on waiting until its code says otherwise; a suspect counts as under way from here on.
UPDATE stepwell_runs SET
    owner = ?3,
    status = iif(status = 'waiting' AND suspect = 0, 'waiting', 'running'),
    wake_at = iif(status = 'waiting' AND suspect = 0, wake_at, NULL),
    waiting_on = iif(suspect = 0, waiting_on, NULL), halted_by = NULL, remedy = NULL,
    updated_at = ?2, reason = NULL, started_at = coalesce(started_at, ?2)
WHERE key IN (SELECT value FROM json_each(?1)) AND owner IS NULL AND ended_at IS NULL AND queued = 0 AND paused = 0;

-- name: run_resumed
-- ?1 run, ?2 at, ?3 reason. Its crashes so far are forgiven.
UPDATE stepwell_runs SET status = 'pending', resumed = 1, updated_at = ?2, reason = ?3, halted_by = NULL, remedy = NULL,
    crashes = 0, suspect = 0,
    crash_position = coalesce((SELECT max(position) FROM stepwell_journal WHERE run = ?1), 0)
WHERE key = ?1 AND status = 'halted';

-- name: runs_owned
-- ?1 keys as a JSON array, ?2 epoch. A JSON array of those that the worker owns.
SELECT json_group_array(key) FROM stepwell_runs WHERE key IN (SELECT value FROM json_each(?1)) AND owner = ?2;

-- name: runs_released
-- ?1 keys as a JSON array, ?2 epoch. Those with a note stay. One that made progress since its last crash, and was at
-- peace since, is no suspect any more.
UPDATE stepwell_runs SET
    owner = NULL,
    crashes = iif(crashes > 0 AND {came_further}, 0, crashes),
    suspect = iif(suspect = 1 AND {came_further}, 0, suspect)
WHERE key IN (SELECT value FROM json_each(?1)) AND owner = ?2 AND status = 'waiting'
    AND NOT EXISTS (SELECT 1 FROM stepwell_wakes WHERE run = key);

-- name: runs_with_news
-- ?1 keys as a JSON array, ?2 epoch. A JSON array of those that the worker owns and that there is a note for.
SELECT json_group_array(run.key) FROM stepwell_runs AS run
WHERE run.key IN (SELECT value FROM json_each(?1)) AND run.owner = ?2
    AND EXISTS (SELECT 1 FROM stepwell_wakes WHERE run = run.key);

-- name: cancel_requested
-- ?1 id, ?2 at, ?3 reason, ?4 epoch. The first request's time and reason stay. Returns the record.
UPDATE stepwell_runs SET
    updated_at = ?2,
    cancel_reason = CASE WHEN cancel_requested_at IS NULL THEN ?3 ELSE cancel_reason END,
    cancel_requested_at = coalesce(cancel_requested_at, ?2),
    wake_at = CASE
        WHEN status = 'waiting' AND (owner IS NULL OR owner = ?4) THEN min(coalesce(wake_at, ?2), ?2) ELSE wake_at
    END
WHERE id = ?1 AND ended_at IS NULL
RETURNING {run_record};

-- name: children_cancelled
-- ?1 parent, ?2 at, ?3 reason, ?4 epoch. Returns the keys of the attached children that have not ended.
UPDATE stepwell_runs SET
    updated_at = ?2,
    cancel_reason = CASE WHEN cancel_requested_at IS NULL THEN ?3 ELSE cancel_reason END,
    cancel_requested_at = coalesce(cancel_requested_at, ?2),
    wake_at = CASE
        WHEN status = 'waiting' AND (owner IS NULL OR owner = ?4) THEN min(coalesce(wake_at, ?2), ?2) ELSE wake_at
    END
WHERE parent = ?1 AND attached = 1 AND ended_at IS NULL
RETURNING key, status, owner;

-- name: message_sent
-- ?1 run, ?2 name, ?3 value, ?4 key, ?5 sent_at, ?6 epoch. Nothing happens where the run has seen the key.
INSERT INTO stepwell_messages (run, name, value, key, sent_at, sender) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (run, key) WHERE key IS NOT NULL DO NOTHING;

-- name: message_key_seen
-- ?1 run, ?2 key.
SELECT 1 FROM stepwell_messages WHERE run = ?1 AND key = ?2;

-- name: message_taken
-- ?1 run, ?2 position. A message without a key is gone once it is taken.
DELETE FROM stepwell_messages WHERE position = ?2 AND run = ?1 AND key IS NULL;

-- name: keyed_message_taken
-- ?1 run, ?2 position, ?3 at, ?4 operation. A message with a key leaves the key behind.
UPDATE stepwell_messages SET value = NULL, taken_at = ?3, op = ?4
WHERE position = ?2 AND run = ?1 AND taken_at IS NULL;

-- name: update_taken_on
-- ?1 run, ?2 name, ?3 key, ?4 at, ?5 epoch, ?6 operation. Nothing happens where the run has seen the key.
INSERT INTO stepwell_messages (run, name, key, sent_at, taken_at, sender, op) VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6)
ON CONFLICT (run, key) WHERE key IS NOT NULL DO NOTHING;

-- name: update_answered
-- ?1 run, ?2 at, ?3 answer, ?4 whether it failed, ?5 operation, or ?6 position of one that was refused. Returns its key.
UPDATE stepwell_messages SET
    value = NULL, taken_at = coalesce(taken_at, ?2), answered_at = ?2, answer = ?3, failed = ?4
WHERE run = ?1 AND answered_at IS NULL AND (
    (?5 IS NOT NULL AND op = ?5 AND op IS NOT NULL) OR (?6 IS NOT NULL AND position = ?6)
)
RETURNING key;

-- name: value_published
-- ?1 run, ?2 key, ?3 value, ?4 at, ?5 the epoch of the worker that must own the run, or NULL.
INSERT INTO stepwell_values (run, key, value, at)
SELECT ?1, ?2, ?3, ?4 WHERE ?5 IS NULL OR EXISTS (SELECT 1 FROM stepwell_runs WHERE key = ?1 AND owner = ?5)
ON CONFLICT (run, key) DO UPDATE SET value = excluded.value, at = excluded.at;

-- name: step_summarized
-- ?1 run, ?2 op, ?3 summary. A rewound run comes to the same operation once more.
INSERT INTO stepwell_summaries (run, op, summary) VALUES (?1, ?2, ?3)
ON CONFLICT (run, op) DO UPDATE SET summary = excluded.summary;

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

-- name: summaries_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_summaries WHERE run IN (SELECT value FROM json_each(?1));

-- name: watches_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_watches WHERE run IN (SELECT value FROM json_each(?1));

-- name: watchings_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_watches WHERE watcher IN (SELECT value FROM json_each(?1));

-- name: batch_items_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_batch_items WHERE run IN (SELECT value FROM json_each(?1));

-- name: runs_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_runs WHERE key IN (SELECT value FROM json_each(?1));
