-- The SQL of forks: a run begins with a part of another one's journal. Read by `named_sql`; used by `sql/forks.py`. Times are
-- microseconds since the Unix epoch.

-- name: fork_source
-- ?1 run. Its queue, and where it stands, or stood, in that.
SELECT id, workflow, queue, coalesce(queue_place, (
    SELECT json_array(partition, priority) FROM stepwell_entries WHERE run = ?1 AND op = 0
)) FROM stepwell_runs WHERE key = ?1;

-- name: run_forked
-- ?1 source, ?2 id, ?3 input, ?4 fingerprint, ?5 at, ?6 deadline_at, ?7 whether it stays cancelled, ?8 whether it waits in a
-- queue, ?9 reason. The offset of engine time is that of the source: its entries were recorded with it.
INSERT INTO stepwell_runs
    (id, workflow, status, input, fingerprint, created_at, updated_at, reason, deadline_at, queue, queued, ahead,
     cancel_requested_at, cancel_reason)
SELECT ?2, workflow, 'pending', ?3, ?4, ?5, ?5, ?9, ?6, queue, ?8, ahead,
    iif(?7, cancel_requested_at, NULL), iif(?7, cancel_reason, NULL)
FROM stepwell_runs WHERE key = ?1
ON CONFLICT (id) DO NOTHING;

-- name: journal_of_fork_begins
-- ?1 run, ?2 journal_from.
UPDATE stepwell_runs SET journal_from = ?2 WHERE key = ?1;

-- name: chapter_forked
-- ?1 run, ?2 source, ?3 at, ?4 journal_from, ?5 to ?7: where it is forked from. With the clock, the random numbers and the
-- numbers of operations of the present chapter of the source, so that what is kept of that is replayed as it was.
INSERT INTO stepwell_chapters
    (run, number, beginning, began_at, journal_from, clock_from, seed, ops_before, runs_before, forked_from, forked_op, forked_as)
SELECT ?1, 1, 'forked', ?3, ?4, coalesce(before.clock_from, source.started_at),
    coalesce(before.seed, source.id || ':' || source.created_at), coalesce(before.ops_before, 0),
    (SELECT max(key) FROM stepwell_runs), ?5, ?6, ?7
FROM stepwell_runs AS source
LEFT JOIN stepwell_chapters AS before ON before.run = source.key AND before.ended_at IS NULL
WHERE source.key = ?2;

-- name: entries_forked
-- ?1 run, ?2 source, ?3 positions as a JSON array. In the order in which they stand; those of its present chapter only: it may
-- have been rewound since it was looked at.
INSERT INTO stepwell_journal (run, op, kind, name, fingerprint, at, value, attempt, started_at)
SELECT ?1, op, kind, name, fingerprint, at, value, attempt, started_at
FROM stepwell_journal
WHERE position IN (SELECT value FROM json_each(?3)) AND run = ?2
    AND position >= (SELECT journal_from FROM stepwell_runs WHERE key = ?2)
ORDER BY position;

-- name: messages_forked
-- ?1 run, ?2 source. In order; of those that were taken only the keys are left.
INSERT INTO stepwell_messages (run, name, value, key, sent_at, taken_at)
SELECT ?1, name, value, key, sent_at, taken_at FROM stepwell_messages WHERE run = ?2 AND name >= ' ' ORDER BY position;

-- name: values_forked
-- ?1 run, ?2 source, ?3 keys as a JSON array.
INSERT INTO stepwell_values (run, key, value, at)
SELECT ?1, key, value, at FROM stepwell_values WHERE run = ?2 AND key IN (SELECT value FROM json_each(?3));

-- name: summaries_forked
-- ?1 run, ?2 source. Of the operations whose entries were copied.
INSERT INTO stepwell_summaries (run, op, summary)
SELECT ?1, op, summary FROM stepwell_summaries
WHERE run = ?2 AND op IN (SELECT op FROM stepwell_journal WHERE run = ?1);

-- name: attributes_forked
-- ?1 run, ?2 the run that it is forked from, as that is described now.
INSERT INTO stepwell_attributes (run, name, kind, value)
SELECT ?1, name, kind, value FROM stepwell_attributes WHERE run = ?2;

-- name: tags_forked
-- ?1 run, ?2 the run that it is forked from.
INSERT INTO stepwell_tags (run, tag) SELECT ?1, tag FROM stepwell_tags WHERE run = ?2;
