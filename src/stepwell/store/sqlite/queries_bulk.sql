-- The SQL of acts on many runs, and of those that end and delete runs without their code. Read by `named_sql`; used by
-- `bulk_acts` and `inspector`. Times are microseconds since the Unix epoch.

-- name: bulk_begun
-- ?1 act, ?2 filter, ?3 bounds, ?4 by, ?5 reason, ?6 at, ?7 total, ?8 epoch. Returns its number. Runs that are started from
-- now on are not meant.
INSERT INTO stepwell_bulk_acts (act, filter, bounds, by, reason, created_at, total, before_key, worker)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, (SELECT 1 + coalesce(max(key), 0) FROM stepwell_runs), ?8)
RETURNING id;

-- name: bulk_advanced
-- ?1 id, ?2 epoch, ?3 the before_key that it had, ?4 the one that it has now, ?5 more that were looked at, ?6 more that were
-- refused, ?7 ended_at or NULL. Returns a row if it was so. Runs that came between the count and the begin count as well.
UPDATE stepwell_bulk_acts
SET before_key = ?4, seen = seen + ?5, total = max(total, seen + ?5), refused = refused + ?6, ended_at = ?7
WHERE id = ?1 AND worker = ?2 AND before_key = ?3 AND ended_at IS NULL
RETURNING id;

-- name: bulks_taken
-- ?1 epoch. Those that no living worker carries out. Returns their numbers.
UPDATE stepwell_bulk_acts SET worker = ?1
WHERE ended_at IS NULL AND worker NOT IN (SELECT epoch FROM stepwell_workers WHERE ended_at IS NULL)
RETURNING id;

-- name: bulks_ended
-- ?1 at. Ends those that are under way as far as they have come. Returns what each was, and how far that is.
UPDATE stepwell_bulk_acts SET ended_at = max(?1, created_at) WHERE ended_at IS NULL
RETURNING act, filter, by, seen, total;

-- name: bulk
-- ?1 id. The columns are the fields of store.bulk_acts.BulkRecord in their order, here and below.
SELECT id, act, filter, by, reason, created_at, total, seen, refused, ended_at, before_key, bounds, worker
FROM stepwell_bulk_acts WHERE id = ?1;

-- name: bulks
-- ?1 how many. The newest first.
SELECT id, act, filter, by, reason, created_at, total, seen, refused, ended_at, before_key, bounds, worker
FROM stepwell_bulk_acts ORDER BY id DESC LIMIT ?1;

-- name: run_taken_away
-- ?1 run, ?2 epoch. Whoever has it in memory cannot write of it any more.
UPDATE stepwell_runs SET owner = ?2 WHERE key = ?1 AND owner IS NOT NULL;

-- name: waits_for_run
-- ?1 run. The id of another run that waits for its end.
SELECT run.id FROM stepwell_watches AS watch JOIN stepwell_runs AS run ON run.key = watch.watcher
WHERE watch.run = ?1 ORDER BY watch.watcher LIMIT 1;

-- name: parent_lives
-- ?1 run. The id of its parent, where that has not ended: it may still ask for the result.
SELECT parent.id FROM stepwell_runs AS run JOIN stepwell_runs AS parent ON parent.key = run.parent
WHERE run.key = ?1 AND parent.ended_at IS NULL;
