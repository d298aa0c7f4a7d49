-- The SQL of progress. Read by `named_sql`; used by `sql/progress.py`. Times are microseconds since the Unix epoch.

-- name: progress_noted
-- ?1 run, ?2 epoch, then the columns of the table from op on. Only the run's owner says it.
INSERT INTO stepwell_progress (run, op, kind, name, attempt, done, total, failed, note, began_at, at, next_at, ended)
SELECT key, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14 FROM stepwell_runs WHERE key = ?1 AND owner = ?2
ON CONFLICT (run, op, kind) DO UPDATE SET name = excluded.name, attempt = excluded.attempt, done = excluded.done,
    total = excluded.total, failed = excluded.failed, note = excluded.note, began_at = excluded.began_at, at = excluded.at,
    next_at = excluded.next_at, ended = excluded.ended;

-- name: progress
-- ?1 keys of runs as a JSON array, ?2 1: what has ended as well. The columns after the first are the fields of
-- store.progress.ProgressRow in their order.
SELECT run, op, kind, name, attempt, done, total, failed, note, began_at, at, next_at, ended FROM stepwell_progress
WHERE run IN (SELECT value FROM json_each(?1)) AND ended <= ?2 ORDER BY run, op, kind;

-- name: polls_undone
-- ?1 run, ?2 positions of entries as a JSON array.
DELETE FROM stepwell_progress WHERE run = ?1 AND kind = 'poll'
    AND op IN (SELECT op FROM stepwell_journal WHERE position IN (SELECT value FROM json_each(?2)) AND run = ?1);

-- name: progress_reopened
-- ?1 run, ?2 positions of entries as a JSON array.
UPDATE stepwell_progress SET ended = 0
WHERE run = ?1 AND op IN (SELECT op FROM stepwell_journal WHERE position IN (SELECT value FROM json_each(?2)) AND run = ?1);

-- name: progress_undone
-- ?1 run, ?2 positions kept, as a JSON array. As streams_undone.
DELETE FROM stepwell_progress
WHERE run = ?1 AND op > coalesce((SELECT ops_before FROM stepwell_chapters WHERE run = ?1 ORDER BY number DESC LIMIT 1), 0)
    AND op NOT IN (SELECT op FROM stepwell_journal WHERE position IN (SELECT value FROM json_each(?2)) AND run = ?1);

-- name: progress_purged
-- ?1 keys of runs as a JSON array.
DELETE FROM stepwell_progress WHERE run IN (SELECT value FROM json_each(?1));
