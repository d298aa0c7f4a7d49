-- What programs that show a whole file to people read. Used by sql/overview.py. Times are microseconds.

-- name: outline
-- ?1 run, ?2 after position, ?3 limit. octet_length reads no overflow page.
SELECT position, op, kind, name, at, attempt, started_at, octet_length(value)
FROM stepwell_journal
WHERE run = ?1 AND position > max(?2, (SELECT journal_from FROM stepwell_runs WHERE key = ?1) - 1)
ORDER BY position LIMIT ?3;

-- name: entries_of
-- ?1 run, ?2 operation, ?3 limit.
SELECT {entry}
FROM stepwell_journal
WHERE run = ?1 AND op = ?2 AND position >= (SELECT journal_from FROM stepwell_runs WHERE key = ?1)
ORDER BY position LIMIT ?3;

-- name: entries_of_many
-- ?1 run, ?2 operations as a JSON array. In order.
SELECT {entry}
FROM stepwell_journal
WHERE run = ?1 AND op IN (SELECT value FROM json_each(?2))
    AND position >= (SELECT journal_from FROM stepwell_runs WHERE key = ?1)
ORDER BY position;

-- name: newest_key
SELECT coalesce(max(key), 0) FROM stepwell_runs;

-- name: workflow_names
-- Of the last runs only, so that it answers at once whatever the file has.
SELECT DISTINCT workflow FROM (SELECT workflow FROM stepwell_runs ORDER BY key DESC LIMIT 20000) ORDER BY 1;

-- name: cells
SELECT workflow, status, count(*) FROM stepwell_runs GROUP BY 1, 2 ORDER BY 1, 2;

-- name: durations
-- ?1 how many of those that ended last are looked at.
SELECT workflow, ended_at - started_at FROM (
    SELECT workflow, status, started_at, ended_at FROM stepwell_runs WHERE ended_at IS NOT NULL
    ORDER BY ended_at DESC LIMIT ?1
) WHERE status = 'completed' AND started_at IS NOT NULL;

-- name: ended_since
-- ?1 since, ?2 width. By the index alone.
SELECT (ended_at - ?1) / ?2, count(*) FROM stepwell_runs INDEXED BY stepwell_runs_by_end
WHERE ended_at IS NOT NULL AND ended_at >= ?1 GROUP BY 1 ORDER BY 1;

-- name: failed_since
-- ?1 since, ?2 width. By the index on states, in which few runs are.
SELECT (ended_at - ?1) / ?2, count(*) FROM stepwell_runs
WHERE status = 'failed' AND (status = 'pending' OR status = 'halted' OR status = 'failed') AND ended_at >= ?1
GROUP BY 1 ORDER BY 1;

-- name: ended_by_queue
-- ?1 since. Each of those that ended since then is looked at.
SELECT queue, count(*), sum(status = 'failed') FROM stepwell_runs INDEXED BY stepwell_runs_by_end
WHERE ended_at IS NOT NULL AND ended_at >= ?1 AND queue IS NOT NULL GROUP BY queue;

-- name: oldest_of
-- ?1 statuses as a JSON array, all of them of the index on states, ?2 limit. The first ones by key are the oldest.
SELECT id FROM stepwell_runs
WHERE status IN (SELECT value FROM json_each(?1)) AND (status = 'pending' OR status = 'halted' OR status = 'failed')
ORDER BY key LIMIT ?2;
