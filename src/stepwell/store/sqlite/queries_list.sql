-- The SQL of listings. Read by `named_sql`; used by `listing` and `inspector`.
-- What lists has no payloads but those that say why: inputs and results may have many megabytes each.
--
-- The parameters of all listings and counts:
-- ?1 statuses as a JSON array or NULL, ?2 workflow or NULL, ?3 id at least or NULL, ?4 id below or NULL,
-- ?5 parent or NULL, ?6 created after or NULL, ?7 created before or NULL, ?8 key below, ?9 limit, ?10 started since or NULL,
-- ?11 1 for those only that no other run started, ?12 id or NULL, ?13 queue or NULL, ?14 started before or NULL,
-- ?15 ended since or NULL, ?16 ended before or NULL, ?17 what attributes must be (see has_attributes) or NULL,
-- ?18 tags as a JSON array or NULL.
-- Those that walk in another order than that of age have the last run of the page before: ?19 its time or NULL, ?8 its key.

-- name: runs_listed
-- Walks back from the newest run until enough match.
SELECT {run_facts}
FROM stepwell_runs
WHERE {matches}
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: runs_listed_by_parent
-- The children of one run, by their index.
SELECT {run_facts}
FROM stepwell_runs
WHERE parent = ?5 AND {matches}
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: runs_listed_by_status
-- Runs in one of the states that stepwell_runs_by_status holds; ?19 is the status. The second line repeats the
-- index's condition, by which SQLite knows that it may use it.
SELECT {run_facts}
FROM stepwell_runs
WHERE status = ?19
    AND (status = 'pending' OR status = 'halted' OR status = 'failed')
    AND {matches}
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: runs_listed_cancelled
-- ?19 is 'cancelled'.
SELECT {run_facts}
FROM stepwell_runs INDEXED BY stepwell_runs_cancelled
WHERE status = 'cancelled' AND ?19 = 'cancelled' AND {matches}
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: runs_listed_unwell
-- Those of one workflow that failed or were cancelled; ?19 is the status.
SELECT {run_facts}
FROM stepwell_runs INDEXED BY stepwell_runs_unwell
WHERE workflow = ?2 AND status = ?19 AND (status = 'failed' OR status = 'cancelled')
    AND {matches}
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: runs_listed_paused
-- Paused ones have an index of their own. ?19 is 'paused'.
SELECT {run_facts}
FROM stepwell_runs INDEXED BY stepwell_runs_paused
WHERE status = ?19 AND paused = 1 AND {matches}
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: runs_listed_by_workflow
-- The runs of one workflow.
SELECT {run_facts}
FROM stepwell_runs INDEXED BY stepwell_runs_by_workflow
WHERE workflow = ?2 AND {matches}
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: runs_listed_by_queue
-- The runs of one queue.
SELECT {run_facts}
FROM stepwell_runs INDEXED BY stepwell_runs_by_queue
WHERE queue = ?13 AND {matches}
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: runs_listed_by_tag
-- The runs of a tag, ?19: its index has them by age. A tag of ?18.
SELECT {run_facts}
FROM stepwell_tags AS walked CROSS JOIN stepwell_runs ON key = walked.run
WHERE walked.tag = ?19 AND walked.run < ?8 AND {matches}
ORDER BY walked.run DESC LIMIT ?9;

-- name: runs_listed_by_attribute
-- The runs with a value of an attribute, ?19 its name, ?20 its kind, ?21 the value: its index has them by age.
SELECT {run_facts}
FROM stepwell_attributes AS walked CROSS JOIN stepwell_runs ON key = walked.run
WHERE walked.name = ?19 AND walked.kind = ?20 AND walked.value = ?21 AND walked.run < ?8 AND {matches}
ORDER BY walked.run DESC LIMIT ?9;

-- name: runs_listed_by_prefix
-- Runs whose id begins in some way, by the index on the id, from which the keys are sorted.
SELECT {run_facts}
FROM stepwell_runs
WHERE key IN (SELECT run.key FROM stepwell_runs AS run WHERE run.id >= ?3 AND run.id < ?4) AND {matches}
    AND key < ?8
ORDER BY key DESC LIMIT ?9;

-- name: runs_listed_up
-- From the oldest run on; ?8 is the key that is above all shown so far.
SELECT {run_facts}
FROM stepwell_runs
WHERE {matches}
    AND key > ?8
ORDER BY key LIMIT ?9;

-- name: runs_listed_by_created_down
-- The one created last first.
SELECT {run_facts}
FROM stepwell_runs INDEXED BY stepwell_runs_by_creation
WHERE created_at >= ifnull(?6, 0) AND created_at <= min(ifnull(?7, 9223372036854775807), ifnull(?19, 9223372036854775807))
    AND {matches} AND (?19 IS NULL OR (created_at, key) < (?19, ?8))
ORDER BY created_at DESC, key DESC LIMIT ?9;

-- name: runs_listed_by_created_up
-- The one created first first.
SELECT {run_facts}
FROM stepwell_runs INDEXED BY stepwell_runs_by_creation
WHERE created_at <= ifnull(?7, 9223372036854775807) AND created_at >= max(ifnull(?6, 0), ifnull(?19, 0))
    AND {matches} AND (?19 IS NULL OR (created_at, key) > (?19, ?8))
ORDER BY created_at, key LIMIT ?9;

-- name: runs_listed_by_started_down
-- The one started last first.
SELECT {run_facts}
FROM stepwell_runs INDEXED BY stepwell_runs_by_start
WHERE started_at IS NOT NULL AND started_at >= ifnull(?10, 0) AND started_at <= min(ifnull(?14, 9223372036854775807), ifnull(?19, 9223372036854775807))
    AND {matches} AND (?19 IS NULL OR (started_at, key) < (?19, ?8))
ORDER BY started_at DESC, key DESC LIMIT ?9;

-- name: runs_listed_by_started_up
-- The one started first first.
SELECT {run_facts}
FROM stepwell_runs INDEXED BY stepwell_runs_by_start
WHERE started_at IS NOT NULL AND started_at <= ifnull(?14, 9223372036854775807) AND started_at >= max(ifnull(?10, 0), ifnull(?19, 0))
    AND {matches} AND (?19 IS NULL OR (started_at, key) > (?19, ?8))
ORDER BY started_at, key LIMIT ?9;

-- name: runs_listed_by_ended_down
-- The one ended last first.
SELECT {run_facts}
FROM stepwell_runs INDEXED BY stepwell_runs_by_end
WHERE ended_at IS NOT NULL AND ended_at >= ifnull(?15, 0) AND ended_at <= min(ifnull(?16, 9223372036854775807), ifnull(?19, 9223372036854775807))
    AND {matches} AND (?19 IS NULL OR (ended_at, key) < (?19, ?8))
ORDER BY ended_at DESC, key DESC LIMIT ?9;

-- name: runs_listed_by_ended_up
-- The one ended first first.
SELECT {run_facts}
FROM stepwell_runs INDEXED BY stepwell_runs_by_end
WHERE ended_at IS NOT NULL AND ended_at <= ifnull(?16, 9223372036854775807) AND ended_at >= max(ifnull(?15, 0), ifnull(?19, 0))
    AND {matches} AND (?19 IS NULL OR (ended_at, key) > (?19, ?8))
ORDER BY ended_at, key LIMIT ?9;

-- name: runs_listed_among
-- Of the runs with the keys ?20, a JSON array: in the order ?21, 'created' (which is that of keys), 'started' or 'ended', with
-- ?22 = -1 the last first. Of those that have no such time, none.
SELECT {run_facts}
FROM stepwell_runs
WHERE key IN (SELECT value FROM json_each(?20)) AND {matches} AND {in_order} IS NOT NULL
    AND (?19 IS NULL OR ({in_order} * ?22, key * ?22) > (?19 * ?22, ?8 * ?22))
ORDER BY {in_order} * ?22, key * ?22 LIMIT ?9;

-- name: runs_listed_by_id
-- The key of the one run that has an id, if it matches.
SELECT key FROM stepwell_runs WHERE id = ?12 AND {matches} AND ?8 IS NOT NULL LIMIT ?9;

-- Below, the keys of the runs that one index says match one condition, at most so many: who asks wants to know whether they
-- are few. The last parameter is how many.

-- name: keys_by_status
-- ?1 status.
SELECT key FROM stepwell_runs
WHERE status = ?1 AND (status = 'pending' OR status = 'halted' OR status = 'failed') LIMIT ?2;

-- name: keys_cancelled
-- ?1 'cancelled'.
SELECT key FROM stepwell_runs INDEXED BY stepwell_runs_cancelled
WHERE status = 'cancelled' AND ?1 = 'cancelled' LIMIT ?2;

-- name: keys_unwell
-- ?1 workflow, ?2 'failed' or 'cancelled'.
SELECT key FROM stepwell_runs INDEXED BY stepwell_runs_unwell
WHERE workflow = ?1 AND status = ?2 AND (status = 'failed' OR status = 'cancelled') LIMIT ?3;

-- name: keys_paused
-- ?1 'paused'.
SELECT key FROM stepwell_runs INDEXED BY stepwell_runs_paused WHERE status = ?1 AND paused = 1 LIMIT ?2;

-- name: keys_in_memory
-- ?1 a status of runs that a worker has in memory. Those that are, at most as many as workers take.
SELECT key FROM stepwell_runs INDEXED BY stepwell_runs_by_owner WHERE owner IS NOT NULL AND status = ?1 LIMIT ?2;

-- name: keys_parked
-- ?1 'waiting'. Those that wait in no memory.
SELECT key FROM stepwell_runs INDEXED BY stepwell_runs_parked WHERE status = 'waiting' AND owner IS NULL AND ?1 = 'waiting' LIMIT ?2;

-- name: keys_by_workflow
-- ?1 workflow.
SELECT key FROM stepwell_runs INDEXED BY stepwell_runs_by_workflow WHERE workflow = ?1 LIMIT ?2;

-- name: keys_by_queue
-- ?1 queue.
SELECT key FROM stepwell_runs INDEXED BY stepwell_runs_by_queue WHERE queue = ?1 LIMIT ?2;

-- name: keys_by_parent
-- ?1 parent.
SELECT key FROM stepwell_runs INDEXED BY stepwell_runs_by_parent WHERE parent = ?1 LIMIT ?2;

-- name: prefix_counted
-- ?1 id at least, ?2 id below, ?3 limit. How many there are, as far as the limit.
SELECT count(*) FROM (SELECT 1 FROM stepwell_runs WHERE id >= ?1 AND id < ?2 LIMIT ?3);

-- name: keys_by_prefix
-- ?1 id at least, ?2 id below.
SELECT key FROM stepwell_runs WHERE id >= ?1 AND id < ?2 LIMIT ?3;

-- name: keys_created
-- ?1 after, ?2 before.
SELECT key FROM stepwell_runs INDEXED BY stepwell_runs_by_creation WHERE created_at > ?1 AND created_at < ?2 LIMIT ?3;

-- name: keys_started
-- ?1 since, ?2 before.
SELECT key FROM stepwell_runs INDEXED BY stepwell_runs_by_start
WHERE started_at IS NOT NULL AND started_at >= ?1 AND started_at < ?2 LIMIT ?3;

-- name: keys_ended
-- ?1 since, ?2 before.
SELECT key FROM stepwell_runs INDEXED BY stepwell_runs_by_end
WHERE ended_at IS NOT NULL AND ended_at >= ?1 AND ended_at < ?2 LIMIT ?3;

-- name: keys_by_tag
-- ?1 tag.
SELECT run FROM stepwell_tags WHERE tag = ?1 LIMIT ?2;

-- name: keys_with_value
-- ?1 name of an attribute, ?2 kind, ?3 value.
SELECT run FROM stepwell_attributes WHERE name = ?1 AND kind = ?2 AND value = ?3 LIMIT ?4;

-- name: keys_with_values
-- ?1 name of an attribute, ?2 kind, ?3 at least, ?4 at most.
SELECT run FROM stepwell_attributes WHERE name = ?1 AND kind = ?2 AND value >= ?3 AND value <= ?4 LIMIT ?5;

-- Counts. Those `among` have the keys of runs, a JSON array, as ?19.

-- name: runs_counted
-- How many runs match; the limit counts.
SELECT count(*) FROM (SELECT 1 FROM stepwell_runs WHERE {matches} AND key < ?8 LIMIT ?9);

-- name: runs_counted_among
-- The same of the runs with these keys.
SELECT min(count(*), ?9) FROM stepwell_runs WHERE key IN (SELECT value FROM json_each(?19)) AND {matches} AND key < ?8;

-- name: runs_counted_by_status
-- How many of the runs that match are of each status; no limit.
SELECT status, count(*) FROM stepwell_runs
WHERE {matches} AND key < ?8 AND ?9 IS NOT NULL
GROUP BY 1 ORDER BY 1;

-- name: runs_counted_by_status_among
-- The same of the runs with these keys.
SELECT status, count(*) FROM stepwell_runs
WHERE key IN (SELECT value FROM json_each(?19)) AND {matches} AND key < ?8 AND ?9 IS NOT NULL
GROUP BY 1 ORDER BY 1;

-- name: runs_counted_by_workflow
-- How many of the runs that match are of each workflow; no limit.
SELECT workflow, count(*) FROM stepwell_runs
WHERE {matches} AND key < ?8 AND ?9 IS NOT NULL
GROUP BY 1 ORDER BY 1;

-- name: runs_counted_by_workflow_among
-- The same of the runs with these keys.
SELECT workflow, count(*) FROM stepwell_runs
WHERE key IN (SELECT value FROM json_each(?19)) AND {matches} AND key < ?8 AND ?9 IS NOT NULL
GROUP BY 1 ORDER BY 1;

-- name: runs_counted_by_queue
-- How many of the runs that match are of each queue; no limit.
SELECT coalesce(queue, ''), count(*) FROM stepwell_runs
WHERE {matches} AND key < ?8 AND ?9 IS NOT NULL
GROUP BY 1 ORDER BY 1;

-- name: runs_counted_by_queue_among
-- The same of the runs with these keys.
SELECT coalesce(queue, ''), count(*) FROM stepwell_runs
WHERE key IN (SELECT value FROM json_each(?19)) AND {matches} AND key < ?8 AND ?9 IS NOT NULL
GROUP BY 1 ORDER BY 1;

-- name: all_counted_by_status
-- All runs of the file: by the indexes of those states whose runs are few, the rest is completed.
WITH few (status, runs) AS (
    SELECT status, count(*) FROM stepwell_runs
    WHERE status = 'pending' OR status = 'halted' OR status = 'failed' GROUP BY 1
    UNION ALL SELECT 'cancelled', count(*) FROM stepwell_runs WHERE status = 'cancelled'
    UNION ALL SELECT status, count(*) FROM stepwell_runs WHERE paused = 1 AND status = 'paused' GROUP BY 1
    UNION ALL SELECT status, count(*) FROM stepwell_runs WHERE owner IS NOT NULL GROUP BY 1
    UNION ALL SELECT 'waiting', count(*) FROM stepwell_runs INDEXED BY stepwell_runs_parked
    WHERE status = 'waiting' AND owner IS NULL
)
SELECT status, sum(runs) FROM (
    SELECT status, runs FROM few
    UNION ALL
    SELECT 'completed', (SELECT count(*) FROM stepwell_runs) - (SELECT coalesce(sum(runs), 0) FROM few)
) GROUP BY 1 HAVING sum(runs) > 0 ORDER BY 1;

-- name: all_counted_by_workflow
-- All runs of the file.
SELECT workflow, count(*) FROM stepwell_runs INDEXED BY stepwell_runs_by_workflow GROUP BY 1 ORDER BY 1;

-- name: all_counted_by_queue
-- All runs of the file.
WITH queued (queue, runs) AS (
    SELECT queue, count(*) FROM stepwell_runs INDEXED BY stepwell_runs_by_queue WHERE queue IS NOT NULL GROUP BY 1
)
SELECT queue, runs FROM (
    SELECT '' AS queue, (SELECT count(*) FROM stepwell_runs) - (SELECT coalesce(sum(runs), 0) FROM queued) AS runs
    UNION ALL SELECT queue, runs FROM queued
) WHERE runs > 0 ORDER BY 1;

-- name: key_created_before
-- ?1 when: the last run that was created before.
SELECT key FROM stepwell_runs WHERE created_at < ?1 ORDER BY created_at DESC LIMIT 1;
