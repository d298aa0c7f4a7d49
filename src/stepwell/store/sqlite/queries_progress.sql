-- The SQL of progress. Read by `named_sql`; used by `sql/progress.py`. Times are microseconds since the Unix epoch.

-- name: progress_purged
-- ?1 keys of runs as a JSON array.
DELETE FROM stepwell_progress WHERE run IN (SELECT value FROM json_each(?1));
