-- The SQL of chapters: a run goes on with another one. Read by `named_sql`; used by `sql/chapters.py`. Times are
-- microseconds since the Unix epoch.

-- name: chapter_marked
-- ?1 run, ?2 how the chapter begins, ?3 at. The last entry of what is over. It stays as long as the run, so that the
-- positions of the chapter to come are above it whatever else is deleted.
INSERT INTO stepwell_journal (run, op, kind, name, fingerprint, at, value, attempt, started_at)
VALUES (?1, 0, 'chapter', ?2, 0, ?3, NULL, 0, 0);

-- name: first_chapter_noted
-- ?1 run. The first chapter of a run is noted when there is to be a second one.
INSERT INTO stepwell_chapters (run, number, beginning, began_at, journal_from, clock_from, seed, ops_before)
SELECT key, 1, 'started', created_at, 0, NULL, id || ':' || created_at, 0 FROM stepwell_runs WHERE key = ?1
ON CONFLICT (run, number) DO NOTHING;

-- name: chapter_over
-- ?1 run, ?2 at. Keeps what it was given, of the chapter that was the present one.
UPDATE stepwell_chapters SET ended_at = max(?2, began_at), input = (SELECT input FROM stepwell_runs WHERE key = ?1)
WHERE run = ?1 AND ended_at IS NULL;

-- name: chapter_begun
-- ?1 run, ?2 how, ?3 at, ?4 journal_from, ?5 clock_from, ?6 ops_before. The seed names the run and the chapter, so that no
-- two have the same random numbers.
INSERT INTO stepwell_chapters (run, number, beginning, began_at, journal_from, clock_from, seed, ops_before)
SELECT ?1, before.number + 1, ?2, ?3, ?4, ?5, run.id || ':' || run.created_at || ':' || (before.number + 1), ?6
FROM stepwell_runs AS run CROSS JOIN stepwell_chapters AS before ON before.run = run.key
WHERE run.key = ?1 ORDER BY before.number DESC LIMIT 1;

-- name: run_continued
-- ?1 run, ?2 at, ?3 input, ?4 journal_from, ?5 1 where its code has heard of a request to cancel it, ?6 epoch. The run stays
-- in the memory of its worker.
UPDATE stepwell_runs SET status = 'running', owner = ?6, updated_at = ?2, started_at = coalesce(started_at, ?2),
    wake_at = NULL, waiting_on = NULL, reason = NULL, input = ?3, journal_from = ?4,
    cancel_requested_at = iif(?5, NULL, cancel_requested_at), cancel_reason = iif(?5, NULL, cancel_reason)
WHERE key = ?1 AND ended_at IS NULL AND (owner IS NULL OR owner = ?6);

-- name: chapters
-- ?1 run. The columns are the fields of model.ChapterRecord in their order; nothing for a run that has had one only.
SELECT number, beginning, began_at, ended_at, journal_from, input FROM stepwell_chapters WHERE run = ?1 ORDER BY number;

-- name: first_input
-- ?1 run. What it was started with, where its present chapter was given something else.
SELECT input FROM stepwell_chapters WHERE run = ?1 AND number = 1 AND ended_at IS NOT NULL;

-- name: chapters_purged
-- ?1 keys of runs as a JSON array.
DELETE FROM stepwell_chapters WHERE run IN (SELECT value FROM json_each(?1));
