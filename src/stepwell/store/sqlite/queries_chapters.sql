-- The SQL of chapters: a run goes on with another one. Read by `named_sql`; used by `sql/chapters.py`. Times are
-- microseconds since the Unix epoch.

-- name: chapter_marked
-- ?1 run, ?2 how the chapter begins, ?3 at. The last entry of what is over. It stays as long as the run, so that the
-- positions of the chapter to come are above it whatever else is deleted.
INSERT INTO stepwell_journal (run, op, kind, name, fingerprint, at, value, attempt, started_at)
VALUES (?1, 0, 'chapter', ?2, 0, ?3, NULL, 0, 0);

-- name: first_chapter_noted
-- ?1 run. The first chapter of a run is noted when there is to be a second one.
INSERT INTO stepwell_chapters (run, number, beginning, began_at, journal_from, clock_from, seed, ops_before, runs_before)
SELECT key, 1, 'started', created_at, 0, NULL, id || ':' || created_at, 0, 0 FROM stepwell_runs WHERE key = ?1
ON CONFLICT (run, number) DO NOTHING;

-- name: chapter_over
-- ?1 run, ?2 at. Keeps what it was given, of the chapter that was the present one.
UPDATE stepwell_chapters SET ended_at = max(?2, began_at), input = (SELECT input FROM stepwell_runs WHERE key = ?1)
WHERE run = ?1 AND ended_at IS NULL;

-- name: chapter_begun
-- ?1 run, ?2 how, ?3 at, ?4 journal_from, ?5 clock_from, ?6 ops_before. The seed names the run and the chapter, so that no
-- two have the same random numbers.
INSERT INTO stepwell_chapters (run, number, beginning, began_at, journal_from, clock_from, seed, ops_before, runs_before)
SELECT ?1, before.number + 1, ?2, ?3, ?4, ?5, run.id || ':' || run.created_at || ':' || (before.number + 1), ?6,
    (SELECT max(key) FROM stepwell_runs)
FROM stepwell_runs AS run CROSS JOIN stepwell_chapters AS before ON before.run = run.key
WHERE run.key = ?1 ORDER BY before.number DESC LIMIT 1;

-- name: chapter_begun_again
-- ?1 run, ?2 how, ?3 at, ?4 journal_from. With the clock, the random numbers and the numbers of operations of the one before,
-- so that what is kept of that is replayed as it was.
INSERT INTO stepwell_chapters (run, number, beginning, began_at, journal_from, clock_from, seed, ops_before, runs_before)
SELECT ?1, number + 1, ?2, ?3, ?4, clock_from, seed, ops_before, (SELECT max(key) FROM stepwell_runs)
FROM stepwell_chapters WHERE run = ?1 ORDER BY number DESC LIMIT 1;

-- name: entries_copied
-- ?1 run, ?2 positions as a JSON array. In the order in which they stand.
INSERT INTO stepwell_journal (run, op, kind, name, fingerprint, at, value, attempt, started_at)
SELECT run, op, kind, name, fingerprint, at, value, attempt, started_at
FROM stepwell_journal WHERE position IN (SELECT value FROM json_each(?2)) AND run = ?1 ORDER BY position;

-- name: result_replaced
-- ?1 run, ?2 position at least, ?3 operation, ?4 kind of the entry now, ?5 kind before, ?6 value.
UPDATE stepwell_journal SET kind = ?4, value = ?6 WHERE run = ?1 AND position >= ?2 AND op = ?3 AND kind = ?5;

-- name: rewindable_run
-- ?1 run, ?2 epoch. What decides whether it is still as it was looked at; whether another worker has it in memory.
SELECT id, status, coalesce((SELECT max(position) FROM stepwell_journal WHERE run = key AND position >= journal_from), 0), workflow, queue, queue_place,
    ended_at, owner IS NOT NULL AND owner <> ?2
FROM stepwell_runs WHERE key = ?1;

-- name: run_rewound
-- ?1 run, ?2 at, ?3 journal_from, ?4 deadline_at, ?5 whether it stays cancelled, ?6 whether it stands in its queue again,
-- ?7 whether its input is another one, ?8 that, ?9 whether its clock begins anew.
UPDATE stepwell_runs SET
    status = iif(paused = 1, 'paused', 'pending'), updated_at = ?2, ended_at = NULL, result = NULL, error = NULL, reason = NULL, owner = NULL,
    wake_at = NULL, waiting_on = NULL, halted_by = NULL, remedy = NULL, queue_place = NULL, resumed = 1,
    journal_from = ?3, deadline_at = ?4, queued = iif(?6, 1, queued), crashes = 0, suspect = 0,
    crash_position = (SELECT max(position) FROM stepwell_journal WHERE run = ?1),
    cancel_requested_at = iif(?5, cancel_requested_at, NULL), cancel_reason = iif(?5, cancel_reason, NULL),
    input = iif(?7, ?8, input), started_at = iif(?9, NULL, started_at)
WHERE key = ?1;

-- name: run_continued
-- ?1 run, ?2 at, ?3 input, ?4 journal_from, ?5 1 where its code has heard of a request to cancel it, ?6 epoch. The run stays
-- in the memory of its worker.
UPDATE stepwell_runs SET status = 'running', owner = ?6, updated_at = ?2, started_at = coalesce(started_at, ?2),
    wake_at = NULL, waiting_on = NULL, reason = NULL, input = ?3, journal_from = ?4,
    cancel_requested_at = iif(?5, NULL, cancel_requested_at), cancel_reason = iif(?5, NULL, cancel_reason)
WHERE key = ?1 AND ended_at IS NULL AND (owner IS NULL OR owner = ?6);

-- name: chapters
-- ?1 run. The columns are the fields of model.ChapterRecord in their order; nothing for a run that has had one only.
SELECT number, beginning, began_at, ended_at, journal_from, input, forked_from, forked_op, forked_as FROM stepwell_chapters WHERE run = ?1 ORDER BY number;

-- name: first_input
-- ?1 run. What the last start of it brought, where its present chapter was given something else; else what it has.
SELECT iif(first.ended_at IS NULL, run.input, first.input)
FROM stepwell_runs AS run
LEFT JOIN stepwell_chapters AS first ON first.run = run.key AND first.number = (
    SELECT max(number) FROM stepwell_chapters WHERE run = ?1 AND (beginning = 'started' OR beginning = 'forked')
)
WHERE run.key = ?1;

-- name: chapters_purged
-- ?1 keys of runs as a JSON array.
DELETE FROM stepwell_chapters WHERE run IN (SELECT value FROM json_each(?1));
