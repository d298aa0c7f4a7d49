-- The SQL of pausing runs. Read by `named_sql`; used by `pauses`. Times are microseconds since the Unix epoch.

-- name: family
-- ?1 id of a run, ?2 1 with the children that have not ended, theirs, and so on. The run stands first.
WITH RECURSIVE family (key, depth) AS (
    SELECT key, 0 FROM stepwell_runs WHERE id = ?1
    UNION ALL
    SELECT run.key, depth + 1 FROM family JOIN stepwell_runs AS run ON run.parent = family.key
    WHERE ?2 = 1 AND run.ended_at IS NULL
)
SELECT {run_facts} FROM family CROSS JOIN stepwell_runs USING (key) ORDER BY depth, key;

-- name: run_paused
-- ?1 run, ?2 at. One that is in a worker's memory is paused by that worker, when its steps under way have ended.
UPDATE stepwell_runs SET
    paused = 1, updated_at = ?2,
    status = iif(owner IS NULL, 'paused', status), wake_at = iif(owner IS NULL, NULL, wake_at)
WHERE key = ?1;

-- name: run_unpaused
-- ?1 run, ?2 at.
UPDATE stepwell_runs SET
    paused = 0, updated_at = ?2, reason = NULL,
    waiting_on = iif(status = 'paused', NULL, waiting_on), halted_by = iif(status = 'paused', NULL, halted_by),
    status = iif(status = 'paused', 'pending', status)
WHERE key = ?1;

-- name: paused_children
-- ?1 parent. Those that are cancelled with it.
SELECT {run_facts} FROM stepwell_runs WHERE parent = ?1 AND attached = 1 AND paused = 1;

-- name: entry_paused
-- ?1 run. It keeps its place in the line; one that collects inputs collects no more. Returns how it stood.
UPDATE stepwell_entries SET state = 'paused', items = NULL
WHERE run = ?1 AND op = 0 AND (state = 'waiting' OR state = 'delayed')
RETURNING queue, partition, workflow, place;

-- name: entry_unpaused
-- ?1 run, ?2 state, ?3 place.
UPDATE stepwell_entries SET state = ?2, place = ?3 WHERE run = ?1 AND op = 0 AND state = 'paused';

-- name: paused_entry
-- ?1 run.
SELECT queue, partition, workflow, place, ready_at FROM stepwell_entries WHERE run = ?1 AND op = 0 AND state = 'paused';
