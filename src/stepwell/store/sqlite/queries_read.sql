-- The SQL of the read side. Read by `named_sql`; used by `reader`.
-- What stands in braces is in fragments.sql. A message is read as the fields of model.Message in their order.

-- name: read_begun
-- A snapshot for reads that must agree with each other.
BEGIN;

-- name: read_ended
COMMIT;

-- name: run_by_id
-- ?1 id.
SELECT {run_record}
FROM stepwell_runs WHERE id = ?1;

-- name: run_facts
-- ?1 id. As `run_by_id`, without its input and its result.
SELECT {run_facts}
FROM stepwell_runs WHERE id = ?1;

-- name: runs_untouched
-- ?1 keys as a JSON array, ?2 epoch. A JSON array of those that the worker created running and that nothing has come to.
SELECT json_group_array(run.key) FROM stepwell_runs AS run
WHERE run.key IN (SELECT value FROM json_each(?1)) AND run.owner = ?2 AND run.status = 'running'
    AND run.cancel_requested_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM stepwell_messages WHERE run = run.key)
    AND NOT EXISTS (SELECT 1 FROM stepwell_journal WHERE run = run.key);

-- name: run_by_key
-- ?1 key.
SELECT {run_record}
FROM stepwell_runs WHERE key = ?1;

-- name: has_ids
-- Whether there is a run whose id is at least ?1 and below ?2.
SELECT EXISTS (SELECT 1 FROM stepwell_runs WHERE id >= ?1 AND id < ?2);

-- name: halted_by
-- ?1 run.
SELECT halted_by FROM stepwell_runs WHERE key = ?1 AND (status = 'halted' OR status = 'paused');

-- name: journal
-- ?1 run, ?2 after position, ?3 limit. Of its present chapter, here and below.
SELECT {entry}
FROM stepwell_journal
WHERE run = ?1 AND position > max(?2, (SELECT journal_from FROM stepwell_runs WHERE key = ?1) - 1)
ORDER BY position LIMIT ?3;

-- name: journal_between
-- ?1 run, ?2 position at least, ?3 position below, ?4 limit. Of any chapter, but for the entries between them.
SELECT {entry}
FROM stepwell_journal
WHERE run = ?1 AND position >= ?2 AND position < ?3 AND kind <> 'chapter'
ORDER BY position LIMIT ?4;

-- name: loaded_runs
-- ?1 keys as a JSON array.
SELECT {run_record}
FROM stepwell_runs WHERE key IN (SELECT value FROM json_each(?1));

-- name: loaded_facts
-- ?1 keys as a JSON array. As `loaded_runs`, without inputs and results.
SELECT {run_facts}
FROM stepwell_runs WHERE key IN (SELECT value FROM json_each(?1));

-- name: loaded_entries
-- ?1 keys as a JSON array. Ordered within each run by the index.
SELECT {entry}
FROM (SELECT key AS chapter_of, journal_from FROM stepwell_runs WHERE key IN (SELECT value FROM json_each(?1)))
CROSS JOIN stepwell_journal ON run = chapter_of AND position >= journal_from
ORDER BY chapter_of, position;

-- name: loaded_messages
-- ?1 keys as a JSON array.
SELECT run, position, name, value, sent_at
FROM stepwell_messages WHERE run IN (SELECT value FROM json_each(?1)) AND taken_at IS NULL ORDER BY run, position;

-- name: value
-- ?1 run, ?2 key.
SELECT value, at FROM stepwell_values WHERE run = ?1 AND key = ?2;

-- name: summaries
-- ?1 run.
SELECT op, summary FROM stepwell_summaries WHERE run = ?1;

-- name: values_of_run
-- ?1 run.
SELECT key, value FROM stepwell_values WHERE run = ?1 ORDER BY key;

-- name: halted
-- ?1 workflows as a JSON array, ?2 the count of crashes from which on they are left alone.
SELECT key FROM stepwell_runs
WHERE status = 'halted' AND workflow IN (SELECT value FROM json_each(?1)) AND crashes < ?2 ORDER BY key;

-- name: halted_below
-- ?1 run. The halted ones of its children that have not ended, of theirs, and so on.
WITH RECURSIVE below (key, status) AS (
    SELECT key, status FROM stepwell_runs WHERE parent = ?1 AND ended_at IS NULL
    UNION ALL
    SELECT run.key, run.status FROM below JOIN stepwell_runs AS run ON run.parent = below.key
    WHERE run.ended_at IS NULL
)
SELECT key FROM below WHERE status = 'halted' ORDER BY key;

-- name: has_work
-- ?1 workflows as a JSON array, ?2 now. Says what due, pending, suspect_due and suspect_pending would find.
SELECT EXISTS (
    SELECT 1 FROM json_each(?1) AS wanted CROSS JOIN stepwell_runs AS run
    WHERE {may_wake}
        AND run.workflow = wanted.value AND run.wake_at <= ?2
) OR EXISTS (
    SELECT 1 FROM json_each(?1) AS wanted CROSS JOIN stepwell_runs AS run
    WHERE {may_begin} AND run.workflow = wanted.value
) OR EXISTS (
    SELECT 1 FROM json_each(?1) AS wanted CROSS JOIN stepwell_runs AS run
    WHERE {suspect_may_wake}
        AND run.workflow = wanted.value AND run.wake_at <= ?2
    UNION ALL
    SELECT 1 FROM json_each(?1) AS wanted CROSS JOIN stepwell_runs AS run
    WHERE {suspect_may_begin}
        AND run.workflow = wanted.value
) AND NOT EXISTS (
    {suspect_under_way}
);

-- name: next_wake
-- ?1 workflows as a JSON array, ?2 after.
SELECT min(wake_at) FROM (
    SELECT (
        SELECT run.wake_at FROM stepwell_runs AS run
        WHERE {may_wake}
            AND run.workflow = wanted.value AND run.wake_at > ?2
        ORDER BY run.wake_at LIMIT 1
    ) AS wake_at FROM json_each(?1) AS wanted
    UNION ALL
    SELECT (
        SELECT run.wake_at FROM stepwell_runs AS run
        WHERE {suspect_may_wake}
            AND run.workflow = wanted.value AND run.wake_at > ?2
        ORDER BY run.wake_at LIMIT 1
    ) FROM json_each(?1) AS wanted
);

-- name: next_deadline
-- Of the runs that nobody has begun. The index is named because SQLite, which does not know how many rows it has, prefers
-- that on states, in which all pending runs are.
SELECT min(coalesce(cancel_requested_at, deadline_at)) FROM stepwell_runs INDEXED BY stepwell_runs_by_deadline
WHERE coalesce(cancel_requested_at, deadline_at) IS NOT NULL AND status = 'pending' AND started_at IS NULL;

-- name: overdue
-- ?1 now, ?2 limit. The same, those whose deadlines have passed, or that are cancelled.
SELECT {run_record}
FROM stepwell_runs INDEXED BY stepwell_runs_by_deadline
WHERE coalesce(cancel_requested_at, deadline_at) IS NOT NULL AND status = 'pending' AND started_at IS NULL
    AND coalesce(cancel_requested_at, deadline_at) <= ?1
ORDER BY coalesce(cancel_requested_at, deadline_at), key LIMIT ?2;

-- name: stranded
-- ?1 workflows as a JSON array, ?2 now, ?3 limit. Jumps from one workflow to the next in each index, so that it does not
-- read the runs of the given ones.
WITH RECURSIVE
ordinary (workflow) AS (
    SELECT min(run.workflow) FROM stepwell_runs AS run
    WHERE {may_wake}
    UNION ALL
    SELECT (
        SELECT min(run.workflow) FROM stepwell_runs AS run
        WHERE {may_wake}
            AND run.workflow > ordinary.workflow
    ) FROM ordinary WHERE ordinary.workflow IS NOT NULL
),
suspect (workflow) AS (
    SELECT min(run.workflow) FROM stepwell_runs AS run
    WHERE {suspect_may_wake}
    UNION ALL
    SELECT (
        SELECT min(run.workflow) FROM stepwell_runs AS run
        WHERE {suspect_may_wake}
            AND run.workflow > suspect.workflow
    ) FROM suspect WHERE suspect.workflow IS NOT NULL
)
SELECT run.key FROM ordinary CROSS JOIN stepwell_runs AS run
WHERE ordinary.workflow NOT IN (SELECT value FROM json_each(?1))
    AND {may_wake}
    AND run.workflow = ordinary.workflow AND run.wake_at <= ?2
UNION ALL
SELECT run.key FROM suspect CROSS JOIN stepwell_runs AS run
WHERE suspect.workflow NOT IN (SELECT value FROM json_each(?1))
    AND {suspect_may_wake}
    AND run.workflow = suspect.workflow AND run.wake_at <= ?2
LIMIT ?3;

-- name: news
-- ?1 epoch.
SELECT wake.run FROM stepwell_wakes AS wake CROSS JOIN stepwell_runs AS run ON run.key = wake.run
WHERE run.owner = ?1 ORDER BY wake.run;

-- name: ended_among
-- ?1 keys of runs as a JSON array.
SELECT run.key FROM json_each(?1) AS wanted CROSS JOIN stepwell_runs AS run ON run.key = wanted.value
WHERE run.ended_at IS NOT NULL;

-- name: messages_from_others
-- ?1 [run, after position] of each as JSON, ?2 epoch. In order within each run: the runs one by one, each by its index.
SELECT message.run, message.position, message.name, message.value, message.sent_at
FROM json_each(?1) AS wanted CROSS JOIN stepwell_messages AS message
    ON message.run = wanted.value ->> 0 AND message.position > wanted.value ->> 1
WHERE message.taken_at IS NULL AND message.sender IS NOT ?2;

-- name: update_of
-- ?1 run, ?2 key.
SELECT name, answered_at IS NOT NULL, failed, answer FROM stepwell_messages WHERE run = ?1 AND key = ?2;

-- name: gone_among
-- ?1 [key, id] of runs as a JSON array. A key is given again after the last run was deleted.
SELECT value ->> 0 FROM json_each(?1) AS wanted
WHERE NOT EXISTS (SELECT 1 FROM stepwell_runs WHERE key = wanted.value ->> 0 AND id = wanted.value ->> 1);

-- name: over_among
-- ?1 ids as a JSON array.
SELECT {run_record}
FROM stepwell_runs WHERE id IN (SELECT value FROM json_each(?1)) AND (ended_at IS NOT NULL OR status = 'halted');

-- name: workers_alive
-- The workers that have not ended, by age, and how many runs each has in memory.
SELECT worker.epoch, worker.pid, worker.host, worker.started_at, worker.takes_work, worker.slot, (
    SELECT count(*) FROM stepwell_runs AS run WHERE run.owner = worker.epoch AND run.owner IS NOT NULL
), worker.workflows, worker.queues, worker.versions
FROM stepwell_workers AS worker WHERE worker.ended_at IS NULL ORDER BY worker.epoch;

-- name: wall_clock
SELECT unixepoch('subsec');

-- name: last_at
-- The newest time in the file. A batch is written in the order of commits, not quite of times, so the last hundred rows
-- of each log are looked at. Without a run, and a start that a rate counts, nothing depends on time: so a file that is
-- ahead of the clock can be mended.
SELECT coalesce((SELECT max(at) FROM stepwell_starts), 0) WHERE NOT EXISTS (SELECT 1 FROM stepwell_runs)
UNION ALL
SELECT max(
    coalesce((SELECT max(at) FROM (SELECT at FROM stepwell_journal ORDER BY position DESC LIMIT 100)), 0),
    coalesce((SELECT max(updated_at) FROM (SELECT updated_at FROM stepwell_runs ORDER BY key DESC LIMIT 100)), 0),
    coalesce((SELECT max(ended_at) FROM stepwell_runs WHERE ended_at IS NOT NULL), 0),
    coalesce((SELECT max(sent_at) FROM (SELECT sent_at FROM stepwell_messages ORDER BY position DESC LIMIT 100)), 0),
    coalesce((SELECT max(max(started_at, coalesce(ended_at, 0))) FROM
        (SELECT started_at, ended_at FROM stepwell_workers ORDER BY epoch DESC LIMIT 100)), 0)
) WHERE EXISTS (SELECT 1 FROM stepwell_runs);

-- name: unreceived_names
-- ?1 run, ?2 how many. The names of messages that lie unread.
SELECT DISTINCT name FROM stepwell_messages
WHERE run = ?1 AND taken_at IS NULL AND name >= ' ' ORDER BY name LIMIT ?2;

-- name: suspect_under_way
-- The run that seems to kill workers and is under way, without progress since its last crash: no other such run is taken
-- up meanwhile.
{suspect_under_way} LIMIT 1;
